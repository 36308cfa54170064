"""What a worker does with its jobs where no scenario can aim: it is told to go, or Redis forgets, between two steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from relay import settings
from relay.errors import StorageError
from relay.redis.pubsub.subscriber import ChannelListener
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.queue.queue import Queue
from relay.store.session.replies import Admitted, Claim, ClaimRefused
from relay.store.session.session_log import SessionLog
from relay_workers.consumer import Consumer
from relay_workers.limits import consumer_limits
from relay_workers.providers.base import Part, Prompt, Text
from tests.store.in_memory import (
    LEASE_MS,
    SESSION_TTL_S,
    TRIM_AFTER_S,
    claimed,
    job_of,
    next_job,
    queue_on,
    redis_in_memory,
    session_log_on,
)
from tests.workers.alone import alone


class Silence:
    """A control channel on which nobody speaks."""

    async def subscribe(self, channel: str, listener: ChannelListener) -> None: ...

    def unsubscribe(self, channel: str, listener: ChannelListener) -> None: ...


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
            Consumer(log, queue, Silence(), alone(provider), "default", consumer_limits(impatient)).run(
                stopping, asyncio.Event()
            )
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
            Consumer(log, queue, Silence(), alone(provider), "default", consumer_limits(one)).run(
                stopping, asyncio.Event()
            )
        )
        async with asyncio.timeout(10):
            while await queue.has_job("default", "s", "g1"):  # noqa: ASYNC110
                await asyncio.sleep(0)
            stopping.set()
            await running
        assert await queue.sizes("default") == (0, 1)
        assert not provider.asked.is_set()


# Told to go in the middle of a step: its reply is still on its way


class LateTake(Queue):
    """What has been handed out is heard of only once `heard` is set."""

    def __init__(self, redis: Redis, fails: bool = False) -> None:
        super().__init__(redis, redis, Keys("t"), max_backlog=9, ttl_s=SESSION_TTL_S, trim_after_s=TRIM_AFTER_S)
        self.handed_out, self.heard, self.fails = asyncio.Event(), asyncio.Event(), fails

    async def take(self, queue: str, most: int = 1) -> list[Job]:
        jobs = await super().take(queue, most)
        self.handed_out.set()
        await self.heard.wait()
        if self.fails:
            raise StorageError("its reply was lost")
        return jobs


class Log(SessionLog):
    """What is before or after a step happens once; what was claimed is heard of only once `heard` is set."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, redis, Keys("t"), session_ttl_s=SESSION_TTL_S, max_generations=9, max_requests=9)
        self.before_admit: list[Callable[[], Awaitable[object]]] = []
        self.after_admit: list[Callable[[], Awaitable[object]]] = []
        self.after_claim: list[Callable[[], Awaitable[object]]] = []
        self.claimed, self.heard = asyncio.Event(), asyncio.Event()
        self.heard.set()

    async def admit(self, job: Job) -> Admitted | None:
        if self.before_admit:
            await self.before_admit.pop()()
        admitted = await super().admit(job)
        if self.after_admit:
            await self.after_admit.pop()()
        return admitted

    async def claim(self, *arguments: Any) -> Claim | ClaimRefused:
        claim = await super().claim(*arguments)
        if self.after_claim:
            await self.after_claim.pop()()
        self.claimed.set()
        await self.heard.wait()
        return claim


@asynccontextmanager
async def working(log: SessionLog, queue: Queue) -> AsyncIterator[tuple[Endless, Callable[..., Awaitable[None]]]]:
    """A worker in the midst of its work, and how to tell it to go at once, until it has come so far."""
    provider, stopping, at_once = Endless(), asyncio.Event(), asyncio.Event()

    async def leave(so_far: Callable[[Consumer], bool] = lambda _: True) -> None:
        stopping.set()
        at_once.set()
        while not so_far(consumer):  # noqa: ASYNC110
            await asyncio.sleep(0)
        await turns()

    consumer = Consumer(
        log, queue, Silence(), alone(provider), "default", consumer_limits(settings.load(concurrency=4))
    )
    running = asyncio.create_task(consumer.run(stopping, at_once))
    async with asyncio.timeout(10):
        yield provider, leave
        await leave()
        await running


async def turns() -> None:
    """Whoever can go on has gone on."""
    for _ in range(50):
        await asyncio.sleep(0)


def takes_no_more(consumer: Consumer) -> bool:
    return consumer._draining


def gives_back(consumer: Consumer) -> bool:
    return consumer._handing_over


async def test_what_a_take_has_brought_as_its_worker_goes_is_there_for_the_next_at_once() -> None:
    async with redis_in_memory() as redis:
        log, queue, late = session_log_on(redis), queue_on(redis), LateTake(redis)
        names = [f"g{number}" for number in range(3)]
        for name in names:
            await queue.enqueue(job_of(name), 1000)
            await log.admit(job_of(name))
        async with working(log, late) as (_, leave):
            await late.handed_out.wait()
            await leave(takes_no_more)
            late.heard.set()
        assert [job.generation for job in await queue.take("default", 8)] == names
        for name in names:
            await claimed(log, job_of(name), "w2")


