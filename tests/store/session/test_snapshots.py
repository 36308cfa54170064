"""Snapshots: an answer's data comes with its places in the text, whatever has become of it by then; all of a session is
of one moment, whatever happens while it is read."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from relay.errors import StorageError
from relay.protocol import events
from relay.protocol.view import Generation, SessionView
from relay.store.session import snapshots as snapshots_module
from relay.store.session.replies import RebuildResult
from relay.store.session.session_log import Append, SessionLog
from tests.examples import tries
from tests.protocol.logs import in_order
from tests.store.in_memory import (
    LEASE_MS,
    Writer,
    admitted_and_claimed,
    answered,
    head,
    job_of,
    parts_of,
    redis_in_memory,
    session_log_on,
    snapshot,
    whole_log,
)


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
        await session_log.append("s", "g1", writer.fence, number, LEASE_MS, Append("data", body, index=0, count=1))
    assert len((await snapshot(session_log))["data"]) == 1


async def test_what_an_earlier_release_wrote_or_redis_has_lost_is_not_known(
    redis: Redis, session_log: SessionLog
) -> None:
    writer = await admitted_and_claimed(session_log)
    body = events.encode(events.Data("g1", 1, "note", 1, 0))
    await session_log.append("s", "g1", writer.fence, 1, LEASE_MS, Append("data", body, index=0, count=1))
    await redis.delete("t:s:{s}:d:g1")
    assert (await snapshot(session_log))["data"] is None
    await session_log.append("s", "g1", writer.fence, 2, LEASE_MS, Append("data", body, index=1, count=1))
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


# Of one moment


@asynccontextmanager
async def between_reads(happens: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """What happens before each read of a snapshot but its first."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("read_atomically", "call"):
            plain = getattr(snapshots_module, name)

            async def later(*arguments: Any, plain: Any = plain) -> Any:
                await happens()
                return await plain(*arguments)

            patch.setattr(snapshots_module, name, later)
        yield


async def session_snapshot(log: SessionLog, limit: int = 50) -> dict[str, Any]:
    found = await log.snapshots.session("s", limit)
    assert found is not None
    return found


