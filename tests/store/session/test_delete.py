"""delete.lua: ends what runs, leaves no key but the mark, and the mark keeps late ones out."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from relay.store.session.replies import Deleted, Stopped
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import Clock, admitted_and_claimed, answered, job_of

MARK_MS = 60_000


async def test_nothing_is_left_but_the_mark_and_the_mark_has_a_time_to_live(
    redis: Redis, session_log: SessionLog
) -> None:
    writer = await admitted_and_claimed(session_log, "g1")
    await writer.tokens("some text")
    await session_log.admit(job_of("g2", request_id="r2"))
    running = await session_log.delete("s", MARK_MS)
    assert running == [Stopped("g1", False, "w1", "default"), Stopped("g2", False, "", "default")]
    mark = session_log.keys.session("s", "deleted")
    assert await redis.keys() == [mark.encode()]
    assert 0 < await redis.pttl(mark) <= MARK_MS


async def test_what_died_before_is_named_so_that_its_letter_goes_too(session_log: SessionLog) -> None:
    for generation in ("g1", "g2", "g3"):
        await session_log.admit(job_of(generation))
    await session_log.reap("s", "g1", "0", b"{}", "worker_lost")
    await session_log.reap("s", "g2", "0", b"{}")
    assert await session_log.delete("s", MARK_MS) == [
        Stopped("g3", False, "", "default"),
        Stopped("g1", True, "", "default"),
    ]
    assert await session_log.delete("s", MARK_MS) == []


async def test_an_unknown_session_is_unknown_and_a_deleted_one_may_be_deleted_again(session_log: SessionLog) -> None:
    assert await session_log.delete("s", MARK_MS) is None
    await session_log.open("s")
    assert await session_log.delete("s", MARK_MS) == []
    assert await session_log.delete("s", MARK_MS) == []


async def test_late_writers_and_late_jobs_cannot_bring_it_back(redis: Redis, session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log, "g1")
    await session_log.delete("s", MARK_MS)
    assert (await writer.tokens("late")).what == "ended"
    admitted = await session_log.admit(job_of("g1"))
    assert admitted is not None
    assert not admitted.accepts("g1")
    assert await session_log.open("s", create=False) is None


async def test_who_followed_the_deleted_life_is_told_and_who_did_not_gets_a_new_one(session_log: SessionLog) -> None:
    before = await session_log.open("s")
    assert before is not None
    await session_log.delete("s", MARK_MS)
    with pytest.raises(Deleted):
        await session_log.open("s", known=before.epoch)
    after = await session_log.open("s")
    assert after is not None
    assert after.epoch != before.epoch
    with pytest.raises(Deleted):  # also when somebody else has made a new one meanwhile
        await session_log.open("s", known=before.epoch)


async def test_a_new_question_in_a_deleted_session_is_admitted(session_log: SessionLog) -> None:
    await admitted_and_claimed(session_log, "g1")
    await session_log.delete("s", MARK_MS)
    admitted = await session_log.admit(job_of("g2"))
    assert admitted is not None
    assert admitted.fresh


@pytest.mark.parametrize("lost", ["g:g1", "meta"])
async def test_a_session_of_which_redis_has_lost_a_key_can_be_deleted(
    redis: Redis, session_log: SessionLog, lost: str
) -> None:
    writer = await admitted_and_claimed(session_log, "g1")
    await admitted_and_claimed(session_log, "g2")
    await redis.delete(f"t:s:{{s}}:{lost}")
    assert await session_log.delete("s", MARK_MS) is not None
    assert await redis.keys() == [b"t:s:{s}:deleted"]
    assert (await writer.tokens("late")).what == "ended"
    assert await session_log.delete("s", MARK_MS) == []


async def test_marks_are_bounded(
    redis: Redis, session_log: SessionLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.session.session_log.MAX_TOMBSTONES", 10)
    for _ in range(30):
        await session_log.open("s")
        await session_log.delete("s", MARK_MS)
    mark = session_log.keys.session("s", "deleted")
    assert await redis.zcard(mark) == 10
    clock.advance(ms=MARK_MS - 1)
    await session_log.open("s")
    assert await session_log.delete("s", MARK_MS) == []
    clock.advance(ms=2)
    await session_log.open("s")
    await session_log.delete("s", MARK_MS)
    assert await redis.zcard(mark) == 2


async def test_what_was_asked_before_is_not_asked_again_in_a_new_session(session_log: SessionLog) -> None:
    """A device that was away sends its submit again."""
    await answered(session_log, job_of("g1"), "a")
    await session_log.delete("s", 60_000)
    with pytest.raises(Deleted):
        await session_log.find_request("s", "r-g1")
    late = await session_log.admit(job_of("g9", request_id="r-g1"))
    assert late is not None
    assert late.state == "deleted"
    fresh = await session_log.admit(job_of("g2"))
    assert fresh is not None
    assert fresh.fresh
    with pytest.raises(Deleted):
        await session_log.find_request("s", "r-g1")
    assert await session_log.find_request("s", "r-g2") == ("g2", "h-g2")


async def test_marks_of_requests_are_the_first_to_go(
    session_log: SessionLog, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.session.session_log.MAX_TOMBSTONES", 3)
    for name in ("g1", "g2"):
        await answered(session_log, job_of(name), "a")
    await session_log.delete("s", 60_000)
    kept = {bytes(mark)[:1] for mark in await redis.zrange("t:s:{s}:deleted", 0, -1)}  # type: ignore[arg-type]
    assert kept == {b"e", b"g"}


async def test_what_the_new_life_has_taken_stands_though_the_old_one_knew_its_request(
    redis: Redis, session_log: SessionLog
) -> None:
    """A gateway of the release before, which looks for no such mark, has admitted it; the worker admits it again."""
    await session_log.admit(job_of("g1", request_id="r"))
    await session_log.delete("s", MARK_MS)
    marks = session_log.keys.session("s", "deleted")
    until = await redis.zscore(marks, "r r")
    assert until is not None
    await redis.zrem(marks, "r r")
    await session_log.admit(job_of("g2", request_id="r"))
    await redis.zadd(marks, {"r r": until})
    again = await session_log.admit(job_of("g2", request_id="r"))
    assert again is not None
    assert again.accepts("g2")


async def test_marks_of_requests_make_room_for_those_that_keep_workers_out(
    redis: Redis, session_log: SessionLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.session.session_log.MAX_TOMBSTONES", 10)
    kept = set()
    for life, answers in enumerate([1, 6]):
        opened = await session_log.open("s")
        assert opened is not None
        kept |= {f"e {opened.epoch}", *(f"g g{life}-{number}" for number in range(answers))}
        for number in range(answers):
            await answered(session_log, job_of(f"g{life}-{number}"))
        clock.advance(ms=10)
        await session_log.delete("s", MARK_MS)
    found: list[bytes] = await redis.zrange(session_log.keys.session("s", "deleted"), 0, -1)  # type: ignore[assignment]
    assert len(found) == 10
    assert kept <= {mark.decode() for mark in found}
