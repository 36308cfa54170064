"""Replay: any cursor gets what follows it, from window and log, and between two frames a reader costs a number."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from relay.follow.replay import Replay
from relay.follow.window import Window
from relay.protocol import events, frames
from relay.protocol.compact import catchups
from relay.protocol.view import SessionView
from relay.store.session.session_log import SessionLog
from tests.follow.following import MAX_FRAME_BYTES, Held, Stage
from tests.protocol.logs import in_order
from tests.store.in_memory import Writer, admitted_and_claimed


@pytest.fixture
async def stage(redis: Redis, session_log: SessionLog) -> AsyncIterator[Stage]:
    made = Stage(redis, session_log, window_bytes=1000)
    await made.follower.start()
    yield made
    await made.aclose()


async def written(stage: Stage, batches: int = 30) -> Writer:
    """So many batches in the log; the window has the last ten of them."""
    await stage.tokens(*[f"{number:04}" for number in range(batches)])
    stage.deliver()
    stage.follower.honours("", 0)
    return stage.writers["g1"]


def text_of(frames: list[dict[str, Any]]) -> str:
    return "".join(event.get("text", "") for frame in frames for event in frame.get("events", [frame]))


async def replayed(stage: Stage, after: int) -> list[dict[str, Any]]:
    return [msgspec.json.decode(frame) async for _, frame in stage.follower.replay(after)]


async def test_a_cursor_that_the_window_does_not_reach_gets_one_frame_from_log_and_window(stage: Stage) -> None:
    await written(stage)
    assert not stage.follower.window.holds(2)
    (frame,) = await replayed(stage, 2)
    assert (frame["from"], frame["seq"]) == (3, 32)
    assert text_of([frame]) == "".join(f"{number:04}" for number in range(30))


async def test_an_answer_that_was_trimmed_while_the_window_still_has_its_batches_is_not_doubled(stage: Stage) -> None:
    writer = await written(stage)
    await writer.end()
    await stage.follower.sync()
    page = await stage.log.range("s", 4)
    assert page is not None
    stage.follower.window = Window(100_000)
    for entry in page.entries:
        stage.follower.window.add(*entry)
    assert await stage.log.trim("s", "g1") is False
    stage.read.page_bytes = 400  # it ends behind the entry at 3, in which all batches were merged
    assert text_of(await replayed(stage, 0)) == "".join(f"{number:04}" for number in range(30))
    assert len(stage.read.reads) > 1


async def test_a_reader_that_waits_between_two_frames_holds_neither_frame_nor_page(stage: Stage) -> None:
    await stage.tokens(*["x" * 300] * 20)
    stage.deliver()
    stage.follower.honours("", 0)
    replay = stage.follower.replay(0)
    seq, frame = await anext(replay)
    assert seq < 10
    del frame
    gc.collect()
    assert not [held for held in gc.get_referents(replay, vars(replay)) if isinstance(held, bytes | list)]


async def test_readers_of_one_session_who_lack_the_same_read_it_once(stage: Stage) -> None:
    await written(stage)
    viewers = [stage.viewer() for _ in range(50)]
    for viewer in viewers:
        await viewer.reaches(32)
    assert [first for first in stage.read.reads if first != 32] == [1]  # a sync reads from the frontier


async def test_looks_that_many_ask_for_at_once_are_at_most_two(stage: Stage) -> None:
    await written(stage)
    stage.read.reads.clear()
    held = Held(stage.read)
    asked = [asyncio.create_task(stage.follower.sync()) for _ in range(100)]
    await held.asked.wait()
    asked += [asyncio.create_task(stage.follower.sync()) for _ in range(100)]
    await asyncio.sleep(0)
    held.go.set()
    await asyncio.gather(*asked)
    assert len(stage.read.reads) == 2


async def test_whoever_asks_for_a_look_gets_one_that_began_after_he_asked(stage: Stage) -> None:
    await written(stage)
    held = Held(stage.read)
    first = asyncio.create_task(stage.follower.sync())
    await held.asked.wait()
    await stage.tokens("late")  # not on the page that is on its way
    second = asyncio.create_task(stage.follower.sync())
    await asyncio.sleep(0)
    held.go.set()
    await first
    await second
    assert stage.follower.frontier == 33


@pytest.mark.parametrize("max_frame_bytes", [MAX_FRAME_BYTES, 262_144])
async def test_what_was_compacted_for_everybody_gives_each_cursor_what_it_would_have_got_alone(
    redis: Redis, session_log: SessionLog, max_frame_bytes: int
) -> None:
    chance = random.Random(3)
    writers = [await admitted_and_claimed(session_log, name) for name in ("g1", "g2")]
    for number in range(250):
        writer = chance.choice(writers)
        what = chance.choice(["tokens"] * 12 + ["reasoning", "status", "data"] + ["restart"] * (number == 100))
        if what in ("tokens", "reasoning"):
            await getattr(writer, what)(f"{number} \u2028")
        elif what == "status":
            await writer.status("thinking")
        elif what == "data":
            await writer.data({"number": number})
        else:
            await writer.restart()
    stage = Stage(redis, session_log, window_bytes=0)
    await stage.follower.start()
    stage.read.page_bytes = 9000
    page = await session_log.range("s", 1)
    assert page is not None
    for after in [0, 1, 63, 64, 65, 127, *(chance.randrange(page.head) for _ in range(30))]:
        replay = Replay(stage.follower, stage.follower.pages, after, page.head, max_frame_bytes=max_frame_bytes)
        got = [frame async for _, frame in replay]
        entries = page.entries[after:]
        alone = [frames.encode(frame) for frame in catchups("s", after, entries, page.head, max_frame_bytes)]
        assert all(len(frame) <= max_frame_bytes for frame in got)
        assert len(got) <= len(alone) + len(alone) // 10
        if len(got) == len(alone) == 1 and page.head - after > 1:
            assert got == alone
        before = [events.live_frame("s", *entry) for entry in page.entries[:after]]
        assert shown(before + got) == shown(before + alone)
    await stage.aclose()


def shown(frames_in_order: list[bytes]) -> Any:
    """What a client shows."""
    view = SessionView("s")
    view.epoch, view.waiting = "e", False
    for frame in frames_in_order:
        assert view.apply(msgspec.json.decode(frame)) == "applied"
    return view.last, {name: (in_order(one.parts), one.reasoning, one.state) for name, one in view.generations.items()}


async def test_a_replay_that_paused_while_a_new_life_began_says_no_more(redis: Redis, session_log: SessionLog) -> None:
    """One event was left, and the window of the new life does not reach so far."""
    stage = Stage(redis, session_log, window_bytes=100_000)
    await stage.follower.start()
    await written(stage)
    replay = Replay(stage.follower, stage.follower.pages, 10, 12, max_frame_bytes=100)
    assert (await anext(replay))[0] == 11
    await stage.lose_everything()
    await stage.follower.sync()
    await stage.tokens("new", generation="g2")
    stage.deliver()
    assert stage.follower.window.holds(11)
    with pytest.raises(StopAsyncIteration):
        await anext(replay)
    await stage.aclose()


async def test_what_is_missing_in_one_life_says_nothing_of_the_next(stage: Stage) -> None:
    """Another gateway found it first, and began the new one, while the page was on its way here."""
    await written(stage)
    follower = stage.follower
    await stage.redis.xdel(stage.log.keys.session("s", "log"), "3-0")
    held = Held(stage.read)
    late = asyncio.create_task(anext(follower.replay(0)))
    await held.asked.wait()
    stage.read.after_range = None
    await stage.log.rotate("s", follower.epoch, missing=True)
    await follower.sync()
    epoch = follower.epoch
    held.go.set()
    await asyncio.gather(late, return_exceptions=True)
    await follower.sync()
    assert follower.epoch == epoch


async def test_what_another_gateway_has_mended_is_not_mended_again(stage: Stage) -> None:
    await written(stage)
    follower, epoch = stage.follower, stage.follower.epoch
    await stage.log.rotate("s", epoch, missing=True)
    follower.report_missing_entries(epoch)  # of a page that was read before that
    await follower.sync()
    epoch = follower.epoch
    await follower.sync()
    assert follower.epoch == epoch
