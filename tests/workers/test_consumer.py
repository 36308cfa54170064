"""What a worker does with its jobs where no scenario can aim: Redis forgets everything as the worker leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from relay import settings
from relay.log.keys import Keys
from relay.log.subscription import Listener
from tests.log.in_memory import job_of, next_job, queue_on, redis_in_memory, session_log_on
from tests.workers.alone import alone
from workers.consumer import Consumer
from workers.providers.base import Part, Prompt, Text


class Silence:
    """A control channel on which nobody speaks."""

    async def subscribe(self, channel: str, listener: Listener) -> None: ...

    def unsubscribe(self, channel: str, listener: Listener) -> None: ...


class Endless:
    name = "endless"
    model = "endless"
    first_token_s: float | None = None

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def check(self) -> None: ...

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        yield Text("on and on")
        self.asked.set()
        await asyncio.Event().wait()

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("lost", [True, False])
async def test_a_worker_that_leaves_hands_its_job_over_even_if_redis_has_lost_it(lost: bool) -> None:
    async with redis_in_memory() as redis:
        log, queue, provider, stopping = session_log_on(redis), queue_on(redis), Endless(), asyncio.Event()
        await queue.announce("default")
        await queue.enqueue(job_of(), 1000)
        impatient = settings.load(grace_s=0.01, concurrency=1)
        running = asyncio.create_task(
            Consumer(log, queue, Silence(), alone(provider), "default", impatient).run(stopping, asyncio.Event())
        )
        async with asyncio.timeout(10):
            await provider.asked.wait()
            while not await redis.exists(log.keys.generation("s", "g1", "text")):  # noqa: ASYNC110
                await asyncio.sleep(0)
            if lost:
                await redis.flushall()
            stopping.set()
            await running
        assert await next_job(queue) == job_of()
        assert await queue.names() == ["default"]
        assert await redis.exists(Keys("t").queue("default")) == 1


async def test_a_worker_that_finds_a_dead_answer_tidies_up_and_keeps_its_letter() -> None:
    """The reaper that ended it died before it could; the entry was there once more, as Redis had lost the group."""
    async with redis_in_memory() as redis:
        log, queue, provider, stopping = session_log_on(redis), queue_on(redis), Endless(), asyncio.Event()
        await queue.enqueue(job_of(), 1000)
        await log.admit(job_of())
        await log.reap("s", "g1", "0", b"{}", "worker_lost")
        one = settings.load(concurrency=1)
        running = asyncio.create_task(
            Consumer(log, queue, Silence(), alone(provider), "default", one).run(stopping, asyncio.Event())
        )
        async with asyncio.timeout(10):
            while await queue.knows("default", "s", "g1"):  # noqa: ASYNC110
                await asyncio.sleep(0)
            stopping.set()
            await running
        assert await queue.sizes("default") == (0, 1)
        assert not provider.asked.is_set()
