"""What a worker says of its queue: that it lives, until it is to go."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from relay.errors import StorageError
from relay_workers import queue_heartbeat as serving_module
from relay_workers.queue_heartbeat import QueueHeartbeat
from tests.store.in_memory import queue_on, redis_in_memory


class Away:
    """A queue that fails with `away`; counts what it is told."""

    def __init__(self) -> None:
        self.away: Exception | None = None
        self.said = 0
        self.asked = asyncio.Condition()

    async def serve(self, name: str) -> None:
        async with self.asked:
            self.said += self.away is None
            self.asked.notify_all()
        if self.away is not None:
            raise self.away

    async def until_said(self, times: int) -> None:
        async with asyncio.timeout(20), self.asked:
            await self.asked.wait_for(lambda: self.said >= times)


async def test_it_says_so_again_and_again_and_no_more_once_it_is_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "HEARTBEAT_EVERY_S", 0.01)
    queue, stopping = Away(), asyncio.Event()
    keeping = asyncio.create_task(QueueHeartbeat(queue, "default", stopping).keep())  # type: ignore[arg-type]
    await queue.until_said(3)
    stopping.set()
    async with asyncio.timeout(20):
        await keeping
    assert not QueueHeartbeat(queue, "default", stopping).is_late  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "told"),
    [(StorageError("away"), ("serve_failed", "warning")), (ValueError("a bug"), ("serving_failed", "error"))],
)
async def test_what_goes_wrong_ends_nothing_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: tuple[str, str]
) -> None:
    monkeypatch.setattr(serving_module, "HEARTBEAT_EVERY_S", 0.01)
    queue, stopping = Away(), asyncio.Event()
    queue.away = error
    with capture_logs() as lines:
        serving = QueueHeartbeat(queue, "default", stopping)  # type: ignore[arg-type]
        for _ in range(3):
            await serving.send()
        queue.away = None
        await serving.send()
    lines = [line for line in lines if line["log_level"] != "debug"]
    assert [(line["event"], line["log_level"]) for line in lines] == [told, ("recovered", "info")]
    assert queue.said == 1


async def test_what_it_says_expires_and_is_of_redis_time() -> None:
    async with redis_in_memory() as redis:
        await QueueHeartbeat(queue_on(redis), "default", asyncio.Event()).send()
        assert await queue_on(redis).silent_ms("default") < 60_000
        assert await _ttl_ms(redis) > 0


async def _ttl_ms(redis: Redis) -> int:
    return int(await redis.pttl("t:q:{default}:served"))
