"""What the tests of the log share: a Redis in memory and its clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from relay.log.queue import Queue
from relay.log.session_log import SessionLog
from tests.log.in_memory import Clock, queue_on, redis_in_memory, session_log_on


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Redis' clock; stands still until it is advanced."""
    clock = Clock()
    clock.install(monkeypatch)
    return clock


@pytest.fixture
async def redis(clock: Clock) -> AsyncIterator[Redis]:
    async with redis_in_memory() as client:
        yield client


@pytest.fixture
def session_log(redis: Redis) -> SessionLog:
    return session_log_on(redis)


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return queue_on(redis)