async def test_a_worker_goes_also_if_it_never_hears_what_it_has_taken() -> None:
    async with redis_in_memory() as redis:
        queue, late = queue_on(redis), LateTake(redis, fails=True)
        await queue.enqueue(job_of(), 1000)
        async with working(session_log_on(redis), late) as (_, leave):
            await late.handed_out.wait()
            await leave(takes_no_more)
            late.heard.set()
        assert await queue.requeue("default", "s", "g1", 0) == "requeued"  # as a reaper does


async def test_what_was_claimed_as_its_worker_goes_is_given_back_and_no_worker_is_lost() -> None:
    async with redis_in_memory() as redis:
        log, queue = Log(redis), queue_on(redis)
        log.heard.clear()
        await queue.enqueue(job_of(), 1000)
        await log.admit(job_of())
        async with working(log, queue) as (_, leave):
            await log.claimed.wait()
            await leave(gives_back)
            log.heard.set()
        standing = await log.generation_fields("s", "g1")
        assert standing is not None
        assert standing["claims"] == standing["handed"] == "1"
        assert await next_job(queue) == job_of()
        assert isinstance(await session_log_on(redis).claim("s", "g1", "w2", LEASE_MS, 0), Claim)


async def test_a_job_that_is_admitted_as_its_worker_goes_is_not_claimed() -> None:
    async with redis_in_memory() as redis:
        log, queue, here, on = Log(redis), queue_on(redis), asyncio.Event(), asyncio.Event()

        async def meanwhile() -> None:
            here.set()
            await on.wait()

        log.before_admit.append(meanwhile)
        await queue.enqueue(job_of(), 1000)
        async with working(log, queue) as (_, leave):
            await here.wait()
            await leave(gives_back)
            on.set()
        standing = await log.generation_fields("s", "g1")
        assert standing is not None
        assert "claims" not in standing
        assert await next_job(queue) == job_of()


# Redis forgets everything between two steps


async def test_a_job_that_redis_loses_between_take_and_admit_has_a_row_while_it_runs() -> None:
    """Should this worker die now, a reaper finds it."""
    async with redis_in_memory() as redis:
        log, queue = Log(redis), queue_on(redis)
        log.before_admit.append(redis.flushall)
        await queue.enqueue(job_of(), 1000)
        async with working(log, queue) as (provider, _):
            await provider.asked.wait()
            while not await queue.has_job("default", "s", "g1"):  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert await queue.names() == ["default"]
            assert (await queue.take("default", 8)) == []  # a row, and nothing for others to take
            assert all([await redis.pttl(key) > 0 for key in await redis.keys()])


async def test_a_job_that_redis_loses_between_admit_and_claim_is_made_and_has_a_row() -> None:
    async with redis_in_memory() as redis:
        log, queue = Log(redis), queue_on(redis)
        log.after_admit.append(redis.flushall)
        await queue.enqueue(job_of(), 1000)
        async with working(log, queue) as (provider, _):
            await provider.asked.wait()
            while not await queue.has_job("default", "s", "g1"):  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert await next_job(queue) == job_of()


async def test_a_row_is_put_back_though_redis_fails_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay_workers.generation._RETRY_S", 0)
    async with redis_in_memory() as redis:
        log, queue = Log(redis), queue_on(redis)
        log.before_admit.append(redis.flushall)
        announce, failures = queue.announce, [StorageError("away")]

        async def fails_at_first(name: str) -> bool:
            if failures:
                raise failures.pop()
            return await announce(name)

        monkeypatch.setattr(queue, "announce", fails_at_first)
        await queue.enqueue(job_of(), 1000)
        async with working(log, queue) as (provider, _):
            await provider.asked.wait()
            while not await queue.has_job("default", "s", "g1"):  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert await queue.names() == ["default"]


@pytest.mark.parametrize("lost", ["after_admit", "after_claim"])
async def test_a_job_that_redis_has_lost_has_a_row_also_if_the_first_reply_to_its_worker_is_lost(
    lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again, Redis knows the answer: nothing says any more who made it."""
    monkeypatch.setattr("relay_workers.consumer._RETRY_S", 0)

    async def reply_is_lost() -> None:
        raise StorageError("its reply was lost")

    async with redis_in_memory() as redis:
        log, queue = Log(redis), queue_on(redis)
        log.before_admit.append(redis.flushall)
        getattr(log, lost).append(reply_is_lost)
        await queue.enqueue(job_of(), 1000)
        async with working(log, queue) as (provider, _):
            await provider.asked.wait()
            while not await queue.has_job("default", "s", "g1"):  # noqa: ASYNC110
                await asyncio.sleep(0)