def values(parts: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
    """Text, and what the data among it says, in one order."""
    return in_order([part if isinstance(part, str) else {"value": part["value"]} for part in parts])


async def entries_of(log: SessionLog) -> dict[int, bytes]:
    page = await log.range("s", 1)
    assert page is not None
    return dict(page.entries)


def shown_at(entries: dict[int, bytes], head: int) -> dict[str, Generation]:
    """What a client shows that has applied these up to there."""
    view = SessionView("s")
    view.epoch, view.waiting = "e", False
    for seq, body in sorted(entries.items()):
        if seq <= head:
            view.last = seq - 1
            assert view.apply({"session": "s", "seq": seq, **msgspec.json.decode(body)}) == "applied"
    return view.generations


async def test_a_session_is_as_of_one_moment_though_its_answers_go_on(session_log: SessionLog) -> None:
    """Whoever shows it, and subscribes with its epoch and head, gets nothing twice."""
    await answered(session_log, job_of("g0"), "done")
    first, second = await admitted_and_claimed(session_log), await admitted_and_claimed(session_log, "g2")
    for writer in (first, second):
        await writer.reasoning("Hm")
        await writer.tokens("so far")

    async def more() -> None:
        for writer in (first, second):
            if (await writer.tokens(" more")).what != "ended":
                await writer.reasoning(" more")
                await writer.data("more")
        await second.end()

    async with between_reads(more):
        found = await session_snapshot(session_log)
    assert [one["text"] for one in found["generations"]] == ["done", "so far", "so far"]
    assert [one["reasoning"] for one in found["generations"]] == ["", "Hm", "Hm"]
    assert [one["state"] for one in found["generations"]] == ["ended", "streaming", "streaming"]
    assert [one["data"] for one in found["generations"]] == [[], [], []]
    assert "count" not in found["generations"][2]
    assert [turn["content"] for turn in found["messages"]] == ["question of g0", "done"]
    shown = shown_at(await entries_of(session_log), found["head"])
    assert [shown[one["generation"]].text for one in found["generations"]] == ["done", "so far", "so far"]


async def test_an_attempt_that_is_voided_while_it_is_read_is_read_again(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("void")

    async def restart_once() -> None:
        if writer.attempt == 1:
            await writer.restart()
            await writer.tokens("new")

    async with between_reads(restart_once):
        found = await session_snapshot(session_log)
    (one,) = found["generations"]
    assert (one["attempt"], one["text"]) == (2, "new")
    assert shown_at(await entries_of(session_log), found["head"])["g1"].text == "new"


async def test_what_was_read_of_two_epochs_is_read_again(redis: Redis, session_log: SessionLog) -> None:
    await answered(session_log, job_of(), "before")
    lost = False

    async def lose_everything() -> None:
        nonlocal lost
        if not lost:
            lost = True
            await redis.flushall()
            await answered(session_log, job_of("g2"), "after")

    async with between_reads(lose_everything):
        found = await session_snapshot(session_log)
    assert [one["text"] for one in found["generations"]] == ["after"]
    assert [turn["content"] for turn in found["messages"]] == ["question of g2", "after"]
    opened = await session_log.open("s")
    assert opened is not None
    assert (found["epoch"], found["head"]) == (opened.epoch, opened.head)


@pytest.mark.parametrize("ends", [False, True])
async def test_what_had_been_lost_at_the_moment_is_left_out_though_it_comes_back(
    redis: Redis, session_log: SessionLog, ends: bool
) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("so far")
    await session_log.rotate("s", writer.claim.epoch, missing=True)
    if ends:  # it had ended, and is complete: only its worker does not know it yet
        await redis.rpush("t:s:{s}:transcript", "g1")

    async def comes_back() -> None:
        made = await session_log.rebuild(
            job_of(), writer.fence, "w1", LEASE_MS, [writer.claim.epoch], 1, writer.claim.times
        )
        if not isinstance(made, RebuildResult):
            return
        writer.fence, writer.n, writer.written["tokens"] = made.fence, 1, []
        await writer.tokens("so far")
        if ends:
            await writer.end()

    before = await head(session_log)
    async with between_reads(comes_back):
        found = await session_snapshot(session_log)
    assert (found["head"], found["generations"], found["messages"]) == (before, [], [])


async def test_a_session_that_comes_back_shorter_while_it_is_read_is_read_again(
    redis: Redis, session_log: SessionLog
) -> None:
    """An older copy, of the same epoch."""
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("early")
    copy = {key: await redis.dump(key) or b"" for key in await redis.keys()}
    await writer.tokens(" and late")
    lost = False

    async def go_back() -> None:
        nonlocal lost
        if not lost:
            lost = True
            for key, value in copy.items():
                await redis.restore(key, 0, value, replace=True)

    async with between_reads(go_back):
        found = await session_snapshot(session_log)
    assert found["head"] == await head(session_log)
    assert [one["text"] for one in found["generations"]] == ["early"]


async def test_a_session_that_never_rests_is_an_error_in_the_end(redis: Redis, session_log: SessionLog) -> None:
    await answered(session_log, job_of(), "x")

    async def begin_anew() -> None:
        opened = await session_log.open("s")
        assert opened is not None
        await session_log.rotate("s", opened.epoch, missing=False)

    async with between_reads(begin_anew):
        with pytest.raises(StorageError, match="snapshot"):
            await session_snapshot(session_log)


async def test_a_session_that_is_deleted_while_it_is_read_is_none(session_log: SessionLog) -> None:
    await answered(session_log, job_of(), "x")

    async def delete() -> None:
        await session_log.delete("s", 1000)

    async with between_reads(delete):
        assert await session_log.snapshots.session("s", 50) is None


@given(st.integers(0, 2**32))
@tries(30)
async def test_whatever_happens_meanwhile_a_snapshot_is_what_a_viewer_shows_at_its_head(seed: int) -> None:
    chance = random.Random(seed)
    async with redis_in_memory() as redis:
        log = session_log_on(redis)
        writers: list[Writer] = []
        written: dict[int, bytes] = {}
        made = 0

        async def anything() -> None:
            nonlocal made
            what = chance.random()
            if what < 0.15 or not writers:
                made += 1
                writers.append(await admitted_and_claimed(log, f"g{made}"))
            elif what < 0.5:
                await chance.choice(writers).tokens("é" * chance.randint(1, 4))
            elif what < 0.6:
                await chance.choice(writers).reasoning("hm")
            elif what < 0.8:
                await chance.choice(writers).data(chance.randint(0, 9))
            elif what < 0.85:
                await chance.choice(writers).restart()
            elif what < 0.92:
                ended = writers.pop(chance.randrange(len(writers)))
                await ended.end()
            else:
                await log.trim("s", f"g{chance.randint(1, made)}")
            written.update(await entries_of(log) | written)  # each as it came: a trim joins text across a head

        for _ in range(chance.randint(1, 40)):
            await anything()

        async def meanwhile() -> None:
            if chance.random() < 0.5:
                await anything()

        async with between_reads(meanwhile):
            try:
                found = await session_snapshot(log)
            except StorageError:
                return  # it never rested
        shown = shown_at(written, found["head"])
        assert [one["generation"] for one in found["generations"]] == list(shown)
        for one in found["generations"]:
            there = shown[one["generation"]]
            assert values(parts_of(one)) == values(there.parts)
            assert one["reasoning"] == there.reasoning
            assert (one["attempt"], one["state"] == "ended") == (there.attempt, there.end is not None)
