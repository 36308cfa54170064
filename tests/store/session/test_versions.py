"""Versions of a log: what is merged or removed while readers are under way loses nothing, doubles nothing, and sends
nobody back to the beginning who does not stand in the middle of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from relay.store.session.session_log import SessionLog
from relay.store.session.versions import LogVersion, Trim
from tests.examples import tries
from tests.follow.following import MAX_FRAME_BYTES, Held, Recorder, Stage
from tests.scenarios.processes import until
from tests.store.in_memory import Writer, admitted_and_claimed, redis_in_memory, session_log_on

NOW = LogVersion(20, 3, (Trim(1, 2, 5), Trim(2, 10, 20), Trim(3, 6, 9)))
META = "t:s:{s}:meta"


@pytest.mark.parametrize(
    ("earlier", "after", "continues"),
    [
        (NOW, 12, True),  # nothing has changed
        (LogVersion(), 0, True),  # nothing was read
        (LogVersion(), 20, True),  # all of it lies before
        (LogVersion(), 4, False),
        (LogVersion(), 5, True),  # between two changes
        (LogVersion(5, 1), 12, False),
        (LogVersion(5, 1), 7, False),
        (LogVersion(20, 2), 12, True),  # the change it stands in is known to it
        (LogVersion(20, 2), 7, False),  # another one below a floor that did not move
        (LogVersion(20, 4), 7, False),  # older than what it has read: a server that is behind
        (LogVersion(15, 3), 7, False),  # an earlier release has raised the floor, and tells no more
        (LogVersion(15, 3), 20, True),
    ],
)
def test_a_reader_goes_on_unless_it_stands_in_what_has_changed(
    earlier: LogVersion, after: int, continues: bool
) -> None:
    assert NOW.continues(earlier, after) is continues


async def ended(log: SessionLog, generation: str, texts: list[str]) -> Writer:
    writer = await admitted_and_claimed(log, generation)
    for text in texts:
        assert (await writer.tokens(text)).what == "written"
    assert (await writer.end()).what == "written"
    return writer


async def version_of(log: SessionLog) -> LogVersion:
    page, opened = await log.range("s", 1, page_bytes=0), await log.open("s")
    assert page is not None
    assert opened is not None
    assert opened.version.is_same(page.version)
    return page.version


async def test_whatever_is_merged_or_removed_is_another_version_also_below_the_floor(redis: Redis) -> None:
    log = session_log_on(redis, max_generations=2)
    await ended(log, "g1", ["a", "b", "c"])  # seqs 1 … 6
    await ended(log, "g2", ["d", "e"])  # 7 … 11
    assert await version_of(log) == LogVersion()
    await log.trim("s", "g2")
    assert await version_of(log) == LogVersion(10, 1, (Trim(1, 9, 10),))
    await log.trim("s", "g1")
    assert await version_of(log) == LogVersion(10, 2, (Trim(1, 9, 10), Trim(2, 3, 5)))
    await log.trim("s", "g1")  # nothing more to merge
    await admitted_and_claimed(log, "g3")  # the oldest goes
    assert await version_of(log) == LogVersion(10, 3, (Trim(1, 9, 10), Trim(3, 1, 6)))


async def test_the_changes_are_bounded_and_none_is_forgotten(redis: Redis) -> None:
    log = session_log_on(redis)
    for number in range(40):
        await ended(log, f"g{number}", ["a", "b"])
        await log.trim("s", f"g{number}")
    version = await version_of(log)
    assert (version.trims, len(version.changes)) == (40, 32)
    for number in range(40):
        assert not version.continues(LogVersion(0, number), 5 * number + 3)


async def test_a_session_of_an_earlier_release_has_no_count_and_its_floor_is_a_change(redis: Redis) -> None:
    log = session_log_on(redis)
    await ended(log, "g1", ["a", "b"])
    assert await version_of(log) == LogVersion()
    await redis.hset(META, "floor", "4")  # as its trim and admit do
    before = await version_of(log)
    assert before == LogVersion(4, 0, (Trim(0, 1, 4),))
    await ended(log, "g2", ["c", "d"])  # 6 … 10
    await log.trim("s", "g2")
    after = await version_of(log)
    assert after == LogVersion(9, 1, (Trim(1, 1, 4), Trim(1, 8, 9)))
    assert not after.continues(LogVersion(), 3)
    assert after.continues(LogVersion(), 5)
    await redis.hset(META, "floor", "10")  # by a reaper of that release that still runs
    assert not (await version_of(log)).continues(after, 9)


async def test_a_trim_is_a_reason_to_look(redis: Redis, session_log: SessionLog) -> None:
    await ended(session_log, "g1", ["a", "b"])
    pubsub = redis.pubsub(ignore_subscribe_messages=True)
    await pubsub.subscribe("t:s:{s}:events")
    await pubsub.get_message(timeout=1)
    stage = Stage(redis, session_log)
    await stage.follower.start()
    await session_log.trim("s", "g1")
    said = await pubsub.get_message(timeout=1)
    assert said is not None
    assert said["data"] == f"{stage.follower.epoch} 0 ".encode()
    assert stage.follower.honours(stage.follower.epoch, 3)
    stage.source.say(said["data"])
    await until(lambda: not stage.follower.honours(stage.follower.epoch, 3), "it has looked")
    await pubsub.aclose()  # type: ignore[no-untyped-call]
    await stage.aclose()


@pytest.fixture
async def stage(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr("relay.store.session.session_log.PIECE_BYTES", MAX_FRAME_BYTES // 2)
    made = Stage(redis, session_log_on(redis, max_generations=6), window_bytes=0, shelf_bytes=0)
    made.read.page_bytes = 700  # a few events
    yield made
    await made.aclose()


async def catching_up(stage: Stage, after: int) -> Recorder:
    """A viewer that has been sent everything up to `after`, and then takes no more."""
    viewer = stage.viewer()
    await viewer.reaches(after)
    viewer.slow = True
    await asyncio.sleep(0)
    assert after <= viewer.view.last < stage.follower.frontier
    return viewer


def long(name: str, batches: int = 30) -> list[str]:
    return [f"{name} {number:03} {'x' * 90}" for number in range(batches)]


async def test_a_trim_below_the_floor_between_two_pages_takes_no_text(stage: Stage) -> None:
    await ended(stage.log, "g1", long("one", 40))
    await ended(stage.log, "g2", ["a", "b"])
    await stage.log.trim("s", "g2")  # the floor lies behind all of the first
    await stage.follower.start()
    viewer = await catching_up(stage, 10)
    assert viewer.view.last < 40
    floor = stage.follower.floor
    await stage.log.trim("s", "g1")
    page = await stage.everybody_has_everything()
    assert page.floor == floor
    assert viewer.lives == 2


async def test_a_generation_removed_below_the_floor_between_two_pages_is_not_left_half_shown(stage: Stage) -> None:
    await ended(stage.log, "g1", long("one", 40))
    for number in range(2, 7):
        await ended(stage.log, f"g{number}", ["a", "b"])
    await stage.log.trim("s", "g6")
    await stage.follower.start()
    viewer = await catching_up(stage, 10)
    await admitted_and_claimed(stage.log, "g7")
    await stage.everybody_has_everything()
    assert "g1" not in viewer.view.generations


async def test_a_trim_elsewhere_sends_nobody_back(stage: Stage) -> None:
    await ended(stage.log, "g1", ["a", "b"])
    await ended(stage.log, "g2", long("two", 40))
    await ended(stage.log, "g3", ["c", "d"])
    await stage.follower.start()
    viewer = await catching_up(stage, 15)
    await stage.log.trim("s", "g1")
    await stage.log.trim("s", "g3")
    await stage.everybody_has_everything()
    assert viewer.lives == 1


def further(viewer: Recorder, frames: int) -> bool:
    return len(viewer.frames) > frames


async def test_a_slow_reader_of_a_session_that_is_trimmed_before_each_of_its_frames_gets_to_its_end(
    stage: Stage,
) -> None:
    names = [f"g{number}" for number in range(6)]
    for name in names:
        await ended(stage.log, name, long(name, 12))
    await stage.follower.start()
    viewer = await catching_up(stage, 1)
    steps = 0
    while viewer.view.last < stage.follower.frontier:
        steps += 1
        assert steps < 100, "it begins anew without end"
        await stage.log.trim("s", names[steps % len(names)])
        frames = len(viewer.frames)
        viewer.drain()
        await until(partial(further, viewer, frames), "one more frame")
        viewer.slow = True
        await asyncio.sleep(0)
    await stage.everybody_has_everything()


async def test_a_replay_whose_page_was_merged_beyond_what_is_shown_waits_for_that(stage: Stage) -> None:
    writer = await admitted_and_claimed(stage.log, "g1")
    for text in long("one", 10):
        await writer.tokens(text)
    await stage.follower.start()
    viewer = stage.viewer()
    viewer.slow = True
    for text in ("more", "and more"):
        await writer.tokens(text)
    await writer.end()
    await stage.overhear()  # and nothing of it is heard yet
    await stage.log.trim("s", "g1")
    viewer.drain()
    for _ in range(50):
        await asyncio.sleep(0)
    stage.deliver()  # late
    await stage.everybody_has_everything()
    assert viewer.view.generations["g1"].text.endswith("moreand more")


async def test_a_trim_while_a_page_is_on_its_way_is_met_by_the_next(stage: Stage) -> None:
    await ended(stage.log, "g1", long("one", 40))
    await stage.follower.start()
    viewer = await catching_up(stage, 10)
    held = Held(stage.read)
    viewer.drain()
    await held.asked.wait()
    await stage.log.trim("s", "g1")
    held.go.set()
    await stage.everybody_has_everything()


@given(st.integers(0, 2**32))
@tries(25)
def test_whatever_is_trimmed_and_removed_under_way_every_reader_ends_with_the_log(seed: int) -> None:
    asyncio.run(_anything(random.Random(seed)))


async def _anything(chance: random.Random) -> None:
    async with redis_in_memory() as redis:
        stage = Stage(redis, session_log_on(redis, max_generations=5), window_bytes=chance.choice([0, 2000, 10**6]),
                      shelf_bytes=chance.choice([0, 10**6]))  # fmt: skip
        stage.read.page_bytes = chance.choice([1200, 5000, 10**6])
        writers: list[Writer] = []
        made, turn = 0, asyncio.Lock()

        async def anything() -> None:
            async with turn:  # a writer has one write in flight
                await one_thing()

        async def one_thing() -> None:
            nonlocal made
            what = chance.random()
            if (what < 0.15 and len(writers) < 4) or not writers:
                made += 1
                writers.append(await admitted_and_claimed(stage.log, f"g{made}"))
            elif what < 0.6:
                await chance.choice(writers).tokens("t" * chance.choice([1, 50, 400]))
            elif what < 0.7:
                await chance.choice(writers).data(made)
            elif what < 0.8 and len(writers) > 1:
                writer = chance.choice(writers)
                await writer.end()
                writers.remove(writer)
            else:
                await stage.log.trim("s", f"g{chance.randint(1, made)}")

        async def under_way() -> None:
            """Between a read and its reply."""
            if chance.random() < 0.3:
                await anything()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("relay.store.session.session_log.TRIM_ENTRIES", chance.choice([1, 7, 500]))
            patch.setattr("relay.store.session.session_log.PIECE_BYTES", chance.choice([1, 700]))
            for _ in range(chance.randint(0, 40)):
                await anything()
            await stage.follower.start()
            stage.read.after_range = under_way
            for _ in range(60):
                await anything()
                await stage.overhear()
                if stage.in_flight and chance.random() < 0.5:
                    stage.source.say(stage.in_flight.pop(0))
                if chance.random() < 0.1 and len(stage.viewers) < 4:
                    stage.viewer()
                for viewer in stage.viewers:
                    if chance.random() < 0.3:
                        viewer.slow = True
                    elif viewer.slow and chance.random() < 0.5:
                        viewer.drain()
                for _ in range(chance.randint(0, 5)):
                    await asyncio.sleep(0)
            stage.read.after_range = None
            stage.deliver()
            await stage.everybody_has_everything(removed=True)
            assert not any(viewer.view.unproven for viewer in stage.viewers)
        await stage.aclose()
