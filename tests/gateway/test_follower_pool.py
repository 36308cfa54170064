"""The hub: followers are lent out, and go when nobody and nothing needs them any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from relay.auth.identity import UNRESTRICTED
from relay.errors import ClientError
from relay.follow.follower import Follower
from relay.gateway import follower_pool as hub_module
from relay.gateway.follower_pool import FollowerPool
from relay.gateway.waiting import until_ended
from relay.protocol.words import Cursor
from tests.follow.following import Stage
from tests.scenarios.processes import TIMEOUT_S, until
from tests.store.in_memory import Clock, redis_in_memory, session_log_on


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    Clock().install(monkeypatch)
    async with redis_in_memory() as redis:
        yield Stage(redis, session_log_on(redis))


async def missing(stage: Stage, hub: FollowerPool) -> Follower:
    """The session's follower, given back; an answer that it has shown is lost."""
    follower = await hub.acquire("s", access=UNRESTRICTED)
    await stage.tokens("a")
    await follower.sync()
    await stage.redis.flushall()
    await follower.sync()
    assert follower.missing
    hub.release(follower)
    return follower


async def test_a_follower_that_stays_because_of_what_is_missing_costs_no_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LEAVE_EVERY_S", 0.05)
    hub = FollowerPool(lambda _: stage.follower, stage.log.own, linger_s=0)
    asked: list[str] = []

    def leave(session: str, entry: hub_module._Entry) -> None:
        asked.append(session)
        FollowerPool._leave(hub, session, entry)

    monkeypatch.setattr(hub, "_leave", leave)
    follower = await missing(stage, hub)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(asked) <= 2
    assert await stage.log.bury("s", "g1", 1, b"{}")
    await follower.sync()
    await until(lambda: stage.source.listener is None, "its end")
    await hub.aclose()


async def test_a_follower_whose_session_was_deleted_does_not_stay_because_of_what_is_missing(stage: Stage) -> None:
    hub = FollowerPool(lambda _: stage.follower, stage.log.own, linger_s=0.01)
    follower = await missing(stage, hub)
    await stage.log.delete("s", 60_000)
    await follower.sync()
    await until(lambda: stage.source.listener is None, "its end")
    await hub.aclose()


async def test_who_waits_for_an_answer_of_a_session_that_is_deleted_hears_so_whatever_pub_sub_lost(
    stage: Stage,
) -> None:
    hub = FollowerPool(lambda _: stage.follower, stage.log.own, linger_s=0.01)
    await stage.tokens("a")
    follower = await hub.acquire("s", access=UNRESTRICTED)
    assert "g1" in follower.active
    gateway = SimpleNamespace(followers=hub, session_log=stage.log, draining=asyncio.Event())
    waiting = asyncio.create_task(until_ended(gateway, "s", "g1", 30, asyncio.Event().wait, UNRESTRICTED))  # type: ignore[arg-type]
    await until(lambda: bool(follower.broadcast.viewers), "it waits")
    await stage.log.delete("s", 60_000)
    await follower.sync()
    with pytest.raises(ClientError, match="deleted"):
        await asyncio.wait_for(waiting, TIMEOUT_S)
    hub.release(follower)
    await hub.aclose()


@pytest.mark.parametrize("brings", ["nothing", "a cursor", "the very beginning"])
async def test_who_comes_after_a_delete_elsewhere_is_not_lent_the_follower_of_what_was_deleted(
    stage: Stage, brings: str
) -> None:
    """Its hint is on its way, or was lost; the one who deleted has his answer already, and so may everybody."""
    hub = FollowerPool(stage.another, stage.log.own, linger_s=10)
    await stage.tokens("private")
    watching = await hub.acquire("s", access=UNRESTRICTED)
    cursor = {
        "nothing": None,
        "a cursor": Cursor(watching.epoch, watching.frontier),
        "the very beginning": Cursor(watching.epoch, 0),
    }
    await stage.log.delete("s", 60_000)
    lent = await hub.acquire("s", cursor[brings], access=UNRESTRICTED)
    assert lent is not watching
    assert watching.deleted
    assert (lent.frontier, lent.active) == (0, {})
    hub.release(watching)
    hub.release(lent)
    await hub.aclose()


async def test_an_answer_deleted_elsewhere_after_its_epoch_had_changed_unseen_is_missed_no_more(stage: Stage) -> None:
    """Nobody may bring it back: its mark is there."""
    stage.follower.missing.__init__(0.2)  # type: ignore[misc]  # soon over
    hub = FollowerPool(lambda _: stage.follower, stage.log.own, linger_s=0.01)
    await stage.tokens("a")
    follower = await hub.acquire("s", access=UNRESTRICTED)
    viewer = stage.viewer()
    await viewer.reaches(3)
    await stage.log.rotate("s", follower.epoch, missing=False)
    await stage.log.delete("s", 60_000)
    await stage.log.open("s")  # somebody has begun a new session of that name
    await follower.sync()
    await until(lambda: follower.deleted or not follower.missing, "nothing is missing")
    await until(lambda: follower.deleted or not follower.degraded, "it is restored")
    await viewer.leave()
    hub.release(follower)
    await until(lambda: stage.source.listener is None, "its end")
    await hub.aclose()
