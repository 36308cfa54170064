"""A follower whose session gets an owner, or comes back as somebody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from relay.follow import follower as follower_module
from relay.protocol.frames import Active
from relay.store.session.replies import RebuildResult
from relay.store.session.session_log import SessionLog
from tests.follow.following import Recorder, Stage
from tests.scenarios.processes import until
from tests.store.in_memory import LEASE_MS, admitted_and_claimed, answered, job_of

TOMBSTONE_MS = 60_000


@pytest.fixture
async def stage(redis: Redis, session_log: SessionLog) -> AsyncIterator[Stage]:
    stage = Stage(redis, session_log)
    yield stage
    await stage.aclose()


async def shown_to_a(stage: Stage, *texts: str) -> Recorder:
    """A viewer of a session that is that of `a`."""
    await stage.follower.start("a")
    stage.writers["g1"] = await admitted_and_claimed(stage.log, sub="a")
    viewer = stage.viewer()
    await stage.tokens(*texts)
    stage.deliver()
    await viewer.reaches(2 + len(texts))
    return viewer


async def taken_by(stage: Stage, sub: str) -> None:
    await answered(stage.log, job_of("g2", sub=sub, content="private"), "private")


async def owner(stage: Stage) -> str:
    opened = await stage.log.open("s", create=False)
    assert opened is not None
    return opened.sub


async def test_it_makes_the_session_for_whoever_comes_first(stage: Stage) -> None:
    await stage.follower.start("a")
    assert (stage.follower.sub, await owner(stage)) == ("a", "a")


async def test_it_knows_whose_a_session_is_that_it_did_not_make(stage: Stage) -> None:
    await stage.log.own("s", "b", make=True)
    await stage.follower.start("a")
    assert (stage.follower.sub, await owner(stage)) == ("b", "b")


@pytest.mark.parametrize("by", ["submit", "subscribe"])
async def test_a_session_of_nobodys_that_is_claimed_stays_the_same_for_its_viewers(stage: Stage, by: str) -> None:
    await stage.follower.start()
    viewer, epoch = stage.viewer(), stage.follower.epoch
    if by == "submit":
        stage.writers["g1"] = await admitted_and_claimed(stage.log, sub="a")
    else:
        await stage.log.own("s", "a", make=True)
    await stage.everybody_has_everything()
    assert (stage.follower.sub, stage.follower.epoch) == ("a", epoch)
    assert (viewer.lives, viewer.deleted) == (1, False)


async def test_it_is_claimed_only_once_it_was_lost_and_its_viewers_stay(stage: Stage) -> None:
    await stage.follower.start()
    viewer = stage.viewer()
    await stage.redis.flushall()
    await stage.log.own("s", "a", make=True)
    await stage.everybody_has_everything()
    assert (stage.follower.sub, viewer.lives, viewer.deleted) == ("a", 2, False)


async def test_after_a_loss_its_reopening_does_not_make_the_session_anybodys(stage: Stage) -> None:
    viewer = await shown_to_a(stage, "a")
    await stage.redis.flushall()
    await stage.follower.sync()
    assert await owner(stage) == "a"
    assert not await stage.log.own("s", "b", make=True)
    writer = stage.writers["g1"]
    made = await stage.log.rebuild(
        job_of(sub="a"), writer.fence, "w1", LEASE_MS, [writer.claim.epoch], 1, writer.claim.times
    )
    assert isinstance(made, RebuildResult)
    writer.fence, writer.n, writer.written["tokens"] = made.fence, 1, []
    assert (await writer.tokens("a")).what == "written"
    await stage.everybody_has_everything()
    assert viewer.view.generations["g1"].text == "a"


async def test_it_restores_the_owner_too_where_it_has_learned_of_a_claim(stage: Stage) -> None:
    await stage.follower.start()
    stage.writers["g1"] = await admitted_and_claimed(stage.log, sub="a")
    await stage.follower.sync()
    await stage.redis.flushall()
    await stage.follower.sync()
    assert await owner(stage) == "a"


async def test_it_learns_of_a_claim_with_the_first_event_and_the_session_stays_the_owners_after_a_loss(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a` claims by asking what a reader had opened as nobody's, and events come all the time: there is no silence."""
    for silence in ("SYNC_EVERY_S", "IDLE_SYNC_S"):
        monkeypatch.setattr(follower_module, silence, 1e6)
    await stage.follower.start()
    viewer = stage.viewer()
    writer = stage.writers["g1"] = await admitted_and_claimed(stage.log, sub="a")
    await stage.tokens("a")
    stage.deliver()
    await viewer.reaches(3)
    await until(lambda: stage.follower.sub == "a", "it knows the owner")
    await stage.redis.flushall()
    await stage.follower.sync()
    assert await owner(stage) == "a"
    made = await stage.log.rebuild(
        job_of(sub="a"), writer.fence, "w1", LEASE_MS, [writer.claim.epoch], 1, writer.claim.times
    )
    assert isinstance(made, RebuildResult)
    await stage.everybody_has_everything()
    assert (stage.follower.sub, viewer.deleted, await owner(stage)) == ("a", False, "a")


