"""Claims, leases and reaping: who may write a generation, and who may end it for want of a writer."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from relay.store.session.replies import Claim, ClaimRefused, WriteOutcome
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import (
    LEASE_MS,
    Clock,
    Writer,
    admitted_and_claimed,
    answered,
    claimed,
    head,
    job_of,
    whole_log,
)

# Claim


async def test_every_claim_has_a_higher_fence(session_log: SessionLog, clock: Clock) -> None:
    await session_log.admit(job_of())
    fences = []
    for worker in ("w1", "w2", "w1"):
        claim = await session_log.claim("s", "g1", worker, LEASE_MS, 20)
        assert isinstance(claim, Claim)
        fences.append(claim.fence)
        await session_log.release("s", "g1", claim.fence)  # so that even the clock stands still
    assert fences == sorted(set(fences))


async def test_a_claim_that_redis_has_forgotten_has_a_lower_fence_than_the_next(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    before = await admitted_and_claimed(session_log)
    await redis.flushall()
    clock.advance(ms=1)
    after = await admitted_and_claimed(session_log)
    assert after.fence > before.fence
    assert (await before.tokens("late")).what == "stale"


async def test_a_claim_whose_reply_was_lost_is_granted_again(session_log: SessionLog) -> None:
    first = await admitted_and_claimed(session_log)
    second = await claimed(session_log, job_of(), "w1")
    assert second.fence > first.fence
    assert (await first.tokens("late")).what == "stale"


async def test_a_claim_that_is_granted_again_counts_as_one_worker_until_its_lease_runs_out(
    session_log: SessionLog, clock: Clock
) -> None:
    await admitted_and_claimed(session_log)
    for _ in range(2):
        await claimed(session_log, job_of(), "w1")
    standing = await session_log.generation_fields("s", "g1")
    assert standing is not None
    assert standing["claims"] == "1"
    clock.advance(ms=LEASE_MS)
    await claimed(session_log, job_of(), "w1")
    standing = await session_log.generation_fields("s", "g1")
    assert standing is not None
    assert standing["claims"] == "2"


async def test_a_claim_is_refused_while_a_lease_is_alive(session_log: SessionLog, clock: Clock) -> None:
    await admitted_and_claimed(session_log)
    clock.advance(ms=LEASE_MS - 1)
    assert await session_log.claim("s", "g1", "w2", LEASE_MS, 20) == ClaimRefused("leased", 1)
    clock.advance(ms=1)
    assert isinstance(await session_log.claim("s", "g1", "w2", LEASE_MS, 20), Claim)


async def test_what_has_ended_or_never_was_cannot_be_claimed(session_log: SessionLog) -> None:
    assert await session_log.claim("s", "g1", "w1", LEASE_MS, 20) == ClaimRefused("unknown")
    await answered(session_log, job_of())
    assert await session_log.claim("s", "g1", "w1", LEASE_MS, 20) == ClaimRefused("ended")


async def test_a_claim_tells_whether_its_attempt_has_shown_anything(session_log: SessionLog, clock: Clock) -> None:
    async def taken_over() -> Writer:
        clock.advance(ms=LEASE_MS)
        return await claimed(session_log, job_of())

    writer = await admitted_and_claimed(session_log)
    assert (writer.attempt, writer.shown) == (1, False)
    await writer.status("thinking")
    writer = await taken_over()
    assert (writer.attempt, writer.shown) == (1, False)
    await writer.reasoning("hm")
    writer = await taken_over()
    assert (writer.attempt, writer.shown) == (1, True)
    await writer.restart()
    writer = await taken_over()
    assert (writer.attempt, writer.shown) == (2, False)
    await writer.data({"x": 1})
    writer = await taken_over()
    assert (writer.attempt, writer.shown) == (2, True)
    await writer.restart()
    await writer.tokens("a")
    writer = await taken_over()
    assert (writer.attempt, writer.shown) == (3, True)


async def test_the_history_is_the_transcript_as_of_the_claim(session_log: SessionLog) -> None:
    for name in ("g1", "g2", "g3"):
        await answered(session_log, job_of(name), name)
    await answered(session_log, job_of("g4"), "part", reason="failed")
    early, late = job_of("g5"), job_of("g6")
    await session_log.admit(early)
    await session_log.admit(late)
    assert (await claimed(session_log, early, history_turns=2)).history == ["g2", "g3"]
    await answered(session_log, job_of("g7"), "meanwhile")
    assert (await claimed(session_log, late, history_turns=1000)).history == ["g1", "g2", "g3", "g7"]


async def test_a_history_of_no_turns_is_empty(session_log: SessionLog) -> None:
    await answered(session_log, job_of("g1"))
    await session_log.admit(job_of("g2"))
    assert (await claimed(session_log, job_of("g2"), history_turns=0)).history == []


# Lease


async def test_a_lease_is_kept_alive_by_renewals_and_by_appends(session_log: SessionLog, clock: Clock) -> None:
    writer = await admitted_and_claimed(session_log)
    clock.advance(ms=LEASE_MS - 1)
    assert (await session_log.renew("s", "g1", writer.fence, LEASE_MS)).what == "written"
    clock.advance(ms=LEASE_MS - 1)
    await writer.tokens("a")
    clock.advance(ms=LEASE_MS - 1)
    assert await session_log.claim("s", "g1", "w2", LEASE_MS, 0) == ClaimRefused("leased", 1)
    clock.advance(ms=1)
    assert isinstance(await session_log.claim("s", "g1", "w2", LEASE_MS, 0), Claim)


async def test_a_released_generation_can_be_claimed_at_once(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    await session_log.release("s", "g1", writer.fence)
    claim = await session_log.claim("s", "g1", "w2", LEASE_MS, 0)
    assert isinstance(claim, Claim)
    assert claim.fence > writer.fence
    assert claim.shown
    standing = await session_log.generation_fields("s", "g1")
    assert standing is not None
    assert standing["handed"] == "1"


# A second hand-over in the count would make up for a worker that was really lost.
async def test_a_release_whose_reply_was_lost_counts_once(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    for _ in range(2):
        await session_log.release("s", "g1", writer.fence)
    standing = await session_log.generation_fields("s", "g1")
    assert standing is not None
    assert standing["handed"] == "1"


# The next worker, or a reaper, would have to wait for it, and count it as a claim that still runs.
@pytest.mark.parametrize("late", ["renewal", "append", "rebuild"])
async def test_what_is_on_its_way_as_it_is_given_back_does_not_revive_the_lease(
    session_log: SessionLog, clock: Clock, late: str
) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    await session_log.release("s", "g1", writer.fence)
    before = await whole_log(session_log)
    released = await session_log.generation_fields("s", "g1")
    clock.advance(ms=1)
    if late == "renewal":
        outcome: object = await session_log.renew("s", "g1", writer.fence, LEASE_MS, 1)
    elif late == "append":
        outcome = await writer.tokens("b")
    else:
        epochs = [writer.claim.epoch]
        outcome = await session_log.rebuild(job_of(), writer.fence, "w1", LEASE_MS, epochs, 1, writer.claim.times)
    assert outcome == WriteOutcome("stale")
    assert await session_log.generation_fields("s", "g1") == released
    assert await whole_log(session_log) == before
    assert isinstance(await session_log.claim("s", "g1", "w2", LEASE_MS, 0), Claim)
    standing = await session_log.generation_fields("s", "g1")
    assert standing is not None
    assert (standing["claims"], standing["handed"]) == ("2", "1")


async def test_an_end_that_is_on_its_way_as_it_is_given_back_counts(session_log: SessionLog) -> None:
    """The answer is whole: nobody has to ask again."""
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    await session_log.release("s", "g1", writer.fence)
    assert (await writer.end()).what == "written"
    assert await session_log.claim("s", "g1", "w2", LEASE_MS, 0) == ClaimRefused("ended")


async def test_only_the_holder_can_release(session_log: SessionLog, clock: Clock) -> None:
    writer = await admitted_and_claimed(session_log)
    clock.advance(ms=LEASE_MS)
    await claimed(session_log, job_of(), "w2")
    await session_log.release("s", "g1", writer.fence)
    assert await session_log.claim("s", "g1", "w3", LEASE_MS, 0) == ClaimRefused("leased", LEASE_MS)


# Reap


async def test_reaping_ends_what_nobody_claimed(session_log: SessionLog) -> None:
    await session_log.admit(job_of())
    assert await session_log.reap("s", "g1", "0", b'{"error":{"code":"no_worker"}}') is True
    end = (await whole_log(session_log))[-1]
    assert (end["reason"], end["error"]) == ("failed", {"code": "no_worker"})


async def test_a_claim_that_came_in_between_wins_against_the_reaper(session_log: SessionLog, clock: Clock) -> None:
    await session_log.admit(job_of())
    seen = await session_log.generation_fields("s", "g1")
    assert seen is not None
    writer = await claimed(session_log, job_of())
    assert await session_log.reap("s", "g1", seen["fence"], b"{}") is False
    clock.advance(ms=LEASE_MS)  # even when its lease has run out since: somebody has taken over
    assert await session_log.reap("s", "g1", seen["fence"], b"{}") is False
    assert (await writer.tokens("a")).what == "written"


async def test_a_live_lease_is_not_reaped(session_log: SessionLog, clock: Clock) -> None:
    writer = await admitted_and_claimed(session_log)
    clock.advance(ms=LEASE_MS - 1)
    assert await session_log.reap("s", "g1", str(writer.fence), b"{}") is False
    clock.advance(ms=1)
    assert await session_log.reap("s", "g1", str(writer.fence), b"{}") is True
    assert (await writer.tokens("late")).what == "ended"


async def test_what_is_gone_or_ended_needs_no_reaping(session_log: SessionLog) -> None:
    assert await session_log.reap("s", "g1", "0", b"{}") is True
    await answered(session_log, job_of())
    before = await head(session_log)
    assert await session_log.reap("s", "g1", "1", b"{}") is True
    assert await head(session_log) == before


async def test_standing_says_the_language_of_whoever_asked(session_log: SessionLog) -> None:
    await session_log.admit(job_of(language="de-CH,de"))
    standing = await session_log.generation_fields("s", "g1")
    assert standing is not None
    assert standing["language"] == "de-CH,de"


async def test_standing_says_what_the_reaper_asks(session_log: SessionLog, clock: Clock) -> None:
    assert await session_log.generation_fields("s", "g1") is None
    await session_log.admit(job_of())
    accepted = str(clock.now_ms)
    assert await session_log.generation_fields("s", "g1") == {
        "state": "queued", "fence": "0", "accepted": accepted, "queue": "default", "attempt": "1",
    }  # fmt: skip
    clock.advance(s=3)
    writer = await claimed(session_log, job_of())
    assert await session_log.generation_fields("s", "g1") == {
        "state": "queued", "fence": str(writer.fence), "claims": "1", "accepted": accepted,
        "claimed": str(clock.now_ms), "lease": str(clock.now_ms + LEASE_MS), "queue": "default",
        "owner": "w1", "attempt": "1",
    }  # fmt: skip
