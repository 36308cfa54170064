"""What the shaker makes of what it has seen: whatever is wrong is counted, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from relay.protocol.view import FrameDict
from relay.protocol.words import Reason
from tests.shaker.figures import Model, Tally
from tests.shaker.life import Life
from tests.shaker.viewers import Book
from tests.store.in_memory import admitted_and_claimed, redis_in_memory, session_log_on


class Lived:
    """A life whose one answer was ended for `reason`; `frames`: what a stream of it was to be sent."""

    def __init__(self, life: Life, tally: Tally, frames: list[FrameDict]) -> None:
        self.life, self.tally, self.frames = life, tally, frames

    def seen(self, *frames: FrameDict, came_too_late: bool = False) -> None:
        """By a stream of that answer, which is over."""
        book = Book("stream", lambda *_: None, self.life._alarm)
        for frame in frames:
            book.take(frame)
        over = asyncio.Event()
        over.set()
        stream: Any = SimpleNamespace(book=book, only="g1", over=over, came_too_late=came_too_late)
        self.life._streams.append(stream)

    async def judged(self) -> set[str]:
        await self.life._judge_answer("g1", "q")
        return set(self.tally.wrong)


@pytest.fixture
async def lived(request: pytest.FixtureRequest) -> AsyncIterator[Lived]:
    reason: Reason = getattr(request, "param", "complete")
    async with redis_in_memory() as redis:
        log, tally, model = session_log_on(redis), Tally(0), Model(random.Random(0))
        writer = await admitted_and_claimed(log)
        await writer.tokens("all ", "of it")
        await writer.end(reason)
        model.said["q"] = ["all of it"]
        life = Life("s", [], log, model, tally, random.Random(0), lambda: True)
        page = await log.range("s", 1)
        assert page is not None
        begun = {"type": "subscribed", "session": "s", "epoch": page.epoch, "at": 0, "recovered": False, "active": []}
        yield Lived(life, tally, [begun, *({**json.loads(body), "seq": seq} for seq, body in page.entries)])
        await life._http.aclose()


async def test_who_was_sent_all_of_it_and_who_came_too_late_is_content(lived: Lived) -> None:
    lived.seen(*lived.frames)
    lived.seen(came_too_late=True)
    assert await lived.judged() == set()


@pytest.mark.parametrize("sent", [0, 1, -1], ids=["nothing", "subscribed", "all but the end"])
async def test_a_stream_that_is_over_without_the_end_is_wrong(lived: Lived, sent: int) -> None:
    lived.seen(*lived.frames[:sent])
    assert "missing_end" in await lived.judged()


async def test_a_stop_that_was_answered_has_to_be_kept(lived: Lived) -> None:
    lived.life._stopped.add("g1")
    assert await lived.judged() == {"stop"}


@pytest.mark.parametrize("lived", ["stopped"], indirect=True)
async def test_a_stop_that_was_kept_is_nothing_wrong(lived: Lived) -> None:
    lived.life._stopped.add("g1")
    assert await lived.judged() == set()


async def test_a_text_that_no_call_of_the_provider_said_is_wrong(lived: Lived) -> None:
    lived.life._model.said["q"] = ["all ", "of it"]
    assert await lived.judged() == {"log"}


@pytest.mark.parametrize(("calm", "rotated"), [(True, False), (False, False), (True, True)])
async def test_degraded_is_wrong_where_redis_was_seen_all_the_time(lived: Lived, calm: bool, rotated: bool) -> None:
    lived.life._calm, lived.life._rotated = lambda: calm, rotated
    lived.seen(lived.frames[0], {"type": "degraded", "session": "s"}, *lived.frames[1:])
    assert await lived.judged() == ({"alarm"} if calm and not rotated else set())
