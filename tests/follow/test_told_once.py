"""What an outage, a broken session or a bug leaves in the log: a line of each kind, however many meet it, or often."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from relay import logging
from relay.errors import StorageError
from relay.failure_messages import FailureMessages
from relay.follow import follower as follower_module
from relay.follow import visibility
from relay.follow.follower import Follower
from relay.follow.page_cache import PageCache
from relay.store import requirements
from relay.store.queue.policy import QueuePolicy
from relay.store.queue.queue import Queue
from relay.store.queue.reaper import Reaper
from relay.store.requirements import RequirementsMonitor
from relay.store.session.session_log import SessionLog
from tests.follow.following import LOST, Hearsay, Read, Recorder, no_orphans
from tests.scenarios.processes import until
from tests.store.in_memory import LEASE_MS, Clock, job_of

MANY = 20
POLICY = QueuePolicy(LEASE_MS, 60_000, 3)


def levels(lines: list[MutableMapping[str, Any]], event: str) -> list[object]:
    """Those that an operator sees."""
    return [line["log_level"] for line in lines if line["event"] == event and line["log_level"] != "debug"]


async def test_sessions_that_redis_refuses_to_read_are_one_line_for_all_rounds(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock
) -> None:
    for number in range(MANY):
        job = job_of(f"g{number}", session=f"s{number}")
        assert await queue.enqueue(job, POLICY.look_ms)
        await redis.set(session_log.keys.session(job.session), "no hash")
    reaper = Reaper(session_log, queue, policy=POLICY, sentences=FailureMessages("Sorry.", {}))
    with capture_logs() as lines:
        for _ in range(3):
            clock.advance(ms=POLICY.look_ms + 1)
            await reaper.sweep("default")
    refused = [line for line in lines if line["event"] == "look_refused"]
    assert len(refused) == 3 * MANY
    assert levels(refused, "look_refused") == ["warning"]


async def test_a_look_at_redis_that_always_breaks_is_one_error_and_its_end_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requirements, "RETRY_S", 0.001)
    monkeypatch.setattr(requirements, "CHECK_EVERY_S", 0.001)
    looks = 0

    async def look(self: RequirementsMonitor) -> None:
        nonlocal looks
        looks += 1
        if looks <= 5:
            raise ValueError("a bug")

    monkeypatch.setattr(RequirementsMonitor, "check_once", look)
    with capture_logs() as lines:
        watching = asyncio.create_task(RequirementsMonitor(Redis(), "t").watch())
        await until(lambda: looks > 6, "it has looked on")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert levels(lines, "fitness_failed") == ["error"]
    assert [line["failures"] for line in lines if line["event"] == "recovered"] == [5]


class Now:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    """The clock of what is told, of which nothing was yet; followers are quick to look again."""
    now = Now()
    monkeypatch.setattr(follower_module, "_RETRY_S", (0.001, 0.002))
    monkeypatch.setattr(visibility, "DEGRADED_AFTER_S", 0.01)
    monkeypatch.setattr(follower_module._sync_failures, "_clock", now)
    monkeypatch.setattr(follower_module._sync_failures, "_failures", 0)
    for name, event in (("_degraded", "degraded"), ("_restored", "restored"), ("_reloaded", "session_began_anew")):
        monkeypatch.setattr(follower_module, name, logging.RateLimitedLog(follower_module.logger, event, clock=now))
    return now


def followers_of(log: SessionLog, count: int = MANY) -> list[Follower]:
    shelf = PageCache(1_000_000)
    return [
        Follower(
            f"s{number}",
            log,
            Hearsay(),
            shelf,
            window_bytes=4096,
            max_frame_bytes=65536,
            lost_after_s=60,
            lost_members=LOST,
            orphaned=no_orphans,
        )
        for number in range(count)
    ]


class Broken(Read):
    """Its reads fail as long as there is a `failure`."""

    failure: Exception | None = None

    async def range(self, *arguments: object, **named: object) -> object:  # type: ignore[override]  # passed on
        if self.failure is not None:
            raise self.failure
        return await super().range(*arguments, **named)  # type: ignore[arg-type]


async def test_an_outage_that_many_followers_meet_is_a_line_of_each_kind(redis: Redis, now: Now) -> None:
    log = Broken(redis)
    followers = followers_of(log)
    viewers: list[Recorder] = []
    for follower in followers:
        await follower.start()
        viewers.append(viewer := Recorder(follower))
        viewer.join(None)
    with capture_logs() as lines:
        log.failure = StorageError("away")
        for follower in followers:
            follower.lost()
        await until(lambda: all(viewer.told == ["degraded"] for viewer in viewers), "everybody is told")
        log.failure = None
        await until(lambda: all(viewer.told == ["degraded", "restored"] for viewer in viewers), "it is over for all")
        now.s += 20
        followers[0].lost()
        await until(lambda: any(line["event"] == "recovered" for line in lines), "that is told")
    for event, level in (("look_failed", "warning"), ("degraded", "warning"), ("restored", "info")):
        assert levels(lines, event) == [level]
    assert [line["what"] for line in lines if line["event"] == "recovered"] == ["look_failed"]
    for viewer in viewers:
        await viewer.leave()
    for follower in followers:
        await follower.aclose()


@pytest.mark.usefixtures("now")
async def test_a_loss_that_many_followers_find_is_a_line_with_the_first_of_them(redis: Redis) -> None:
    followers = followers_of(Read(redis))
    for follower in followers:
        await follower.start()
    await redis.flushall()
    with capture_logs() as lines:
        for follower in followers:
            await follower.sync()
    assert levels(lines, "session_began_anew") == ["warning"]
    assert sum(line["event"] == "session_began_anew" for line in lines) == MANY
    for follower in followers:
        await follower.aclose()


@pytest.mark.usefixtures("now")
async def test_a_bug_that_a_follower_meets_again_and_again_is_one_error(redis: Redis) -> None:
    log = Broken(redis)
    (follower,) = followers_of(log, 1)
    await follower.start()
    with capture_logs() as lines:
        log.failure = ValueError("a bug")
        follower.lost()
        await until(lambda: sum(line["event"] == "follower_failed" for line in lines) > 3, "it has tried on")
        log.failure = None
        await until(lambda: any(line["event"] == "recovered" for line in lines), "its end is told")
    assert levels(lines, "follower_failed") == ["error"]
    await follower.aclose()
