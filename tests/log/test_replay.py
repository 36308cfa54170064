"""Replay: any cursor gets what follows it, from window and log, and between two frames a reader costs a number."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from relay.log.session_log import SessionLog
from relay.log.window import Window
from tests.log.following import Held, Stage
from tests.log.in_memory import Writer


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
    await stage.follower.look()
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
    assert stage.read.reads == [1]


async def test_looks_that_many_ask_for_at_once_are_at_most_two(stage: Stage) -> None:
    await written(stage)
    stage.read.reads.clear()
    held = Held(stage.read)
    asked = [asyncio.create_task(stage.follower.look()) for _ in range(100)]
    await held.asked.wait()
    asked += [asyncio.create_task(stage.follower.look()) for _ in range(100)]
    await asyncio.sleep(0)
    held.go.set()
    await asyncio.gather(*asked)
    assert len(stage.read.reads) == 2


async def test_whoever_asks_for_a_look_gets_one_that_began_after_he_asked(stage: Stage) -> None:
    await written(stage)
    held = Held(stage.read)
    first = asyncio.create_task(stage.follower.look())
    await held.asked.wait()
    await stage.tokens("late")  # not on the page that is on its way
    second = asyncio.create_task(stage.follower.look())
    await asyncio.sleep(0)
    held.go.set()
    await first
    await second
    assert stage.follower.frontier == 33
