"""The flusher: however appends fail, the log holds every event once and in order, or the flusher lets go."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.store.session.session_log import SessionLog
from relay_workers.writing.batching import Kind
from relay_workers.writing.flusher import Flusher, OwnershipLost
from tests.examples import tries
from tests.scenarios.processes import until
from tests.store.in_memory import (
    LEASE_MS,
    Clock,
    admitted_and_claimed,
    claimed,
    job_of,
    redis_in_memory,
    session_log_on,
    snapshot,
    transcript,
    whole_log,
)
from tests.workers.writing.unreliable import NEVER_MS, Manual, Unreliable, finished, flusher_of

WAIT_S = 10


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.install(monkeypatch)
    return clock


@pytest.fixture
async def session_log(clock: Clock) -> AsyncIterator[SessionLog]:
    async with redis_in_memory() as redis:
        yield session_log_on(redis)


def members(**named: Any) -> bytes:
    return msgspec.json.encode(named)


async def written(session_log: SessionLog) -> list[dict[str, Any]]:
    """What the flusher wrote: everything after the question and `queued`."""
    return (await whole_log(session_log))[2:]


async def let_go_of(flusher: Flusher) -> str:
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(OwnershipLost) as raised:
            await flusher.run()
    return raised.value.why


# What it writes


async def test_everything_that_was_said_stands_in_the_log_in_order(session_log: SessionLog) -> None:
    await admitted_and_claimed(session_log)
    flusher = flusher_of(Unreliable(session_log))
    flusher.status("preparing")
    flusher.status("thinking", "a moment")
    flusher.token("reasoning", "hm")
    for text in ("Hel", "lo", ", ", "world"):
        flusher.token("tokens", text)
    flusher.end("complete", members(finish="stop"), "a1")
    await finished(flusher)
    log = await written(session_log)
    assert [{name: value for name, value in event.items() if name != "seq"} for event in log[:-1]] == [
        {"type": "status", "generation": "g1", "attempt": 1, "state": "preparing"},
        {"type": "status", "generation": "g1", "attempt": 1, "state": "thinking", "detail": "a moment"},
        {"type": "reasoning", "generation": "g1", "attempt": 1, "index": 0, "count": 1, "text": "hm"},
        {"type": "tokens", "generation": "g1", "attempt": 1, "index": 0, "count": 3, "text": "Hello, "},
        {"type": "tokens", "generation": "g1", "attempt": 1, "index": 3, "count": 1, "text": "world"},
    ]
    assert (log[-1]["type"], log[-1]["finish"], log[-1]["count"]) == ("end", "stop", 4)
    assert log[-1]["crc32"] == zlib.crc32(b"Hello, world")
    assert (await session_log.snapshots.turns("s", ["g1"]))[1]["message_id"] == "a1"


async def test_the_first_token_is_not_held_back(session_log: SessionLog) -> None:
    await admitted_and_claimed(session_log)
    log = Unreliable(session_log)
    flusher = flusher_of(log, size=20)
    running = asyncio.create_task(flusher.run())
    flusher.token("tokens", "Hi")
    async with asyncio.timeout(WAIT_S):
        await log.tried.wait()
    assert (await snapshot(session_log))["text"] == "Hi"
    flusher.token("tokens", " there")
    flusher.end("complete", b"{}")
    async with asyncio.timeout(WAIT_S):
        await running
    assert [event["count"] for event in await written(session_log)] == [1, 1, 2]


async def test_it_wants_a_turn_when_a_batch_could_leave_now(session_log: SessionLog) -> None:
    await admitted_and_claimed(session_log)
    now_ms, log = Manual(), Unreliable(session_log)
    flusher = flusher_of(log, linger_ms=50, now_ms=now_ms)
    running = asyncio.create_task(flusher.run())

    async def waits() -> None:
        await until(lambda: flusher._waiting is not None and not flusher._waiting.done(), "the flusher waits")

    await waits()
    assert not flusher.wants_turn
    flusher.token("tokens", "first")
    assert flusher.wants_turn
    async with asyncio.timeout(WAIT_S):
        while not log.tries:  # noqa: ASYNC110 - an event would come when the append is over
            await asyncio.sleep(0)
    flusher.token("tokens", "second")
    now_ms.now_ms = 50
    flusher.token("tokens", "third")
    assert not flusher.wants_turn
    await waits()
    flusher.token("tokens", "fourth")
    assert not flusher.wants_turn
    now_ms.now_ms = 100
    flusher.token("tokens", "fifth")
    assert flusher.wants_turn
    flusher.end("complete", b"{}")
    async with asyncio.timeout(WAIT_S):
        await running


async def test_whatever_makes_a_batch_due_while_the_flusher_waits_is_enough(session_log: SessionLog) -> None:
    await admitted_and_claimed(session_log)
    now_ms, log = Manual(), Unreliable(session_log)
    flusher = flusher_of(log, size=3, linger_ms=20, now_ms=now_ms)
    running = asyncio.create_task(flusher.run())

    async def waits() -> None:
        await until(lambda: flusher._waiting is not None, "the flusher waits")

    await waits()
    flusher.token("tokens", "the first")
    await log.until_tried(1)
    await waits()
    for text in ("enough", "of", "them"):
        flusher.token("tokens", text)
    await log.until_tried(2)
    await waits()
    flusher.token("tokens", "before")
    await asyncio.sleep(0)
    flusher.data("found", 1)
    await log.until_tried(4)
    await waits()
    flusher.token("tokens", "old enough")
    now_ms.now_ms += 20
    await log.until_tried(5)
    await waits()
    flusher.end("complete", b"{}")
    async with asyncio.timeout(WAIT_S):
        await running
    assert log.counts == [1, 3, 1, 1, 1]


async def test_a_token_that_only_joins_a_batch_gives_the_flusher_no_turn(session_log: SessionLog) -> None:
    await admitted_and_claimed(session_log)
    log = Unreliable(session_log)
    flusher = flusher_of(log, size=20, linger_ms=60_000)
    running = asyncio.create_task(flusher.run())
    flusher.token("tokens", "first")
    await log.until_tried(1)
    await until(lambda: flusher._waiting is not None, "the flusher waits")
    waiting = flusher._waiting
    for text in ("one", "two", "three"):
        flusher.token("tokens", text)
        await asyncio.sleep(0)
    assert waiting is not None
    assert (flusher._waiting, waiting.done()) == (waiting, False)
    flusher.end("complete", b"{}")
    async with asyncio.timeout(WAIT_S):
        await running


async def test_a_restart_voids_what_is_pending(session_log: SessionLog) -> None:
    await admitted_and_claimed(session_log)
    flusher = flusher_of(Unreliable(session_log))
    flusher.token("tokens", "void")
    flusher.restart("provider_failed")
    flusher.status("thinking")
    flusher.token("tokens", "new")
    flusher.end("complete", b"{}")
    await finished(flusher)
    log = await written(session_log)
    assert [(event["type"], event["attempt"]) for event in log] == [
        ("restart", 2), ("status", 2), ("tokens", 2), ("end", 2),
    ]  # fmt: skip
    assert (await snapshot(session_log))["text"] == "new"
    assert (log[-1]["count"], log[-1]["text_bytes"]) == (1, 3)


# When writes fail


@pytest.mark.parametrize("fault", ["fails", "lost"])
async def test_a_write_that_failed_is_tried_again_under_the_same_number(session_log: SessionLog, fault: str) -> None:
    await admitted_and_claimed(session_log)
    log = Unreliable(session_log, "", fault, fault, fault, fault, fault, "", fault)
    flusher = flusher_of(log)
    flusher.status("preparing")
    flusher.status("thinking")
    flusher.token("tokens", "Hi")
    flusher.end("complete", b"{}")
    await finished(flusher)
    assert log.numbers == [1, 2, 2, 2, 2, 2, 2, 3, 3]
    assert log.bodies[1:7] == [log.bodies[1]] * 6
    assert [event["type"] for event in await written(session_log)] == ["status", "status", "tokens", "end"]
    assert log.plan == []


@pytest.mark.parametrize("fault", ["fails", "lost"])
async def test_an_end_that_failed_is_tried_again_and_written_once(session_log: SessionLog, fault: str) -> None:
    await admitted_and_claimed(session_log)
    log = Unreliable(session_log, fault, fault)
    flusher = flusher_of(log)
    flusher.end("complete", members(finish="stop"), "a1")
    await finished(flusher)
    assert [event["type"] for event in await written(session_log)] == ["end"]
    assert await transcript(session_log) == ["g1"]


async def test_tokens_that_came_while_redis_was_away_leave_in_one_batch(session_log: SessionLog) -> None:
    await admitted_and_claimed(session_log)
    now_ms = Manual()
    log = Unreliable(session_log, *["fails"] * 5)
    flusher = flusher_of(log, linger_ms=50, now_ms=now_ms)
    flusher.token("tokens", "first")
    running = asyncio.create_task(flusher.run())
    async with asyncio.timeout(WAIT_S):
        await log.tried.wait()
    for number in range(100):
        flusher.token("tokens", f" {number}")
    now_ms.now_ms = 1000
    flusher.end("complete", b"{}")
    async with asyncio.timeout(WAIT_S):
        await running
    assert [(event["type"], event["count"]) for event in await written(session_log)] == [
        ("tokens", 1), ("tokens", 100), ("end", 101),
    ]  # fmt: skip


# When it may not go on


async def test_it_lets_go_when_another_worker_has_taken_over(session_log: SessionLog, clock: Clock) -> None:
    await admitted_and_claimed(session_log)
    clock.advance(ms=LEASE_MS)
    other = await claimed(session_log, job_of(), "w2")
    flusher = flusher_of(Unreliable(session_log, "fails", "lost"))
    flusher.token("tokens", "mine")
    assert await let_go_of(flusher) == "stale"
    await other.tokens("theirs")
    assert (await snapshot(session_log))["text"] == "theirs"


@pytest.mark.parametrize("last", ["tokens", "end"])
async def test_it_lets_go_when_somebody_else_has_ended_it(session_log: SessionLog, last: str) -> None:
    await admitted_and_claimed(session_log)
    await session_log.stop("s", "g1")
    flusher = flusher_of(Unreliable(session_log, "lost"))
    if last == "tokens":
        flusher.token("tokens", "late")
    else:
        flusher.end("complete", b"{}", "a1")
    assert await let_go_of(flusher) == "ended"
    assert [event["reason"] for event in await written(session_log)] == ["stopped"]
    assert await transcript(session_log) == []


# Anything


WORDS = st.lists(st.sampled_from(["a", "bb ", "日本", "😀", '"\n']), min_size=1, max_size=5)
STEP = (
    st.tuples(st.just("tokens"), WORDS)
    | st.tuples(st.just("reasoning"), WORDS)
    | st.tuples(st.just("restart"), st.integers(0, 2))
    | st.tuples(st.just("turn"), st.integers(1, 8))
)
FAULTS = st.lists(
    st.sampled_from(["", "", "fails", "fails", "lost", "lost", "refused", "late1", "late2", "late4", "late7"]),
    max_size=60,
)


class Told:
    """What the flusher was told, by attempt."""

    def __init__(self) -> None:
        self.attempts: list[dict[Kind, list[str]]] = [{"tokens": [], "reasoning": []}]
        self.statuses: list[tuple[int, str]] = []

    def check(self, log: list[dict[str, Any]]) -> None:
        assert [event["attempt"] for event in log] == sorted(event["attempt"] for event in log)
        assert [event["attempt"] for event in log if event["type"] == "restart"] == list(
            range(2, len(self.attempts) + 1)
        )
        assert [(event["attempt"], event["state"]) for event in log if event["type"] == "status"] == self.statuses
        for attempt, fed in enumerate(self.attempts, 1):
            for kind, texts in fed.items():
                batches = [event for event in log if (event["type"], event["attempt"]) == (kind, attempt)]
                count = sum(batch["count"] for batch in batches)
                assert "".join(batch["text"] for batch in batches) == "".join(texts[:count])
                assert [batch["index"] for batch in batches] == [
                    sum(batch["count"] for batch in batches[:place]) for place in range(len(batches))
                ]
                if attempt == len(self.attempts):
                    assert count == len(texts)
        kinds = [event["type"] for event in log]
        assert kinds.count("end") == 1
        text = "".join(self.attempts[-1]["tokens"]).encode()
        end = log[-1]
        assert (end["type"], end["attempt"]) == ("end", len(self.attempts))
        assert (end["count"], end["text_bytes"], end["crc32"]) == (
            len(self.attempts[-1]["tokens"]), len(text), zlib.crc32(text),
        )  # fmt: skip


async def play(
    steps: list[tuple[str, Any]], faults: list[str], size: int, linger_ms: float, largest: int | None
) -> None:
    async with redis_in_memory() as redis:
        session_log = session_log_on(redis)
        await admitted_and_claimed(session_log)
        unreliable = Unreliable(session_log, *faults, refuses=lambda text: largest is not None and len(text) > largest)
        flusher, told = flusher_of(unreliable, size=size, linger_ms=linger_ms), Told()
        running = asyncio.create_task(flusher.run())

        def status() -> None:
            flusher.status("thinking")
            told.statuses.append((len(told.attempts), "thinking"))

        status()
        for what, value in steps:
            match what:
                case "tokens" | "reasoning" as kind:
                    for text in value:
                        flusher.token("tokens" if kind == "tokens" else "reasoning", text)
                    told.attempts[-1]["tokens" if kind == "tokens" else "reasoning"] += value
                case "restart":
                    flusher.restart("provider_failed")
                    told.attempts.append({"tokens": [], "reasoning": []})
                    for _ in range(value):
                        status()
                case _:
                    for _ in range(value):
                        await asyncio.sleep(0)
        flusher.end("complete", b"{}", "a1")
        async with asyncio.timeout(WAIT_S):
            await running
        await unreliable.land()
        log = await written(session_log)
        told.check(log)
        assert list(dict.fromkeys(unreliable.numbers)) == list(range(1, max(unreliable.numbers) + 1))
        assert (await snapshot(session_log))["text"] == "".join(told.attempts[-1]["tokens"])
        assert [event["seq"] for event in log] == list(range(3, len(log) + 3))


@given(
    st.lists(STEP, max_size=25),
    FAULTS,
    st.integers(1, 5),
    st.sampled_from([0, NEVER_MS]),
    st.sampled_from([None, None, 8, 16]),
)
@tries(40)
def test_however_writes_fail_the_log_holds_everything_once_and_in_order(
    steps: list[tuple[str, Any]], faults: list[str], size: int, linger_ms: float, largest: int | None
) -> None:
    asyncio.run(play(steps, faults, size, linger_ms, largest))
