"""Many logs read at once: whoever waits for his turn accuses nobody, and when Redis is away everybody is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.errors import StorageError
from relay.follow import visibility
from relay.follow.follower import Follower
from relay.follow.page_cache import PageCache
from relay.store.session.session_log import SessionLog
from tests.follow.following import LOST, Hearsay, Recorder, no_orphans
from tests.scenarios.processes import until
from tests.store.in_memory import session_log_on

MANY = 120
DEGRADED_AFTER_S = 0.2
READ_S = 0.06  # 120 reads, 16 at a time: twice as long as until viewers are told


class Slow:
    """Lets each read take its time, fail, or hang; counts them."""

    def __init__(self, log: SessionLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read_s = 0.0
        self.reads = 0
        self.hang = False
        self.refused = ""  # session
        self._run = log._run
        monkeypatch.setattr(log, "_run", self.run)

    async def run(self, script: Any, session: str, *arguments: Any) -> Any:
        self.reads += 1
        if self.hang:
            await asyncio.Event().wait()
        await asyncio.sleep(self.read_s)
        if session == self.refused:
            raise StorageError("range: WRONGTYPE", refused=True)
        return await self._run(script, session, *arguments)


@pytest.fixture
async def slow(session_log: SessionLog, monkeypatch: pytest.MonkeyPatch) -> Slow:
    monkeypatch.setattr(visibility, "DEGRADED_AFTER_S", DEGRADED_AFTER_S)
    return Slow(session_log, monkeypatch)


@pytest.fixture
async def viewers(slow: Slow, session_log: SessionLog) -> AsyncIterator[list[Recorder]]:
    shelf = PageCache(1_000_000)
    followers = [
        Follower(
            f"s{number}",
            session_log,
            Hearsay(),
            shelf,
            window_bytes=4096,
            max_frame_bytes=1200,
            lost_after_s=60,
            lost_members=LOST,
            orphaned=no_orphans,
        )
        for number in range(MANY)
    ]
    await asyncio.gather(*(follower.start() for follower in followers))
    made = [Recorder(follower) for follower in followers]
    for viewer in made:
        viewer.join()
    yield made
    for viewer in made:
        await viewer.leave()
    await asyncio.gather(*(viewer.follower.aclose() for viewer in made))


def told(viewers: list[Recorder]) -> list[str]:
    return [notice for viewer in viewers for notice in viewer.told]


def a_subscription_connection_is_lost(viewers: list[Recorder]) -> None:
    for viewer in viewers:
        viewer.follower.lost()


async def test_a_subscription_that_is_lost_for_many_sessions_makes_nobody_degraded(
    slow: Slow, viewers: list[Recorder]
) -> None:
    slow.read_s, slow.reads = READ_S, 0
    a_subscription_connection_is_lost(viewers)
    await until(lambda: slow.reads >= MANY, "everybody has looked")
    await asyncio.gather(*(viewer.follower.sync() for viewer in viewers))
    assert told(viewers) == []


async def test_when_redis_hangs_everybody_is_told_and_not_by_turns(slow: Slow, viewers: list[Recorder]) -> None:
    slow.hang, slow.reads = True, 0
    a_subscription_connection_is_lost(viewers)
    await until(lambda: told(viewers) == ["degraded"] * MANY, "everybody is told")
    assert slow.reads < MANY


async def test_a_log_that_alone_cannot_be_read_is_out_of_sight_though_others_are_answered(
    slow: Slow, viewers: list[Recorder]
) -> None:
    slow.refused = "s0"
    others = asyncio.create_task(_keep_looking(viewers[1:]))
    viewers[0].follower.lost()
    await until(lambda: viewers[0].told == ["degraded"], "its viewer is told")
    others.cancel()
    await asyncio.gather(others, return_exceptions=True)
    assert told(viewers) == ["degraded"]


async def _keep_looking(viewers: list[Recorder]) -> None:
    while True:
        for viewer in viewers:
            await viewer.follower.sync()
            await asyncio.sleep(0)


async def test_reads_of_one_log_are_counted_as_answers_of_its_server(redis: Redis) -> None:
    log = session_log_on(redis)
    before = log.answered_at("s")
    await log.open("s")
    assert log.answered_at("s") > before
