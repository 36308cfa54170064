"""trim.lua and what `range` makes of it: fewer entries, the same text for every reader, and no cursor in between."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from relay.protocol import frames
from relay.protocol.compact import catchups
from relay.protocol.view import SessionView
from relay.store.session.session_log import SessionLog
from tests.examples import tries
from tests.protocol.logs import in_order
from tests.store.in_memory import Writer, admitted_and_claimed, redis_in_memory, session_log_on, whole_log

NASTY = ["plain ", "/slash\\/", '"quoted"', "\u0000\x1f\n", "🙂", "e\u0301", "\u2028", "</script>", "7"]


async def trimmed(log: SessionLog, generation: str = "g1") -> None:
    while await log.trim("s", generation):
        pass


async def shown(log: SessionLog) -> SessionView:
    """What a client ends with that reads everything, in catchups of the smallest frames."""
    page = await log.range("s", 1)
    assert page is not None
    view = SessionView("s")
    view.apply({"type": "subscribed", "id": view.subscribe()["id"], "session": "s", "epoch": page.epoch, "at": 0,
                "head": page.head, "recovered": False, "active": []})  # fmt: skip
    for frame in catchups("s", 0, page.entries, page.head, 262_144):
        assert view.apply(msgspec.json.decode(frames.encode(frame))) == "applied"
    return view


def texts(view: SessionView) -> dict[str, tuple[str, str, Any, Any]]:
    return {
        name: (known.text, known.reasoning, in_order(known.parts), known.end)
        for name, known in view.generations.items()
    }


async def test_many_batches_become_one_on_either_side_of_data_and_everything_else_stays(
    session_log: SessionLog, redis: Redis
) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.reasoning("because ")
    for number in range(30):
        await writer.tokens(f"token {number} ")
        if number == 10:
            await writer.data({"a": 1})
    await writer.reasoning("of this")
    await writer.end(message_id="a")
    before = await shown(session_log)
    await trimmed(session_log)
    assert [(event["type"], event.get("count")) for event in await whole_log(session_log)] == [
        ("message", None), ("status", None), ("reasoning", 1), ("tokens", 11), ("data", None), ("tokens", 19),
        ("reasoning", 1), ("end", 30),
    ]  # fmt: skip
    assert await redis.xlen("t:s:{s}:log") == 8
    assert texts(await shown(session_log)) == texts(before)


async def data_among_tokens(session_log: SessionLog, places: int) -> Writer:
    writer = await admitted_and_claimed(session_log)
    for number in range(places):
        await writer.tokens("a")
        await writer.tokens("b")
        await writer.data({"number": number})
    await writer.end()
    return writer


async def test_very_much_data_leaves_batches_as_they_are_beyond_a_number_of_pieces(
    session_log: SessionLog, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`range` goes through the list of pieces on each page."""
    monkeypatch.setattr("relay.store.session.session_log.MAX_PIECES", 5)
    monkeypatch.setattr("relay.store.session.session_log.TRIM_ENTRIES", 7)
    await data_among_tokens(session_log, 20)
    before, entries = texts(await shown(session_log)), await redis.xlen("t:s:{s}:log")
    await trimmed(session_log)
    pieces = await redis.hget("t:s:{s}:g:g1", "pieces")
    assert pieces is not None
    assert 4 <= len(pieces.splitlines()) <= 5
    assert await redis.xlen("t:s:{s}:log") == entries - len(pieces.splitlines())
    assert texts(await shown(session_log)) == before


