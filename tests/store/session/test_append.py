"""Append: every event once, in order, and only by the one that may."""

from __future__ import annotations

import zlib

from redis.asyncio import Redis

from relay.protocol.frames import Active
from relay.store.session.replies import ClaimRefused, WriteOutcome
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import (
    LEASE_MS,
    Clock,
    admitted_and_claimed,
    claimed,
    head,
    job_of,
    snapshot,
    whole_log,
)


async def test_an_append_is_written_stored_and_answered_with_its_seq(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    assert await writer.status("thinking") == WriteOutcome("written", 3, writer.claim.epoch)
    assert await writer.reasoning("hm", "!") == WriteOutcome("written", 4, writer.claim.epoch)
    assert await writer.tokens("Hé", "l") == WriteOutcome("written", 5, writer.claim.epoch)
    assert await writer.data([1]) == WriteOutcome("written", 6, writer.claim.epoch)
    assert await writer.tokens("lo 😀") == WriteOutcome("written", 7, writer.claim.epoch)
    assert (await whole_log(session_log))[2:] == [
        {"seq": 3, "type": "status", "generation": "g1", "attempt": 1, "state": "thinking"},
        {"seq": 4, "type": "reasoning", "generation": "g1", "attempt": 1, "index": 0, "count": 2, "text": "hm!"},
        {"seq": 5, "type": "tokens", "generation": "g1", "attempt": 1, "index": 0, "count": 2, "text": "Hél"},
        {"seq": 6, "type": "data", "generation": "g1", "attempt": 1, "name": "note", "value": [1]},
        {"seq": 7, "type": "tokens", "generation": "g1", "attempt": 1, "index": 2, "count": 1, "text": "lo 😀"},
    ]
    found = await snapshot(session_log)
    assert (found["text"], found["reasoning"], found["state"]) == ("Héllo 😀", "hm!", "streaming")
    await writer.end()
    end = (await whole_log(session_log))[-1]
    encoded = "Héllo 😀".encode()
    assert (end["count"], end["text_bytes"], end["crc32"]) == (3, len(encoded), zlib.crc32(encoded))


async def test_a_number_that_is_repeated_is_answered_as_it_was_then(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.status("thinking")
    written = await writer.tokens("a", "b")
    writer.n, writer.written["tokens"] = writer.n - 1, []
    assert await writer.tokens("a", "b") == WriteOutcome("repeated", written.seq, writer.claim.epoch)
    assert await head(session_log) == written.seq
    assert (await snapshot(session_log))["text"] == "ab"

    for again in (writer.status("retrying"), writer.data(1), writer.restart()):
        writer.n -= 1
        assert (await again).what == "repeated"
    assert await head(session_log) == written.seq
    assert (await snapshot(session_log))["attempt"] == 1


async def test_tokens_that_are_stored_already_are_not_stored_again_under_another_number(
    session_log: SessionLog,
) -> None:
    """A batch that had landed though its reply was lost, sent again token by token."""
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a", "b")
    landed = await head(session_log)
    writer.written["tokens"] = []
    assert (await writer.tokens("a")).what == "repeated"
    assert (await writer.tokens("b")).what == "repeated"
    assert await head(session_log) == landed
    assert await writer.tokens("c") == WriteOutcome("written", landed + 1, writer.claim.epoch)
    assert (await snapshot(session_log))["text"] == "abc"


async def test_the_same_goes_for_reasoning(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.reasoning("a")
    writer.written["reasoning"] = []
    assert (await writer.reasoning("a")).what == "repeated"
    assert (await writer.reasoning("b")).what == "written"
    assert (await snapshot(session_log))["reasoning"] == "ab"


async def test_an_append_that_is_ahead_of_the_log_is_behind_for_the_log(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    before = await head(session_log)
    writer.written["tokens"] = ["a", "lost"]
    assert (await writer.tokens("c")).what == "behind"
    writer.n += 3
    writer.written["tokens"] = ["a"]
    assert (await writer.tokens("b")).what == "behind"
    assert await head(session_log) == before
    assert (await snapshot(session_log))["text"] == "a"


async def test_numbers_begin_anew_with_every_claim(session_log: SessionLog, clock: Clock) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.status("preparing")
    await writer.status("thinking")
    clock.advance(ms=LEASE_MS)
    other = await claimed(session_log, job_of(), "w2")
    assert (await other.status("preparing")).what == "written"


async def test_a_worker_that_lost_its_claim_writes_nothing_more(session_log: SessionLog, clock: Clock) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    clock.advance(ms=LEASE_MS)
    await claimed(session_log, job_of(), "w2")
    before = await head(session_log)
    assert (await writer.tokens("b")).what == "stale"
    assert (await writer.end()).what == "stale"
    assert (await session_log.renew("s", "g1", writer.fence, LEASE_MS)).what == "stale"
    assert await head(session_log) == before


async def test_an_expired_lease_that_nobody_took_over_may_still_write(session_log: SessionLog, clock: Clock) -> None:
    writer = await admitted_and_claimed(session_log)
    clock.advance(ms=5 * LEASE_MS)
    assert (await writer.tokens("a")).what == "written"
    assert await session_log.claim("s", "g1", "w2", LEASE_MS, 0) == ClaimRefused("leased", LEASE_MS)


async def test_nothing_is_written_after_the_end_or_without_a_generation(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    ended = await writer.end()
    assert (await writer.tokens("b")).what == "ended"
    assert (await session_log.renew("s", "g1", writer.fence, LEASE_MS)).what == "ended"
    assert await head(session_log) == ended.seq

    writer.generation = "g9"
    assert (await writer.tokens("b")).what == "unknown"
    assert (await writer.end()).what == "unknown"
    assert (await session_log.renew("s", "g9", 1, LEASE_MS)).what == "unknown"
    assert await head(session_log) == ended.seq


async def test_a_restart_voids_text_reasoning_counts_and_checksum(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.reasoning("hm")
    await writer.tokens("void")
    assert (await writer.restart()).what == "written"
    found = await snapshot(session_log)
    assert (found["attempt"], found["text"], found["reasoning"]) == (2, "", "")
    assert (await writer.tokens("new")).what == "written"
    assert (await writer.reasoning("oh")).what == "written"
    await writer.end()
    found = await snapshot(session_log)
    assert (found["text"], found["reasoning"], found["attempt"]) == ("new", "oh", 2)
    assert (found["count"], found["text_bytes"], found["crc32"]) == (1, 3, zlib.crc32(b"new"))


async def test_a_restart_that_nothing_follows_leaves_an_answer_of_no_text(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("void")
    await writer.restart()
    await writer.end("failed")
    end = (await whole_log(session_log))[-1]
    assert (end["attempt"], end["count"], end["text_bytes"], end["crc32"]) == (2, 0, 0, 0)


async def test_active_tells_attempt_and_last_state(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)

    async def active() -> list[Active]:
        opened = await session_log.open("s")
        assert opened is not None
        return opened.active

    assert await active() == [Active("g1", 1, "queued")]
    await writer.status("thinking")
    assert await active() == [Active("g1", 1, "thinking")]
    await writer.tokens("a")
    assert await active() == [Active("g1", 1, "streaming")]
    await writer.status("retrying")
    assert await active() == [Active("g1", 1, "retrying")]
    await writer.restart()
    assert await active() == [Active("g1", 2, "retrying")]
    await writer.tokens("b")
    assert await active() == [Active("g1", 2, "streaming")]
    await session_log.admit(job_of("g2"))
    assert await active() == [Active("g1", 2, "streaming"), Active("g2", 1, "queued")]
    await writer.end()
    assert await active() == [Active("g2", 1, "queued")]


# The contract keeps `streaming` for the first token; a viewer who saw the same events live says `thinking`.
async def test_reasoning_is_not_streaming_yet(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.status("thinking")
    await writer.reasoning("hm")
    opened = await session_log.open("s")
    assert opened is not None
    assert opened.active == [Active("g1", 1, "thinking")]
