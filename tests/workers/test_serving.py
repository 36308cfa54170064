"""What a worker says of its queue: that it lives, until it is to go."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from relay.errors import StorageError
from tests.log.in_memory import queue_on, redis_in_memory
from workers import serving as serving_module
from workers.serving import Serving


class Away:
    """A queue that Redis does not answer for while `away`; counts what it is told."""

    def __init__(self) -> None:
        self.away = False
        self.said = 0
        self.asked = asyncio.Condition()

    async def serve(self, name: str) -> None:
        async with self.asked:
            self.said += not self.away
            self.asked.notify_all()
        if self.away:
            raise StorageError("away")

    async def until_said(self, times: int) -> None:
        async with asyncio.timeout(20), self.asked:
            await self.asked.wait_for(lambda: self.said >= times)


async def test_it_says_so_again_and_again_and_no_more_once_it_is_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "SERVE_S", 0.01)
    queue, stopping = Away(), asyncio.Event()
    keeping = asyncio.create_task(Serving(queue, "default", stopping).keep())  # type: ignore[arg-type]
    await queue.until_said(3)
    stopping.set()
    async with asyncio.timeout(20):
        await keeping
    assert not Serving(queue, "default", stopping).is_late  # type: ignore[arg-type]


async def test_an_outage_ends_nothing_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "SERVE_S", 0.01)
    queue, stopping = Away(), asyncio.Event()
    queue.away = True
    with capture_logs() as lines:
        serving = Serving(queue, "default", stopping)  # type: ignore[arg-type]
        for _ in range(3):
            await serving.say()
        queue.away = False
        await serving.say()
    told = [(line["event"], line["log_level"]) for line in lines if line["log_level"] != "debug"]
    assert told == [("serve_failed", "warning"), ("recovered", "info")]
    assert queue.said == 1


async def test_what_it_says_expires_and_is_of_redis_time() -> None:
    async with redis_in_memory() as redis:
        await Serving(queue_on(redis), "default", asyncio.Event()).say()
        assert await queue_on(redis).silent_ms("default") < 60_000
        assert await _ttl_ms(redis) > 0


async def _ttl_ms(redis: Redis) -> int:
    return int(await redis.pttl("t:q:{default}:served"))
