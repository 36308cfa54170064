"""Ends: exactly one for each generation, by its worker or by a stop, with what the log holds."""

from __future__ import annotations

import itertools
import zlib
from typing import Any, get_args

import msgspec
import pytest
from redis.asyncio import Redis

from relay.protocol import events
from relay.protocol.words import Reason
from relay.store.session.replies import ClaimRefused, RebuildResult, Stopped, WriteOutcome
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import (
    LEASE_MS,
    Clock,
    admitted_and_claimed,
    answered,
    claimed,
    head,
    job_of,
    snapshot,
    transcript,
    whole_log,
)

# End


async def test_an_end_says_everything_that_the_log_and_the_worker_know(session_log: SessionLog, clock: Clock) -> None:
    job = job_of()
    await session_log.admit(job)
    clock.advance(ms=250)
    writer = await claimed(session_log, job)
    clock.advance(ms=400)
    await writer.tokens("Hi")
    clock.advance(ms=1000)
    await writer.tokens("!")
    clock.advance(ms=350)
    ended = await writer.end("complete", "a1", finish="stop", usage={"input_tokens": 3, "output_tokens": 2})
    page = await session_log.range("s", ended.seq)
    assert page is not None
    assert page.entries == [
        (
            5,
            b'{"type":"end","generation":"g1","attempt":1,"reason":"complete","count":2,"text_bytes":3,'
            b'"crc32":%d,"timings_ms":{"total":2000,"queued":250,"first_token":650},"finish":"stop",'
            b'"usage":{"input_tokens":3,"output_tokens":2}}' % zlib.crc32(b"Hi!"),
        )
    ]


async def test_whichever_script_ends_an_answer_writes_an_end_as_the_protocol_has_it(
    session_log: SessionLog, clock: Clock
) -> None:
    sorry = events.failed("storage", "Sorry.", retryable=True, provider="demo")
    complete = await admitted_and_claimed(session_log, "g1")
    await complete.tokens("Hi")
    members = events.completed("demo", "length", "m-1", events.Usage(3, 2), "a1")
    await session_log.end("s", "g1", complete.fence, "complete", members, 1, "a1")
    failed = await admitted_and_claimed(session_log, "g2")
    await session_log.end("s", "g2", failed.fence, "failed", sorry, 0)
    reaped = await admitted_and_claimed(session_log, "g3")
    clock.advance(ms=LEASE_MS + 1)
    await session_log.reap("s", "g3", str(reaped.fence), sorry)
    await admitted_and_claimed(session_log, "g4")
    await session_log.stop("s", "g4")
    await session_log.bury("s", "lost", 2, sorry)
    await session_log.bury("s", "gone", 1, events.STOPPED, "stopped")
    page = await session_log.range("s", 1)
    assert page is not None
    bodies = [body for _, body in page.entries if events.read_header(body).type == "end"]
    ends = [msgspec.json.decode(body, type=events.End) for body in bodies]
    # Nothing is written that the struct does not have, and its fields stand in its order.
    assert [list(msgspec.json.decode(body)) for body in bodies] == [list(msgspec.to_builtins(end)) for end in ends]
    assert [msgspec.json.decode(body) for body in bodies] == [msgspec.to_builtins(end) for end in ends]
    assert [(end.generation, end.reason) for end in ends] == [
        ("g1", "complete"), ("g2", "failed"), ("g3", "failed"), ("g4", "stopped"), ("lost", "failed"),
        ("gone", "stopped"),
    ]  # fmt: skip
    assert {end.reason for end in ends} < set(get_args(Reason))


async def test_where_the_clock_has_gone_back_no_time_is_negative(session_log: SessionLog, clock: Clock) -> None:
    writer = await admitted_and_claimed(session_log)
    clock.advance(s=-60)
    await writer.tokens("Hi")
    await writer.end("failed")
    assert (await snapshot(session_log))["timings_ms"] == {"total": 0, "queued": 0, "first_token": 0}


async def test_the_end_is_stored_as_the_generations_state(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log, metadata={"user": "u"})
    await writer.tokens("Hi")
    await writer.end("failed", error={"code": "x", "message": "No.", "retryable": True})
    found = await snapshot(session_log)
    timings = found.pop("timings_ms")
    assert set(timings) == {"total", "queued", "first_token"}
    assert found == {
        "generation": "g1", "attempt": 1, "state": "ended", "reason": "failed", "text": "Hi", "reasoning": "",
        "data": [],
        "message": {"message_id": "m-g1", "content": "question of g1"}, "metadata": {"user": "u"},
        "count": 1, "text_bytes": 2, "crc32": zlib.crc32(b"Hi"),
        "error": {"code": "x", "message": "No.", "retryable": True},
    }  # fmt: skip


