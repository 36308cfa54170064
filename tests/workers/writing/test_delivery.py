"""Delivery: retries, then tokens one by one, then the spill; whatever had landed, each token stands once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.store.session.replies import WriteOutcome
from relay.store.session.session_log import SessionLog
from relay_workers.writing.delivery import Overflow, Rejected
from relay_workers.writing.flusher import Flusher
from tests.store.in_memory import admitted_and_claimed, redis_in_memory, session_log_on, snapshot, whole_log
from tests.workers.writing.unreliable import IMPATIENT, Counted, Manual, Unreliable, finished, flusher_of

FOR_GOOD = ["fails"] * 4  # a try and three retries


@pytest.fixture
async def session_log() -> AsyncIterator[SessionLog]:
    async with redis_in_memory() as redis:
        session_log = session_log_on(redis)
        await admitted_and_claimed(session_log)
        yield session_log


@pytest.fixture
def counted() -> Counted:
    return Counted()


def told(log: Unreliable, *texts: str, **options: Any) -> Flusher:
    """A flusher that was told these tokens, and the end."""
    flusher = flusher_of(log, **options)
    for text in texts:
        flusher.token("tokens", text)
    flusher.end("complete", b"{}", "a1")
    return flusher


async def batches(session_log: SessionLog) -> list[str]:
    """The texts of the log's `tokens` events; fails if there is not exactly one end, and it last."""
    log = (await whole_log(session_log))[2:]
    assert [event["type"] for event in log].index("end") == len(log) - 1
    return [event["text"] for event in log if event["type"] == "tokens"]


# Retries


async def test_a_batch_that_fails_three_times_is_only_tried_again(session_log: SessionLog, counted: Counted) -> None:
    log = Unreliable(session_log, "fails", "lost", "refused")
    await finished(told(log, "a", "b", "c"))
    assert log.numbers == [1, 1, 1, 1]
    assert len(set(log.bodies)) == 1
    assert await batches(session_log) == ["abc"]
    assert counted() == {"flush_retries": 3}