async def test_a_batch_by_itself_is_no_piece(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    for number in range(4):
        await writer.tokens("a")
        await writer.data(number)
    await writer.end()
    before = texts(await shown(session_log))
    await trimmed(session_log)
    assert await redis.hget("t:s:{s}:g:g1", "pieces") == b""
    assert texts(await shown(session_log)) == before


async def test_large_data_makes_no_large_page(session_log: SessionLog) -> None:
    """However large the events that lie among the batches: Redis does nothing else meanwhile."""
    writer = await admitted_and_claimed(session_log)
    for _ in range(40):
        await writer.data("x" * 100_000)
        await writer.tokens("a")
        await writer.tokens("b")
    await writer.end()
    before = texts(await shown(session_log))
    pages = 1
    while await session_log.trim("s", "g1"):
        pages += 1
    assert pages > 2
    assert texts(await shown(session_log)) == before


@pytest.mark.parametrize("text", NASTY)
async def test_text_comes_back_byte_for_byte(session_log: SessionLog, text: str) -> None:
    writer = await admitted_and_claimed(session_log)
    for _ in range(3):
        await writer.tokens(text, text)
    await writer.end()
    await trimmed(session_log)
    assert texts(await shown(session_log))["g1"][0] == text * 6


@pytest.mark.parametrize("text", ["/\n", "\x7f", "\x01"])
async def test_pieces_stay_well_below_the_bound_of_an_event(session_log: SessionLog, text: str) -> None:
    writer = await admitted_and_claimed(session_log)
    for _ in range(20):
        await writer.tokens(text * 4000)
    await writer.end()
    before = await session_log.range("s", 1, page_bytes=10**9)
    await trimmed(session_log)
    page = await session_log.range("s", 1, page_bytes=10**9)
    assert page is not None
    assert before is not None
    assert max(len(body) for _, body in page.entries) <= 64 * 1024
    # Merged as the worker would have written it, not a byte more for its escapes.
    assert sum(len(body) for _, body in page.entries) < sum(len(body) for _, body in before.entries)
    assert texts(await shown(session_log))["g1"][0] == text * 80_000


async def test_what_a_restart_voided_goes(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("void")
    await writer.restart()
    await writer.tokens("good")
    await writer.end()
    await trimmed(session_log)
    assert [event["type"] for event in await whole_log(session_log)] == [
        "message",
        "status",
        "restart",
        "tokens",
        "end",
    ]
    assert texts(await shown(session_log))["g1"][0] == "good"


async def test_a_running_generation_and_an_unknown_one_are_left_alone(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    await writer.tokens("b")
    before = await whole_log(session_log)
    await trimmed(session_log)
    await trimmed(session_log, "g_unknown")
    assert await whole_log(session_log) == before


async def test_no_cursor_among_the_merged_is_honoured_and_those_behind_are(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)  # seqs 1, 2
    for _ in range(4):
        await writer.tokens("x")  # 3 … 6
    await writer.end()  # 7
    await trimmed(session_log)
    opened = await session_log.open("s")
    assert opened is not None
    assert opened.floor == 6


async def test_one_batch_leaves_the_floor_alone(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("x")
    await writer.end()
    await trimmed(session_log)
    opened = await session_log.open("s")
    assert opened is not None
    assert opened.floor == 0


@given(st.integers(0, 2**32))
@tries(20)
def test_whatever_is_written_and_whenever_it_is_trimmed_the_reader_sees_the_same(seed: int) -> None:
    asyncio.run(_anything(random.Random(seed)))


async def _anything(chance: random.Random) -> None:
    async with redis_in_memory() as redis:
        log = session_log_on(redis)
        writers = [await admitted_and_claimed(log, f"g{number}") for number in range(3)]
        running = list(writers)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("relay.store.session.session_log.TRIM_ENTRIES", chance.choice([1, 3, 500]))
            patch.setattr("relay.store.session.session_log.PIECE_BYTES", chance.choice([1, 300, 64 * 1024]))
            while running:
                writer = chance.choice(running)
                what = chance.random()
                if what < 0.5:
                    await writer.tokens(*chance.choices(NASTY, k=chance.randint(1, 4)))
                elif what < 0.65:
                    await writer.reasoning(*chance.choices(NASTY, k=2))
                elif what < 0.75:
                    await writer.data("note")
                elif what < 0.85:
                    await writer.restart()
                elif what < 0.95:
                    await writer.end()
                    running.remove(writer)
                else:
                    await log.trim("s", chance.choice(writers).generation)
            before = texts(await shown(log))
            for _ in range(chance.randint(0, 5)):
                await log.trim("s", chance.choice(writers).generation)
                assert texts(await shown(log)) == before
            for writer in writers:
                await trimmed(log, writer.generation)
            assert texts(await shown(log)) == before
            for writer in writers:
                assert before[writer.generation][0] == "".join(writer.written["tokens"])
