"""What has moved while a read of the log was on its way: nobody may act on what was true before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from relay.protocol.words import Cursor
from relay.store.session.session_log import SessionLog
from tests.follow.following import Held, Recorder, Stage
from tests.store.in_memory import admitted_and_claimed


@pytest.fixture
async def stage(redis: Redis, session_log: SessionLog) -> AsyncIterator[Stage]:
    stage = Stage(redis, session_log)
    yield stage
    await stage.aclose()


async def looking_while(stage: Stage, happens: Callable[[], Awaitable[object]]) -> None:
    """A look, and what happens between the reply to its first read and what the look makes of it."""
    held = Held(stage.read)
    look = asyncio.create_task(stage.follower.sync())
    await held.asked.wait()
    await happens()
    stage.read.after_range = None
    held.go.set()
    await look


async def heard(stage: Stage, *texts: str) -> None:
    """Written, and published at once."""
    await stage.tokens(*texts)
    stage.deliver()


async def come_back(stage: Stage, seq: int) -> Recorder:
    """A client with a cursor of this epoch; a follower looks before it is lent."""
    viewer = Recorder(stage.follower)
    viewer.view.resume(Cursor(stage.follower.epoch, seq))
    await stage.follower.sync()
    viewer.join((stage.follower.epoch, seq))
    return viewer


# The window


async def test_who_comes_after_a_look_that_messages_have_overtaken_gets_each_event_in_its_place(stage: Stage) -> None:
    await stage.tokens("a", "b", "c")
    await stage.follower.start()
    first = stage.viewer()
    await first.reaches(5)
    stage.in_flight.clear()
    await looking_while(stage, lambda: heard(stage, "d", "e"))
    await heard(stage, "f")
    await first.reaches(8)
    for seq, text in [(5, "def"), (6, "ef"), (7, "f")]:
        late = await come_back(stage, seq)
        await late.reaches(8)
        assert late.text() == text
        await late.leave()
    stage.viewer()
    await stage.everybody_has_everything()


async def test_the_end_reaches_who_comes_after_a_look_that_messages_have_overtaken(stage: Stage) -> None:
    await stage.tokens("a", "b", "c")
    await stage.follower.start()
    stage.in_flight.clear()
    await looking_while(stage, lambda: heard(stage, "d", "e"))
    late = stage.viewer()
    await late.reaches(7)
    late.slow = True  # what follows, it takes from the window
    await stage.writers["g1"].end()
    await stage.overhear()
    stage.deliver()
    late.drain()
    await late.reaches(8)
    assert late.view.generations["g1"].end is not None
    await stage.everybody_has_everything()


@pytest.mark.parametrize("before", [0, 1, 3])
async def test_an_event_too_large_for_the_window_that_overtakes_a_look_is_no_loss(
    redis: Redis, session_log: SessionLog, before: int
) -> None:
    """It leaves the window empty, and the entry that the look has read is not the newest any more."""
    stage = Stage(redis, session_log, window_bytes=400)
    await stage.tokens("a")
    await stage.follower.start()
    viewer = stage.viewer()
    await viewer.reaches(3)
    stage.in_flight.clear()
    await heard(stage, *"b" * before)
    epoch, lives = stage.follower.epoch, viewer.lives
    await looking_while(stage, lambda: heard(stage, "x" * 600))
    for _ in range(2):
        await stage.follower.sync()
    await heard(stage, "c")
    await stage.everybody_has_everything()
    assert (stage.follower.epoch, viewer.lives, viewer.told) == (epoch, lives, [])
    await stage.aclose()


# Trimming

SAID = "".join(f"{number:04}" for number in range(40))


async def two_answers(session_log: SessionLog) -> None:
    """g1, in forty batches, and then g2; both have ended."""
    for generation, batches in [("g1", 40), ("g2", 5)]:
        writer = await admitted_and_claimed(session_log, generation)
        for number in range(batches):
            await writer.tokens(f"{number:04}")
        assert (await writer.end()).what == "written"


async def test_pages_from_before_and_after_a_trim_are_not_joined_though_the_floor_has_not_moved(
    redis: Redis, session_log: SessionLog
) -> None:
    """A later answer was trimmed before: the floor is above all that is merged now."""
    await two_answers(session_log)
    assert await session_log.trim("s", "g2") is False
    stage = Stage(redis, session_log)
    stage.read.page_bytes = 700
    await stage.follower.start()

    async def trimmed_between_the_first_pages() -> None:
        stage.read.after_range = None
        assert await session_log.trim("s", "g1") is False

    viewer = Recorder(stage.follower)
    stage.viewers.append(viewer)
    stage.read.after_range = trimmed_between_the_first_pages
    viewer.join()
    await viewer.reaches(stage.follower.frontier)
    assert stage.read.after_range is None
    assert viewer.text() == SAID
    await stage.everybody_has_everything()
    await stage.aclose()


@pytest.mark.parametrize("seq", [1, 2, 3, 20, 42, 43, 44])
async def test_a_cursor_where_something_was_merged_unseen_gets_nothing_twice_and_lacks_nothing(
    redis: Redis, session_log: SessionLog, seq: int
) -> None:
    """The floor was above it, and did not move. A cursor at it would be honoured where nobody has looked."""
    await two_answers(session_log)
    stage = Stage(redis, session_log, window_bytes=300)
    await stage.follower.start()
    assert await session_log.trim("s", "g1") is False
    late = await come_back(stage, seq)
    await late.reaches(stage.follower.frontier)
    had = max(0, min(seq - 2, 40))
    assert late.text() == (SAID if late.lives > 1 or not late.recovered else SAID[had * 4 :])
    await late.leave()
    await stage.aclose()


async def test_who_joins_where_more_was_merged_than_is_heard_of_yet_gets_nothing_twice(
    redis: Redis, session_log: SessionLog
) -> None:
    stage = Stage(redis, session_log, window_bytes=0)
    await stage.follower.start()
    await stage.tokens("a", "b", "c", "d")
    stage.source.say(*stage.in_flight[:4])  # as far as "b"
    late = stage.in_flight[4:]
    await stage.writers["g1"].end()
    assert await stage.log.trim("s", "g1") is False
    viewer = stage.viewer()
    await viewer.reaches(4)
    stage.source.say(*late)
    await stage.everybody_has_everything()
    assert viewer.text() == "abcd"
    await stage.aclose()


async def test_hints_that_come_late_repeat_nothing_of_what_was_read_merged(stage: Stage) -> None:
    await stage.follower.start()
    viewer = stage.viewer()
    await stage.tokens("a", "b", "c")
    question, queued, *late = stage.in_flight
    stage.source.say(question, queued)
    await stage.writers["g1"].end()
    assert await stage.log.trim("s", "g1") is False
    reads = 0

    async def between_two_reads() -> None:
        nonlocal reads
        reads += 1
        stage.source.say(*(late[1:] if reads == 2 else []))

    stage.read.after_range = between_two_reads
    await stage.follower.sync()
    await stage.everybody_has_everything()
    assert viewer.text() == "abc"
