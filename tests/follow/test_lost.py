"""A follower whose log loses what it has shown: nobody is left with a state that is not the log's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from relay.errors import StorageError
from relay.follow import follower as follower_module
from relay.follow import visibility
from relay.store.session.replies import RebuildResult, Span
from relay.store.session.session_log import SessionLog
from tests.follow.following import Recorder, Stage
from tests.scenarios.processes import until
from tests.store.in_memory import (
    LEASE_MS,
    Clock,
    Writer,
    admitted_and_claimed,
    answered,
    claimed,
    job_of,
    session_log_on,
)


@pytest.fixture
async def stage(redis: Redis, session_log: SessionLog) -> AsyncIterator[Stage]:
    stage = Stage(redis, session_log)
    yield stage
    await stage.aclose()


async def rebuilt(writer: Writer) -> None:
    """As its worker does: make the generation again, and say again what is not there."""
    made = await writer.log.rebuild(
        job_of(writer.generation), writer.fence, "w1", LEASE_MS, [writer.claim.epoch], 1, writer.claim.times
    )
    assert isinstance(made, RebuildResult)
    writer.fence, writer.n = made.fence, 1
    said = writer.written["tokens"]
    writer.written["tokens"] = said[: made.tokens]
    if said[made.tokens :]:
        assert (await writer.tokens(*said[made.tokens :])).what == "written"


async def shown(stage: Stage, *texts: str) -> tuple[Writer, Recorder]:
    """A viewer that has been shown these tokens."""
    await stage.follower.start()
    viewer = stage.viewer()
    await stage.tokens(*texts)
    stage.deliver()
    await viewer.reaches(2 + len(texts))
    return stage.writers["g1"], viewer


async def until_told(viewer: Recorder, *words: str) -> None:
    await until(lambda: viewer.told == list(words), " and ".join(words))


async def test_an_answer_that_was_lost_and_comes_back_is_shown_anew(stage: Stage) -> None:
    writer, viewer = await shown(stage, "a", "b")
    before = stage.follower.epoch
    await stage.redis.flushall()
    await stage.follower.sync()
    assert stage.follower.epoch != before
    assert viewer.told == ["degraded"]
    assert viewer.lives == 2
    await rebuilt(writer)
    page = await stage.everybody_has_everything()
    assert viewer.view.generations["g1"].text == "ab"
    assert page.epoch == stage.follower.epoch
    await until_told(viewer, "degraded", "restored")


async def test_it_is_restored_only_when_the_text_is_back(stage: Stage) -> None:
    writer, viewer = await shown(stage, "a")
    await stage.redis.flushall()
    await stage.follower.sync()
    await writer.log.rebuild(job_of(), writer.fence, "w1", LEASE_MS, [writer.claim.epoch], 1, writer.claim.times)
    for _ in range(3):
        await stage.follower.sync()
    assert "g1" in viewer.view.generations
    assert viewer.told == ["degraded"]


async def test_one_that_is_back_and_then_ends_and_goes_unheard_is_missed_no_more(stage: Stage) -> None:
    writer, viewer = await shown(stage, "a")
    await stage.redis.flushall()
    await stage.follower.sync()
    await writer.log.rebuild(job_of(), writer.fence, "w1", LEASE_MS, [writer.claim.epoch], 1, writer.claim.times)
    await stage.follower.sync()
    assert "g1" in stage.follower.missing  # its text is still to come
    assert await stage.log.stop("s", "g1")
    keeps_one = session_log_on(stage.redis, max_generations=1)
    for generation in ("g2", "g3"):
        await answered(keeps_one, job_of(generation), "b")
    await stage.follower.sync()
    assert not stage.follower.missing
    await until_told(viewer, "degraded", "restored")


@pytest.mark.parametrize("bring", [True, False])
async def test_what_nobody_brings_back_is_ended_in_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, bring: bool
) -> None:
    stage.follower.missing.__init__(0.2)  # type: ignore[misc]
    writer, viewer = await shown(stage, "a")
    await stage.redis.flushall()
    stage.follower.lost()
    await until_told(viewer, "degraded")
    if bring:
        await rebuilt(writer)
    await until_told(viewer, "degraded", "restored")
    await stage.everybody_has_everything()
    end = viewer.view.generations["g1"].end
    if bring:
        assert end is None
    else:
        assert end is not None
        assert (end["reason"], end["error"]["code"], end["error"]["message"]) == ("failed", "storage", "Sorry.")


async def test_a_log_that_ends_before_what_was_shown_gets_another_epoch(stage: Stage) -> None:
    writer, viewer = await shown(stage, "a")
    kept = await stage.copy()
    await stage.tokens("b", "c")
    stage.deliver()
    await viewer.reaches(5)
    before = stage.follower.epoch
    await stage.go_back_to(kept)
    page = await stage.everybody_has_everything()
    assert page.epoch != before
    assert viewer.view.generations["g1"].text == "a"
    await rebuilt(writer)
    await stage.everybody_has_everything()
    assert viewer.view.generations["g1"].text == "abc"
    await until_told(viewer, "degraded", "restored")


async def test_a_log_that_was_written_to_since_is_noticed_by_the_event_itself(stage: Stage) -> None:
    _, viewer = await shown(stage, "a")
    kept = await stage.copy()
    await stage.tokens("seen", "twice")  # nobody acknowledged it: the server died
    stage.deliver()
    await viewer.reaches(5)
    before = stage.follower.epoch
    await stage.go_back_to(kept)
    again = stage.writers["g1"]
    again.n, again.written["tokens"] = 1, ["a"]
    for token in ("s", "een", "tw", "ice"):  # sent again, token by token
        assert (await again.tokens(token)).what == "written"
    page = await stage.everybody_has_everything()
    assert page.epoch != before
    assert viewer.view.generations["g1"].text == "aseentwice"


async def test_an_old_life_that_comes_back_is_not_continued(stage: Stage) -> None:
    writer, viewer = await shown(stage, "a")
    first, kept = stage.follower.epoch, await stage.copy()
    await stage.redis.flushall()
    await stage.follower.sync()
    await rebuilt(writer)
    await stage.everybody_has_everything()
    await stage.go_back_to(kept)
    page = await stage.everybody_has_everything()
    assert page.epoch != first
    assert viewer.view.cursor is not None
    assert viewer.view.cursor.epoch == page.epoch


@pytest.mark.parametrize("where", ["3-0", "5-0"])
async def test_entries_that_are_missing_are_not_waited_for(stage: Stage, where: str) -> None:
    """One that only a new viewer needs, and one at the frontier."""
    writer, viewer = await shown(stage, "a", "b", "c")
    stage.follower.window.clear()
    if where == "5-0":
        await stage.follower.sync()
        await stage.tokens("d")
        stage.deliver()
        await viewer.reaches(6)
        where = "6-0"
    before = stage.follower.epoch
    await stage.redis.xdel(stage.log.keys.session("s", "log"), where)
    late = stage.viewer()
    await stage.follower.sync()
    await until(lambda: stage.follower.epoch != before, "another epoch")
    await rebuilt(writer)
    await stage.everybody_has_everything()
    assert late.view.generations["g1"].text == "".join(writer.written["tokens"])


async def test_what_was_trimmed_is_no_loss(stage: Stage, clock: Clock) -> None:
    writer, viewer = await shown(stage, "a", "b", "c")
    await writer.end("complete", "a1")
    await stage.overhear()
    stage.deliver()
    await viewer.reaches(6)
    before = stage.follower.epoch
    assert await stage.log.trim("s", "g1") is False
    await stage.follower.sync()
    late = stage.viewer()
    await stage.everybody_has_everything()
    assert stage.follower.epoch == before
    assert late.view.generations["g1"].text == "abc"


async def test_a_log_that_cannot_be_seen_is_said_to_be_so_and_when_it_is_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visibility, "DEGRADED_AFTER_S", 0.01)
    monkeypatch.setattr(follower_module, "_RETRY_S", (0.001, 0.001))
    _, viewer = await shown(stage, "a")
    stage.read.failures = [StorageError("away")] * 500
    stage.follower.lost()
    await until_told(viewer, "degraded")
    stage.read.failures = []
    await until_told(viewer, "degraded", "restored")
    assert viewer.lives == 1


async def test_a_blip_is_nobodys_business(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visibility, "DEGRADED_AFTER_S", 1000)
    monkeypatch.setattr(follower_module, "_RETRY_S", (0, 0))
    _, viewer = await shown(stage, "a")
    stage.read.failures = [StorageError("away")] * 5
    stage.follower.lost()
    await until(lambda: not stage.read.failures, "looks")
    await stage.tokens("b")
    stage.deliver()
    await viewer.reaches(4)
    assert viewer.told == []


async def test_one_of_two_answers_is_lost_and_the_other_goes_on(redis: Redis, clock: Clock) -> None:
    """The second began after the copy that Redis went back to."""
    log = session_log_on(redis)
    stage = Stage(redis, log)
    first, viewer = await shown(stage, "a")
    kept = await stage.copy()
    second = await admitted_and_claimed(log, "g2")
    await second.tokens("x")
    await stage.overhear()
    stage.deliver()
    await viewer.reaches(6)
    await stage.go_back_to(kept)
    await stage.follower.sync()
    assert viewer.told == ["degraded"]
    await rebuilt(second)
    await rebuilt(first)
    await stage.everybody_has_everything()
    assert (viewer.view.generations["g1"].text, viewer.view.generations["g2"].text) == ("a", "x")
    await until_told(viewer, "degraded", "restored")
    clock.advance(ms=LEASE_MS)
    await claimed(log, job_of("g2"), "w2")
    await stage.aclose()


@pytest.mark.parametrize("bring", [True, False])
async def test_what_came_back_and_is_lost_again_before_its_text_was_there_is_ended_or_comes_back_again(
    stage: Stage, bring: bool
) -> None:
    stage.follower.missing.__init__(0.2)  # type: ignore[misc]
    writer, viewer = await shown(stage, "a")
    await stage.redis.flushall()
    await stage.follower.sync()
    await writer.log.rebuild(job_of(), writer.fence, "w1", LEASE_MS, [writer.claim.epoch], 1, writer.claim.times)
    await stage.follower.sync()
    await stage.redis.flushall()
    await stage.follower.sync()
    assert viewer.told == ["degraded"]
    if bring:
        await rebuilt(writer)
    await until_told(viewer, "degraded", "restored")
    await stage.everybody_has_everything()
    assert (viewer.view.generations["g1"].end is None) == bring
    assert viewer.view.generations["g1"].text == ("a" if bring else "")


async def test_what_was_forgotten_because_entries_are_missing_is_ended_if_nobody_brings_it_back(stage: Stage) -> None:
    stage.follower.missing.__init__(0.4)  # type: ignore[misc]
    _, viewer = await shown(stage, "a", "b", "c")
    await stage.redis.xdel(stage.log.keys.session("s", "log"), "4-0", "5-0")
    await stage.follower.sync()
    await stage.follower.sync()
    assert "g1" in stage.follower.missing
    await until(lambda: not stage.follower.missing, "its end")
    await stage.everybody_has_everything()
    end = viewer.view.generations["g1"].end
    assert end is not None
    assert end["error"]["code"] == "storage"
    await until_told(viewer, "degraded", "restored")


async def test_it_is_not_restored_by_what_came_back_between_a_look_and_the_search_for_it(stage: Stage) -> None:
    writer, viewer = await shown(stage, "a")
    await stage.redis.flushall()
    await stage.follower.sync()
    span = stage.read.span

    async def came_back_meanwhile(session: str, generation: str, sub: str | None = None) -> Span | None:
        stage.read.span = span  # type: ignore[method-assign]
        await writer.log.rebuild(job_of(), writer.fence, "w1", LEASE_MS, [writer.claim.epoch], 1, writer.claim.times)
        return await span(session, generation, sub)

    stage.read.span = came_back_meanwhile  # type: ignore[method-assign]
    stage.follower.lost()
    await until(lambda: stage.read.span is span, "the search")
    await until(lambda: "g1" in viewer.view.generations, "another look has been shown")
    assert viewer.told == ["degraded"]


async def test_a_follower_that_has_applied_nothing_yet_notices_too(stage: Stage) -> None:
    """It began at this head; the log goes back, and grows past it with other events."""
    await stage.tokens("a")
    kept = await stage.copy()
    await stage.tokens("seen")
    await stage.follower.start()
    await stage.follower.sync()
    viewer = stage.viewer()
    await viewer.reaches(4)
    before = stage.follower.epoch
    await stage.go_back_to(kept)
    again = stage.writers["g1"]
    again.n, again.written["tokens"] = 1, ["a"]
    for token in ("s", "een"):
        assert (await again.tokens(token)).what == "written"
    page = await stage.everybody_has_everything()
    assert page.epoch != before
    assert viewer.view.generations["g1"].text == "aseen"