async def test_pauses_double_up_to_their_bounds(session_log: SessionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("relay_workers.writing.delivery.random.uniform", lambda _, most: most)
    monkeypatch.setattr("relay_workers.writing.delivery.asyncio.sleep", noted)
    patience = replace(IMPATIENT, retries=4, retry_ms=100, retry_max_ms=500, probe_ms=100, probe_max_ms=1000)
    flusher = flusher_of(Unreliable(session_log, *["fails"] * 10, "", "fails"), patience=patience)
    flusher.status("thinking")
    flusher.end("complete", b"{}")
    await finished(flusher)
    assert pauses == [0.1, 0.2, 0.4, 0.5, 0.1, 0.2, 0.4, 0.8, 1, 1, 0.1]


async def test_a_try_that_gets_no_answer_is_over_after_a_second(
    session_log: SessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is for the whole try: waiting for a connection, connecting and the reply have one each besides."""
    append, hanging = session_log.append, 2

    async def hangs(*arguments: Any, **named: Any) -> WriteOutcome:
        nonlocal hanging
        hanging -= 1
        if hanging >= 0:
            await asyncio.Event().wait()
        return await append(*arguments, **named)

    monkeypatch.setattr(session_log, "append", hangs)
    with capture_logs() as lines:
        await finished(told(Unreliable(session_log), "a", patience=replace(IMPATIENT, try_s=0.1)))
    # A busy machine may take longer than that for a real answer too; then there are more.
    assert [line["detail"] for line in lines if line["event"] == "flush_retry"][:2] == ["no answer within 0.1 s"] * 2
    assert await batches(session_log) == ["a"]


# Token by token


async def test_a_batch_that_is_refused_for_its_size_goes_token_by_token(
    session_log: SessionLog, counted: Counted
) -> None:
    log = Unreliable(session_log, refuses=lambda text: len(text) > 2)
    with capture_logs() as lines:
        await finished(told(log, "aa", "bb", "cc", "dd"))
    assert await batches(session_log) == ["aa", "bb", "cc", "dd"]
    assert log.numbers == [1] * 4 + [1, 2, 3, 4]
    assert counted() == {"flush_retries": 3, "flush_failures": 1, "flush_fallbacks": 1, "flush_tokens": 3}
    assert [(line["event"], line.get("retry"), line.get("of")) for line in lines] == [
        ("flush_retry", 1, 3), ("flush_retry", 2, 3), ("flush_retry", 3, 3), ("flush_failed", None, None),
        ("flush_fallback", None, None),
    ]  # fmt: skip
    assert all((line["session"], line["generation"]) == ("s", "g1") for line in lines)


async def test_a_batch_that_had_landed_is_not_doubled_by_its_tokens(session_log: SessionLog, counted: Counted) -> None:
    log = Unreliable(session_log, "lost", *["fails"] * 3)
    await finished(told(log, "a", "b", "c", "d"))
    assert await batches(session_log) == ["abc", "d"]
    assert log.numbers == [1] * 4 + [1, 2, 3, 4]
    assert counted()["flush_tokens"] == 3


@pytest.mark.parametrize("tries_later", [4, 5, 6, 7, 8])
async def test_a_batch_that_lands_late_between_its_tokens_doubles_and_loses_nothing(
    session_log: SessionLog, tries_later: int
) -> None:
    log = Unreliable(session_log, f"late{tries_later}", *["fails"] * 3)
    await finished(told(log, "a", "b", "c", "d"))
    await log.land()
    assert await batches(session_log) == (["abc", "d"] if tries_later == 4 else ["a", "b", "c", "d"])
    assert (await snapshot(session_log))["text"] == "abcd"


async def test_in_an_outage_one_token_is_tried_and_the_rest_is_written_as_one(
    session_log: SessionLog, counted: Counted
) -> None:
    log = Unreliable(session_log, *FOR_GOOD, "fails", "fails")
    await finished(told(log, "a", "b", "c", "d"))
    assert await batches(session_log) == ["a", "bc", "d"]
    assert log.numbers == [1] * 7 + [2, 3]
    assert counted() == {
        "flush_retries": 3, "flush_failures": 1, "flush_fallbacks": 1, "flush_tokens": 1, "spills": 1,
        "spills_restored": 1,
    }  # fmt: skip


@pytest.mark.parametrize("first", ["lost", "late4", "late5", "late6", "late7", "late8"])
@pytest.mark.parametrize("single", ["fails", "lost", "late1", "late2", "late3"])
async def test_a_token_in_doubt_is_spilled_as_it_is(session_log: SessionLog, first: str, single: str) -> None:
    """Joined with any other it would be lost if it had landed, and take the other with it."""
    log = Unreliable(session_log, first, *["fails"] * 3, "", single, "fails", "")
    flusher = told(log, "a", "b", "c", "d", "e")
    await finished(flusher)
    await log.land()
    assert (await snapshot(session_log))["text"] == "abcde"
    assert "".join(await batches(session_log)) == "abcde"
    assert log.counts[:7] == [3] * 4 + [1, 1, 1]


async def test_a_lone_token_is_spilled_without_being_tried_once_more(session_log: SessionLog, counted: Counted) -> None:
    log = Unreliable(session_log, *FOR_GOOD)
    await finished(told(log, "a"))
    assert log.numbers == [1] * 5
    assert counted() == {"flush_retries": 3, "flush_failures": 1, "spills": 1, "spills_restored": 1}


@pytest.mark.parametrize("fault", ["fails", "refused"])
async def test_a_status_and_an_end_are_spilled_whole(session_log: SessionLog, counted: Counted, fault: str) -> None:
    log = Unreliable(session_log, *[fault] * 6, "", *[fault] * 6)
    flusher = flusher_of(log)
    flusher.status("thinking")
    flusher.end("complete", b"{}")
    await finished(flusher)
    assert [event["type"] for event in (await whole_log(session_log))[2:]] == ["status", "end"]
    assert counted() == {"flush_retries": 6, "flush_failures": 2, "spills": 2, "spills_restored": 2}


# The spill


async def away(log: Unreliable, flusher: Flusher, *texts: str) -> asyncio.Task[None]:
    """Redis goes away under these tokens; the flusher has spilled, and probes."""
    log.plan = ["fails"] * 100_000
    for text in texts:
        flusher.token("tokens", text)
    running = asyncio.create_task(flusher.run())
    await log.until_tried(log.tries + 7)
    return running


async def written(running: asyncio.Task[None]) -> None:
    async with asyncio.timeout(10):
        await running


async def test_what_comes_while_redis_is_away_waits_and_is_written_in_large_batches(
    session_log: SessionLog, counted: Counted
) -> None:
    log, now_ms = Unreliable(session_log), Manual()
    flusher = flusher_of(log, linger_ms=50, now_ms=now_ms)
    with capture_logs() as lines:
        running = await away(log, flusher, "first")
        assert counted.spilled_bytes == 5
        for number in range(100):
            flusher.token("tokens", f" {number}")
        assert counted.spilled_bytes == 5 + 290
        now_ms.now_ms = 3000
        flusher.end("complete", b"{}")
        log.plan.clear()
        await written(running)
    assert await batches(session_log) == ["first", "".join(f" {number}" for number in range(100))]
    assert counted() == {"flush_retries": 3, "flush_failures": 1, "spills": 1, "spills_restored": 1}
    assert counted.spilled_bytes == 0
    assert [line["event"] for line in lines] == ["flush_retry"] * 3 + ["flush_failed", "spilled", "restored"]
    assert (lines[-1]["bytes"], lines[-1]["waited_ms"]) == (295, 3000)


async def test_redis_that_goes_again_before_all_is_written_is_the_same_spill(
    session_log: SessionLog, counted: Counted
) -> None:
    log = Unreliable(session_log)
    flusher = flusher_of(log, size=2)
    running = await away(log, flusher, "a", "b", "c", "d", "e")
    log.plan[:] = ["", "", "fails", "fails", "lost", "fails"]
    flusher.end("complete", b"{}")
    await written(running)
    assert "".join(await batches(session_log)) == "abcde"
    assert (counted()["spills"], counted()["spills_restored"], counted()["flush_failures"]) == (1, 1, 1)
    assert counted.spilled_bytes == 0


async def test_a_large_batch_that_is_refused_is_halved_until_it_fits(session_log: SessionLog) -> None:
    log = Unreliable(session_log)
    flusher = flusher_of(log, linger_ms=0)
    running = await away(log, flusher, "first")
    texts = [f" {number}" for number in range(100)]
    for text in texts:
        flusher.token("tokens", text)
    flusher.end("complete", b"{}")
    log.plan.clear()
    log.refuses = lambda text: len(text) > 50
    await written(running)
    parts = await batches(session_log)
    assert "".join(parts) == "first" + "".join(texts)
    assert all(25 < len(part) <= 50 for part in parts[1:])


async def test_a_spill_that_is_full_refuses_the_next_token_and_writes_what_it_has(
    session_log: SessionLog, counted: Counted
) -> None:
    log = Unreliable(session_log)
    flusher = flusher_of(log, patience=replace(IMPATIENT, spill_bytes=10))
    running = await away(log, flusher, "first")
    flusher.token("tokens", "日1")
    flusher.token("reasoning", "2")
    with pytest.raises(Overflow, match="10 bytes"):
        flusher.token("tokens", "2")
    flusher.end("failed", b'{"error":{"code":"storage"}}')
    log.plan.clear()
    await written(running)
    assert await batches(session_log) == ["first", "日1"]
    assert (await snapshot(session_log))["error"] == {"code": "storage"}
    assert counted.spilled_bytes == 0


async def test_what_comes_once_redis_is_back_is_no_part_of_the_spill(session_log: SessionLog) -> None:
    log = Unreliable(session_log)
    flusher = flusher_of(log, patience=replace(IMPATIENT, spill_bytes=5))
    running = await away(log, flusher, "first")
    with pytest.raises(Overflow):
        flusher.token("tokens", "!")
    log.plan.clear()
    await log.until_tried(log.tries + 1)
    await asyncio.sleep(0)
    flusher.token("tokens", " and much more")
    flusher.end("complete", b"{}")
    await written(running)
    assert await batches(session_log) == ["first", " and much more"]


async def test_a_restart_while_something_is_spilled_voids_what_waits_behind_it(
    session_log: SessionLog, counted: Counted
) -> None:
    log = Unreliable(session_log)
    flusher = flusher_of(log)
    running = await away(log, flusher, "a", "b", "c", "void")
    flusher.restart("provider_failed")
    assert counted.spilled_bytes == 3
    flusher.token("tokens", "new")
    assert counted.spilled_bytes == 6
    flusher.end("complete", b"{}")
    log.plan.clear()
    await written(running)
    log_ = (await whole_log(session_log))[2:]
    assert [(event["type"], event["attempt"]) for event in log_] == [
        ("tokens", 1), ("tokens", 1), ("restart", 2), ("tokens", 2), ("end", 2),
    ]  # fmt: skip
    assert (await snapshot(session_log))["text"] == "new"
    assert counted.spilled_bytes == 0


async def test_a_worker_that_is_told_to_go_leaves_no_spilled_bytes_behind(
    session_log: SessionLog, counted: Counted
) -> None:
    log = Unreliable(session_log)
    running = await away(log, flusher_of(log), "a", "b")
    assert counted.spilled_bytes == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert counted.spilled_bytes == 0


# A refusal that does not end


async def rejected(running: asyncio.Task[None]) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(Rejected):
            await running


async def test_a_token_that_is_refused_for_ever_ends_the_answer_with_what_came_before_it(
    session_log: SessionLog, counted: Counted
) -> None:
    log, now_ms = Unreliable(session_log, refuses=lambda text: "poison" in text), Manual()
    flusher = flusher_of(log, now_ms=now_ms, patience=replace(IMPATIENT, lost_after_ms=60_000))
    for text in ("a", "b", "poison", "c"):
        flusher.token("tokens", text)
    running = asyncio.create_task(flusher.run())
    await log.until_tried(10)
    now_ms.now_ms = 59_999
    await log.until_tried(15)
    assert not running.done()
    now_ms.now_ms = 60_000
    await rejected(running)
    flusher.end("failed", b'{"error":{"code":"storage"}}')
    await finished(flusher)
    assert await batches(session_log) == ["a", "b"]
    end = (await whole_log(session_log))[-1]
    assert (end["type"], end["count"], end["error"]["code"]) == ("end", 2, "storage")
    assert counted.spilled_bytes == 0


@pytest.mark.parametrize("landed", [True, False])
async def test_an_answer_that_is_given_up_ends_even_if_more_had_landed_than_was_known(
    session_log: SessionLog, landed: bool
) -> None:
    log = Unreliable(session_log, "lost" if landed else "fails", refuses=lambda _: True)
    flusher = told(log, "a", "b", "c", patience=replace(IMPATIENT, lost_after_ms=0))
    await rejected(asyncio.create_task(flusher.run()))
    log.refuses = lambda _: False
    flusher.end("failed", b"{}")
    await finished(flusher)
    assert (await whole_log(session_log))[-1]["count"] == (3 if landed else 0)


async def test_an_answer_is_given_up_after_a_restart_that_had_landed_unseen(session_log: SessionLog) -> None:
    log = Unreliable(session_log)
    flusher = flusher_of(log, patience=replace(IMPATIENT, lost_after_ms=0))
    flusher.token("tokens", "first")
    running = asyncio.create_task(flusher.run())
    await log.until_tried(1)
    log.plan = ["lost", *["refused"] * 4]
    flusher.restart("provider_failed")
    await rejected(running)
    flusher.end("failed", b"{}")
    log.refuses = lambda _: False
    await finished(flusher)
    end = (await whole_log(session_log))[-1]
    assert (end["type"], end["attempt"], end["count"]) == ("end", 2, 0)


async def test_an_outage_is_no_refusal_however_long_it_lasts(session_log: SessionLog) -> None:
    log, now_ms = Unreliable(session_log), Manual()
    flusher = flusher_of(log, now_ms=now_ms)
    running = await away(log, flusher, "a", "b")
    now_ms.now_ms = 1e7
    await log.until_tried(log.tries + 5)
    assert not running.done()
    log.plan.clear()
    flusher.end("complete", b"{}")
    await written(running)
    assert "".join(await batches(session_log)) == "ab"