async def test_an_end_without_members_or_text_is_whole_json(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    assert (await writer.end("failed")).what == "written"
    end = (await whole_log(session_log))[-1]
    assert (end["reason"], end["count"], end["text_bytes"], end["crc32"]) == ("failed", 0, 0, 0)
    assert "first_token" not in end["timings_ms"]


async def test_the_first_terminal_event_wins(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    assert (await writer.end("complete", "a1")).what == "written"
    assert (await writer.tokens("b")).what == "ended"
    assert await session_log.stop("s", "g1") == Stopped("g1", True)
    assert await session_log.reap("s", "g1", str(writer.fence), b"{}") is True
    ends = [event for event in await whole_log(session_log) if event["type"] == "end"]
    assert [event["reason"] for event in ends] == ["complete"]


async def test_an_end_whose_reply_was_lost_is_answered_as_it_was_then(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    written = await writer.end("complete", "a1")
    assert await writer.end("complete", "a1") == WriteOutcome("repeated", written.seq)
    assert await head(session_log) == written.seq
    assert await transcript(session_log) == ["g1"]


async def test_an_end_after_somebody_elses_is_told_so(session_log: SessionLog, clock: Clock) -> None:
    stopped = await admitted_and_claimed(session_log, "g1")
    await session_log.stop("s", "g1")
    assert (await stopped.end("complete", "a1")).what == "ended"

    reaped = await admitted_and_claimed(session_log, "g2")
    clock.advance(ms=LEASE_MS)
    await session_log.reap("s", "g2", str(reaped.fence), b"{}")
    assert (await reaped.end("complete", "a2")).what == "ended"

    lost = await admitted_and_claimed(session_log, "g3")
    clock.advance(ms=LEASE_MS)
    taken_over = await claimed(session_log, job_of("g3"), "w2")
    await taken_over.end("complete", "a3")
    assert (await lost.end("complete", "a3")).what == "ended"
    assert await transcript(session_log) == ["g3"]


async def test_an_end_that_counts_more_tokens_than_the_log_holds_is_not_written(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    writer.written["tokens"] = ["a", "lost"]
    before = await head(session_log)
    assert (await writer.end()).what == "behind"
    assert await head(session_log) == before
    writer.written["tokens"] = ["a"]
    assert (await writer.end()).what == "written"


@pytest.mark.parametrize(("reason", "joins"), [("complete", True), ("failed", False), ("invalid", False)])
async def test_only_a_complete_answer_joins_the_transcript(session_log: SessionLog, reason: Any, joins: bool) -> None:
    await answered(session_log, job_of(), "Hi", reason=reason)
    assert await transcript(session_log) == (["g1"] if joins else [])


async def test_answers_join_the_transcript_in_the_order_in_which_they_complete(session_log: SessionLog) -> None:
    first = await admitted_and_claimed(session_log, "g1")
    second = await admitted_and_claimed(session_log, "g2")
    await second.tokens("two")
    await second.end("complete", "a2")
    await first.tokens("one")
    await first.end("complete", "a1")
    assert await transcript(session_log) == ["g2", "g1"]
    assert await session_log.snapshots.turns("s", ["g2", "g1"]) == [
        {"message_id": "m-g2", "role": "user", "content": "question of g2", "generation": "g2"},
        {"message_id": "a2", "role": "assistant", "content": "two", "generation": "g2"},
        {"message_id": "m-g1", "role": "user", "content": "question of g1", "generation": "g1"},
        {"message_id": "a1", "role": "assistant", "content": "one", "generation": "g1"},
    ]


async def test_a_complete_retry_takes_the_place_of_what_it_retries(session_log: SessionLog) -> None:
    await answered(session_log, job_of("g1"), "one")
    retry = job_of("g2", retry_of="g1", message_id="m-g1", content="question of g1")
    await answered(session_log, retry, "better")
    assert await transcript(session_log) == ["g2"]
    assert [turn["content"] for turn in await session_log.snapshots.turns("s", ["g2"])] == ["question of g1", "better"]


async def test_a_retry_that_fails_replaces_nothing(session_log: SessionLog) -> None:
    await answered(session_log, job_of("g1"), "one")
    await answered(session_log, job_of("g2", retry_of="g1", message_id="m-g1"), reason="failed")
    assert await transcript(session_log) == ["g1"]


async def test_a_turn_that_is_retried_twice_stands_in_the_transcript_once(session_log: SessionLog) -> None:
    await answered(session_log, job_of("g1"), "one")
    await answered(session_log, job_of("g2", retry_of="g1", message_id="m-g1"), "two")
    await answered(session_log, job_of("g3", retry_of="g1", message_id="m-g1"), "three")
    assert await transcript(session_log) == ["g3"]


def retry_of_g1(generation: str, **fields: Any) -> dict[str, Any]:
    return {"generation": generation, "retry_of": "g1", "message_id": "m-g1", "content": "question of g1", **fields}


async def test_a_retry_that_ends_before_what_it_retries_stays_the_answer(session_log: SessionLog) -> None:
    original = await admitted_and_claimed(session_log, "g1")
    retry = await admitted_and_claimed(session_log, **retry_of_g1("g2"))
    await retry.end("complete", "a2")
    await original.end("complete", "a1")
    assert await transcript(session_log) == ["g2"]


@pytest.mark.parametrize("order", list(itertools.permutations(("g1", "g2", "g3"))))
@pytest.mark.parametrize("of", ["g1", "g2"])
async def test_in_whatever_order_they_end_one_question_has_the_newest_retrys_answer(
    session_log: SessionLog, order: tuple[str, ...], of: str
) -> None:
    """Though the clock stands still, and whichever of the two the second retry names."""
    writers = {"g1": await admitted_and_claimed(session_log, "g1")}
    writers["g2"] = await admitted_and_claimed(session_log, **retry_of_g1("g2"))
    writers["g3"] = await admitted_and_claimed(session_log, **retry_of_g1("g3", retry_of=of))
    for name in order:
        await writers[name].end("complete", f"a-{name}")
        assert len(await transcript(session_log)) == 1
    assert await transcript(session_log) == ["g3"]


async def test_a_retry_stands_where_its_question_was_answered_first(session_log: SessionLog) -> None:
    for name in ("g0", "g1", "g2"):
        await answered(session_log, job_of(name), name)
    await answered(session_log, job_of(**retry_of_g1("g3")), "better")
    assert await transcript(session_log) == ["g0", "g3", "g2"]


async def test_of_two_answers_that_are_brought_back_the_retrys_counts_whoever_came_first(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    original = await admitted_and_claimed(session_log, "g1")
    clock.advance(ms=5)
    retry = await admitted_and_claimed(session_log, **retry_of_g1("g2"))
    await redis.flushall()
    for writer, job in ((retry, job_of(**retry_of_g1("g2"))), (original, job_of("g1"))):
        made = await session_log.rebuild(job, writer.fence, "w1", LEASE_MS, [writer.claim.epoch], 1, writer.claim.times)
        assert isinstance(made, RebuildResult)
        writer.fence, writer.n = made.fence, 1
    await retry.end("complete", "a2")
    await original.end("complete", "a1")
    assert await transcript(session_log) == ["g2"]


# Stop


async def test_a_stop_before_the_claim_ends_it_and_nobody_can_claim_it(session_log: SessionLog) -> None:
    await session_log.admit(job_of())
    assert await session_log.stop("s", "g1") == Stopped("g1", False, "", "default")
    end = (await whole_log(session_log))[-1]
    assert (end["type"], end["reason"], end["count"], end["crc32"]) == ("end", "stopped", 0, 0)
    assert "queued" not in end["timings_ms"]
    assert await session_log.claim("s", "g1", "w", LEASE_MS, 0) == ClaimRefused("ended")
    assert await transcript(session_log) == []


async def test_a_stop_while_it_runs_ends_it_with_what_the_log_holds_and_names_the_worker(
    session_log: SessionLog,
) -> None:
    writer = await admitted_and_claimed(session_log, queue="fast")
    await writer.tokens("so", " far")
    assert await session_log.stop("s", "g1") == Stopped("g1", False, "w1", "fast")
    end = (await whole_log(session_log))[-1]
    assert (end["reason"], end["count"], end["text_bytes"], end["crc32"]) == ("stopped", 2, 6, zlib.crc32(b"so far"))
    assert (await writer.tokens("!")).what == "ended"
    assert (await writer.end()).what == "ended"
    assert (await snapshot(session_log))["text"] == "so far"
    assert (await whole_log(session_log))[-1] == end


async def test_a_stop_raises_the_fence(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await session_log.stop("s", "g1")
    assert int((await redis.hget("t:s:{s}:g:g1", "fence")) or 0) > writer.fence


async def test_a_stop_of_what_has_ended_or_never_was_writes_nothing(session_log: SessionLog) -> None:
    assert await session_log.stop("s", "g1") is None
    await answered(session_log, job_of())
    before = await head(session_log)
    assert await session_log.stop("s", "g1") == Stopped("g1", True)
    assert await session_log.stop("s", "g2") is None
    assert await head(session_log) == before


async def test_a_stop_of_a_session_that_never_was_makes_none(session_log: SessionLog, redis: Redis) -> None:
    assert await session_log.stop("s", "g1") is None
    assert await redis.keys() == []
