"""Snapshots: an answer's data comes with its places in the text, whatever has become of it by then."""

from __future__ import annotations

import asyncio
import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from relay.log.session_log import SessionLog
from relay.protocol import events
from tests.examples import tries
from tests.log.in_memory import (
    LEASE_MS,
    admitted_and_claimed,
    parts_of,
    redis_in_memory,
    session_log_on,
    snapshot,
    whole_log,
)
from tests.protocol.logs import in_order


async def test_data_stands_in_a_snapshot_with_its_place_in_the_text(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    assert (await snapshot(session_log))["data"] == []
    await writer.data("first")
    await writer.tokens("Hé", "l")
    await writer.data({"k": [1]})
    await writer.tokens("lo")
    assert (await snapshot(session_log))["data"] == [
        {"name": "note", "value": "first", "at": None, "text_bytes": 0},
        {"name": "note", "value": {"k": [1]}, "at": None, "text_bytes": 4},
    ]
    await writer.restart()
    assert (await snapshot(session_log))["data"] == []
    await writer.tokens("x")
    await writer.data("new")
    await writer.end()
    assert [(one["value"], one["text_bytes"]) for one in (await snapshot(session_log))["data"]] == [("new", 1)]


async def test_data_that_is_sent_twice_stands_there_once(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    body = events.encode(events.Data("g1", 1, "note", "once", 0))
    for number in (1, 1, 2):
        await session_log.append("s", "g1", writer.fence, number, LEASE_MS, "data", body, index=0, count=1)
    assert len((await snapshot(session_log))["data"]) == 1


async def test_what_an_earlier_release_wrote_or_redis_has_lost_is_not_known(
    redis: Redis, session_log: SessionLog
) -> None:
    writer = await admitted_and_claimed(session_log)
    body = events.encode(events.Data("g1", 1, "note", 1, 0))
    await session_log.append("s", "g1", writer.fence, 1, LEASE_MS, "data", body, index=0, count=1)
    await redis.delete("t:s:{s}:d:g1")
    assert (await snapshot(session_log))["data"] is None
    await session_log.append("s", "g1", writer.fence, 2, LEASE_MS, "data", body, index=1, count=1)
    assert (await snapshot(session_log))["data"] is None


async def test_data_expires_and_goes_with_its_session(redis: Redis) -> None:
    log = session_log_on(redis, max_generations=1)
    writer = await admitted_and_claimed(log)
    await writer.data(1)
    assert await redis.pexpiretime("t:s:{s}:d:g1") == await redis.pexpiretime("t:s:{s}:meta")
    await writer.end()
    writer = await admitted_and_claimed(log, "g2")  # the oldest goes
    await writer.data(2)
    await log.delete("s", 1000)
    assert [key for key in await redis.keys() if b":d:" in key] == []


@given(st.integers(0, 2**32))
@tries(25)
def test_a_snapshot_has_text_and_data_in_the_order_of_the_log_trimmed_or_not(seed: int) -> None:
    asyncio.run(_anything(random.Random(seed)))


async def _anything(chance: random.Random) -> None:
    async with redis_in_memory() as redis:
        log = session_log_on(redis)
        writers = [await admitted_and_claimed(log, name) for name in ("g1", "g2")]
        for number in range(40):
            writer, what = chance.choice(writers), chance.random()
            if what < 0.6:
                await writer.tokens(*chance.choices(["a", "日本 ", "😀"], k=chance.randint(1, 3)))
            elif what < 0.95:
                await writer.data(number)
            else:
                await writer.restart()
        for writer in writers:
            for trimmed in (False, True):
                parts = [
                    event["text"] if event["type"] == "tokens" else {"value": event["value"]}
                    for event in await whole_log(log)
                    if event.get("generation") == writer.generation
                    and event.get("attempt") == writer.attempt
                    and event["type"] in ("tokens", "data")
                ]
                shown = [
                    part if isinstance(part, str) else {"value": part["value"]}
                    for part in parts_of(await snapshot(log, writer.generation))
                ]
                assert shown == in_order(parts), msgspec.json.encode(parts)
                if not trimmed:
                    await writer.end()
                    await log.trim("s", writer.generation)