@pytest.mark.parametrize("reloaded", [False, True])
async def test_what_was_shown_of_nobodys_never_goes_on_in_what_is_somebodys_after_a_loss(
    stage: Stage, reloaded: bool
) -> None:
    """Neither if it had not heard of the claim yet, nor if it has made the lost session again itself."""
    stage.follower.missing.__init__(0.0)  # type: ignore[misc]  # overdue at once
    await stage.follower.start()
    viewer = stage.viewer()
    stage.writers["g1"] = await admitted_and_claimed(stage.log)
    await stage.tokens("a")
    await stage.follower.sync()
    assert (stage.follower.sub, stage.follower.frontier) == ("", 3)
    await stage.redis.flushall()
    if reloaded:
        await stage.follower.sync()
        stage.follower.missing.add([Active("g1", 1, "streaming")], 0.0)
        assert (stage.follower.sub, stage.follower.frontier) == ("", 0)
    await taken_by(stage, "b")
    await stage.overhear()
    stage.deliver()
    await until(lambda: viewer.deleted, "it was told")
    assert "private" not in str(viewer.frames)
    assert await stage.log.span("s", "g1") is None


async def _lost(stage: Stage) -> None:
    await stage.redis.flushall()


async def _deleted(stage: Stage) -> None:
    await stage.log.delete("s", TOMBSTONE_MS)


async def _deleted_long_ago(stage: Stage) -> None:
    await stage.log.delete("s", TOMBSTONE_MS)
    await stage.redis.flushall()


@pytest.mark.parametrize("gone", [_lost, _deleted, _deleted_long_ago])
@pytest.mark.parametrize("whose", ["b", ""])
async def test_a_session_that_is_somebody_elses_now_is_shown_to_no_viewer_of_the_former_one(
    stage: Stage, gone: Callable[[Stage], Awaitable[None]], whose: str
) -> None:
    viewer = await shown_to_a(stage, "a")
    frames = len(viewer.frames)
    await gone(stage)
    await taken_by(stage, whose)
    await stage.overhear()
    stage.deliver()  # the hints come before the log is read
    assert len(viewer.frames) == frames
    await stage.follower.sync()
    assert (viewer.deleted, stage.follower.deleted, viewer.lives) == (True, True, 1)
    assert len(viewer.frames) == frames
    await stage.tokens("more", generation="g3") if whose == "" else None
    stage.deliver()
    assert len(viewer.frames) == frames


async def test_so_it_is_when_it_becomes_that_while_the_log_is_read(stage: Stage) -> None:
    viewer = await shown_to_a(stage, "a")

    async def taken() -> None:
        stage.read.after_range = None
        await stage.redis.flushall()
        await taken_by(stage, "b")
        await stage.overhear()
        stage.deliver()

    stage.read.after_range = taken
    await stage.follower.sync()
    await stage.follower.sync()
    assert viewer.deleted
    assert "private" not in str(viewer.frames)


async def test_an_old_copy_of_redis_that_somebody_else_has_claimed_is_shown_to_nobody_either(stage: Stage) -> None:
    """It has the very epoch, from before the first claim; and where the follower is, the log seems to go on."""
    await stage.log.open("s")
    kept = await stage.copy()
    viewer = await shown_to_a(stage, "a")
    await stage.go_back_to(kept)
    stage.follower.window.clear()  # it was so long ago
    await answered(stage.log, job_of("g2", sub="b", content="private"), "private", "private")
    await stage.follower.sync()
    assert viewer.deleted
    assert "private" not in str(viewer.frames)


async def test_a_follower_of_what_is_somebody_elses_makes_nothing_any_more(stage: Stage) -> None:
    await stage.follower.start("a")
    await stage.redis.flushall()
    await stage.log.own("s", "b", make=True)
    await stage.follower.sync()
    assert stage.follower.deleted
    await stage.redis.flushall()
    await stage.follower.sync()
    assert await stage.redis.keys() == []


async def test_it_ends_no_lost_answer_in_a_session_that_is_somebody_elses(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It becomes that after the look that found nothing of the answer."""
    stage.follower.missing.__init__(0.0)  # type: ignore[misc]  # overdue at once
    viewer = await shown_to_a(stage, "a")
    await stage.redis.flushall()
    await stage.follower.sync()
    span = stage.read.span

    async def nothing_yet(session: str, generation: str, sub: str | None = None) -> None:
        monkeypatch.setattr(stage.read, "span", span)
        assert await span(session, generation, sub) is None
        await stage.redis.flushall()
        await taken_by(stage, "b")

    monkeypatch.setattr(stage.read, "span", nothing_yet)
    stage.follower.lost()
    await until(lambda: "g1" not in stage.follower.missing, "it is given up")
    assert await stage.log.span("s", "g1") is None
    await until(lambda: viewer.deleted, "it was told")
