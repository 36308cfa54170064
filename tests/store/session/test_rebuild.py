"""Rebuild: Redis has lost a generation, or a part of it, and the worker that holds it makes it again."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from relay.store.session.replies import RebuildResult, WriteOutcome
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
    session_log_on,
    snapshot,
    transcript,
    whole_log,
)


async def copy(redis: Redis) -> dict[bytes | str, bytes]:
    """What a snapshot on disk holds, or a replica that is behind."""
    return {key: await redis.dump(key) or b"" for key in await redis.keys()}


async def go_back_to(redis: Redis, kept: dict[bytes | str, bytes]) -> None:
    await redis.flushall()
    for key, value in kept.items():
        await redis.restore(key, 0, value)


async def rebuilt(writer: Writer, seq: int = 1, worker: str = "w1", **fields: Any) -> RebuildResult | WriteOutcome:
    return await writer.log.rebuild(
        job_of(writer.generation, **fields),
        writer.fence,
        worker,
        LEASE_MS,
        [writer.claim.epoch],
        seq,
        writer.claim.times,
    )


async def epoch(session_log: SessionLog) -> str:
    opened = await session_log.open("s")
    assert opened is not None
    return opened.epoch


# Everything is lost


async def test_a_generation_that_is_lost_is_made_again_in_another_life(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a", "b")
    before = await snapshot(session_log)
    await redis.flushall()
    assert (await writer.tokens("c")).what == "unknown"
    made = await rebuilt(writer)
    assert isinstance(made, RebuildResult)
    assert made.fence > writer.fence
    assert made.epoch != writer.claim.epoch
    assert (made.head, made.attempt, made.tokens, made.reasoning) == (2, 1, 0, 0)
    log = await whole_log(session_log)
    assert [event["type"] for event in log] == ["message", "status"]
    assert log[0]["message_id"] == "m-g1"
    assert await snapshot(session_log) == before | {"state": "queued", "text": ""}


async def test_the_rebuilt_one_is_written_on_under_its_new_fence_and_the_count_begins_behind_it(
    session_log: SessionLog, redis: Redis
) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    await redis.flushall()
    made = await rebuilt(writer)
    assert isinstance(made, RebuildResult)
    assert (await writer.tokens("b")).what == "stale"
    writer.fence, writer.n, writer.written["tokens"] = made.fence, 1, []
    assert (await writer.tokens("a", "b")).what == "written"
    assert (await writer.end("complete", "a1")).what == "written"
    assert (await snapshot(session_log))["text"] == "ab"
    assert await transcript(session_log) == ["g1"]


async def test_timings_count_from_the_first_acceptance(session_log: SessionLog, redis: Redis, clock: Clock) -> None:
    await session_log.admit(job_of())
    clock.advance(ms=100)
    writer = await claimed(session_log, job_of())
    await redis.flushall()
    clock.advance(ms=1000)
    made = await rebuilt(writer)
    assert isinstance(made, RebuildResult)
    writer.fence, writer.n = made.fence, 1
    await writer.end("failed")
    assert (await whole_log(session_log))[-1]["timings_ms"] == {"queued": 100, "total": 1100}


async def test_a_rebuild_whose_reply_was_lost_answers_the_same_and_writes_nothing(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    writer = await admitted_and_claimed(session_log)
    await redis.flushall()
    first = await rebuilt(writer)
    clock.advance(ms=5)
    assert await rebuilt(writer) == first
    assert await head(session_log) == 2


async def test_a_submit_that_is_tried_again_finds_the_rebuilt_one(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await redis.flushall()
    await rebuilt(writer)
    assert await session_log.find_request("s", "r-g1") == ("g1", "h-g1")


async def test_a_request_that_made_another_generation_meanwhile_is_not_answered_twice(
    session_log: SessionLog, redis: Redis
) -> None:
    writer = await admitted_and_claimed(session_log)
    await redis.flushall()
    await session_log.admit(job_of("g2", request_id="r-g1"))
    assert await rebuilt(writer) == WriteOutcome("stale")


async def test_of_two_workers_that_both_held_it_one_goes_on(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    frozen = await admitted_and_claimed(session_log)
    clock.advance(ms=LEASE_MS)
    other = await claimed(session_log, job_of(), "w2")
    await redis.flushall()
    assert isinstance(await rebuilt(other, worker="w2"), RebuildResult)
    assert await rebuilt(frozen) == WriteOutcome("stale")


async def test_two_workers_never_hold_the_same_fence_though_the_clock_goes_back(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    frozen = await admitted_and_claimed(session_log)
    await session_log.release("s", "g1", frozen.fence)
    clock.advance(s=-3600)
    other = await claimed(session_log, job_of(), "w2")
    await redis.flushall()
    made = await rebuilt(frozen)
    assert isinstance(made, RebuildResult)
    assert other.fence > frozen.fence < made.fence != other.fence
    assert (await other.status("thinking")).what in ("stale", "unknown")


async def test_the_expiry_covers_what_was_rebuilt(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await redis.flushall()
    await rebuilt(writer)
    assert all([await redis.pttl(key) > 0 for key in await redis.keys()])


# A part is lost


async def test_what_is_left_of_it_stays_and_only_the_epoch_is_new(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.reasoning("hm")
    await writer.tokens("a", "b")
    kept = await copy(redis)
    seq = (await writer.tokens("c")).seq
    await go_back_to(redis, kept)
    before = await whole_log(session_log)
    assert (await writer.tokens("d")).what == "behind"
    made = await rebuilt(writer, seq)
    assert isinstance(made, RebuildResult)
    assert made.epoch != writer.claim.epoch
    assert (made.attempt, made.tokens, made.reasoning) == (1, 2, 1)
    assert await whole_log(session_log) == before


async def test_a_life_that_is_new_already_is_not_begun_again(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    kept = await copy(redis)
    seq = (await writer.tokens("a")).seq
    await go_back_to(redis, kept)
    await session_log.rotate("s", writer.claim.epoch, missing=False)
    life = await epoch(session_log)
    made = await rebuilt(writer, seq)
    assert isinstance(made, RebuildResult)
    assert made.epoch == life


async def test_a_claim_that_was_lost_is_noticed_and_taken_up_again(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    await session_log.admit(job_of())
    kept = await copy(redis)
    writer = await claimed(session_log, job_of())
    await go_back_to(redis, kept)
    assert (await writer.tokens("a")).what == "unknown"
    assert (await session_log.renew("s", "g1", writer.fence, LEASE_MS)).what == "unknown"
    assert isinstance(await rebuilt(writer), RebuildResult)


async def test_a_renewal_notices_appends_that_were_lost(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    kept = await copy(redis)
    await writer.tokens("b")
    await go_back_to(redis, kept)
    assert (await session_log.renew("s", "g1", writer.fence, LEASE_MS, 1)).what == "written"
    assert (await session_log.renew("s", "g1", writer.fence, LEASE_MS, 2)).what == "behind"


async def test_text_that_was_lost_by_itself_is_noticed_and_written_anew(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    seq = (await writer.tokens("a", "b")).seq
    await redis.delete(session_log.keys.generation("s", "g1", "text"))
    assert (await writer.end("complete", "a1")).what == "behind"
    assert (await writer.tokens("c")).what == "behind"
    made = await rebuilt(writer, seq)
    assert isinstance(made, RebuildResult)
    assert made.epoch != writer.claim.epoch
    assert made.tokens == 0
    assert [event["type"] for event in await whole_log(session_log)] == ["message", "status"]


async def test_what_another_worker_has_shown_is_never_gone_on_from(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    frozen = await admitted_and_claimed(session_log)
    kept = await copy(redis)
    clock.advance(ms=LEASE_MS)
    other = await claimed(session_log, job_of(), "w2")
    await go_back_to(redis, kept)  # the takeover is lost, and the first one wakes up
    assert (await frozen.tokens("of", " another call")).what == "written"
    assert (await other.status("thinking")).what == "unknown"
    made = await rebuilt(other, worker="w2")
    assert isinstance(made, RebuildResult)
    assert (made.attempt, made.tokens) == (1, 0)
    assert made.epoch != other.claim.epoch
    assert [event["type"] for event in await whole_log(session_log)] == ["message", "status"]
    assert await rebuilt(frozen) == WriteOutcome("stale")


async def test_an_attempt_that_another_worker_has_opened_is_not_gone_back_from(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    first = await admitted_and_claimed(session_log)
    await first.tokens("a")
    clock.advance(ms=LEASE_MS)
    other = await claimed(session_log, job_of(), "w2")
    await other.restart()
    kept = await copy(redis)
    await redis.flushall()
    clock.advance(ms=1)
    made = await rebuilt(first)
    assert isinstance(made, RebuildResult)
    first.fence, first.n = made.fence, 1
    await go_back_to(redis, kept)  # an old copy, and not the one that its worker saw last
    again = await rebuilt(first)
    assert isinstance(again, RebuildResult)
    assert (again.attempt, again.tokens) == (1, 0)
    assert [event["type"] for event in await whole_log(session_log)] == ["message", "status"]


async def test_a_retry_brings_its_question_only_where_the_log_has_lost_it(
    session_log: SessionLog, redis: Redis
) -> None:
    await answered(session_log, job_of("g1"), "no", reason="failed")
    retry: dict[str, Any] = {"retry_of": "g1", "message_id": "m-g1", "content": "question of g1"}
    kept = await copy(redis)
    writer = await admitted_and_claimed(session_log, "g2", **retry)
    await go_back_to(redis, kept)
    assert isinstance(await rebuilt(writer, **retry), RebuildResult)
    questions = [event["message_id"] for event in await whole_log(session_log) if event["type"] == "message"]
    assert questions == ["m-g1"]
    await redis.flushall()
    assert isinstance(await rebuilt(writer, **retry), RebuildResult)
    questions = [event["message_id"] for event in await whole_log(session_log) if event["type"] == "message"]
    assert questions == ["m-g1"]


async def test_a_question_that_two_retries_bring_back_is_brought_once(session_log: SessionLog, redis: Redis) -> None:
    retry: dict[str, Any] = {"retry_of": "g1", "message_id": "m-g1", "content": "question of g1"}
    await answered(session_log, job_of("g1"), "no", reason="failed")
    writers = [await admitted_and_claimed(session_log, name, **retry) for name in ("g2", "g3")]
    await redis.flushall()
    for writer in writers:
        assert isinstance(await rebuilt(writer, **retry), RebuildResult)
    questions = [event["message_id"] for event in await whole_log(session_log) if event["type"] == "message"]
    assert questions == ["m-g1"]


async def questions(session_log: SessionLog) -> list[str]:
    return [event["message_id"] for event in await whole_log(session_log) if event["type"] == "message"]


RETRY: dict[str, Any] = {"retry_of": "g1", "message_id": "m-g1", "content": "question of g1"}


@pytest.mark.parametrize("lost", ["everything", "entries"])
@pytest.mark.parametrize("first", ["g1", "g2"])
async def test_a_question_and_its_retry_that_both_come_back_bring_it_once_whoever_is_first(
    session_log: SessionLog, redis: Redis, lost: str, first: str
) -> None:
    writers = {"g1": await admitted_and_claimed(session_log, "g1")}
    writers["g2"] = await admitted_and_claimed(session_log, "g2", **RETRY)
    if lost == "everything":
        await redis.flushall()
    else:
        await session_log.rotate("s", writers["g1"].claim.epoch, missing=True)
    for name in sorted(writers, reverse=first == "g2"):
        assert isinstance(await rebuilt(writers[name], **(RETRY if name == "g2" else {})), RebuildResult)
    assert await questions(session_log) == ["m-g1"]


async def test_a_question_whose_retry_came_back_is_not_brought_again_by_its_job(
    session_log: SessionLog, redis: Redis
) -> None:
    """Its job lay on another server, which has lost nothing."""
    await session_log.admit(job_of("g1"))
    retry = await admitted_and_claimed(session_log, "g2", **RETRY)
    await redis.flushall()
    assert isinstance(await rebuilt(retry, **RETRY), RebuildResult)
    assert await session_log.admit(job_of("g1")) is not None
    assert await questions(session_log) == ["m-g1"]


async def test_a_retry_brings_its_question_back_also_when_what_it_retries_has_been_given_up(
    session_log: SessionLog, redis: Redis
) -> None:
    await session_log.admit(job_of("g1"))
    retry = await admitted_and_claimed(session_log, "g2", **RETRY)
    await redis.flushall()
    assert await session_log.bury("s", "g1", 1, b"{}")
    assert isinstance(await rebuilt(retry, **RETRY), RebuildResult)
    assert await questions(session_log) == ["m-g1"]


async def test_a_retry_that_has_its_question_from_a_forgotten_one_does_not_bring_it_again(redis: Redis) -> None:
    session_log = session_log_on(redis, max_generations=2)
    await answered(session_log, job_of("g1"), "one")
    retry = await admitted_and_claimed(session_log, "g2", **RETRY)
    await session_log.admit(job_of("g3"))
    await session_log.rotate("s", retry.claim.epoch, missing=True)
    assert isinstance(await rebuilt(retry, **RETRY), RebuildResult)
    assert (await questions(session_log)).count("m-g1") == 1


async def test_a_retry_whose_job_alone_is_left_brings_its_question(session_log: SessionLog) -> None:
    await session_log.admit(job_of("g2", retry_of="g1", message_id="m-g1", content="question of g1"))
    assert [event["type"] for event in await whole_log(session_log)] == ["message", "status"]


# What must not come back


async def test_what_has_ended_is_not_rebuilt(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await session_log.stop("s", "g1")
    assert await rebuilt(writer) == WriteOutcome("ended")


async def test_what_was_deleted_is_not_rebuilt(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await session_log.delete("s", 1000)
    assert (await writer.tokens("late")).what == "ended"
    assert await rebuilt(writer) == WriteOutcome("ended")
    assert await session_log.open("s", create=False) is None


async def test_what_was_forgotten_after_its_end_is_not_rebuilt(redis: Redis) -> None:
    session_log = session_log_on(redis, max_generations=1)
    writer = await admitted_and_claimed(session_log)
    seq = (await writer.tokens("a")).seq
    await session_log.stop("s", "g1")
    await admitted_and_claimed(session_log, "g2")
    assert (await writer.tokens("b")).what == "unknown"
    assert await rebuilt(writer, seq) == WriteOutcome("ended")


# Rotate


async def test_an_epoch_is_rotated_once_however_many_ask(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    before = await whole_log(session_log)
    await session_log.rotate("s", writer.claim.epoch, missing=False)
    life = await epoch(session_log)
    await session_log.rotate("s", writer.claim.epoch, missing=False)
    assert await epoch(session_log) == life != writer.claim.epoch
    assert await whole_log(session_log) == before
    assert (await writer.tokens("b")).epoch == life


async def test_where_entries_are_missing_running_answers_are_left_to_their_workers(
    session_log: SessionLog, redis: Redis
) -> None:
    await answered(session_log, job_of("g0"), "before")
    writer = await admitted_and_claimed(session_log)
    lost = await writer.tokens("a")
    seq = (await writer.tokens("b")).seq
    await redis.xdel(session_log.keys.session("s", "log"), f"{lost.seq}-0")
    await session_log.rotate("s", writer.claim.epoch, missing=True)
    assert [event["type"] for event in await whole_log(session_log)] == [
        "message",
        "status",
        "tokens",
        "end",
        "message",
    ]
    page = await session_log.range("s", 1)
    assert page is not None
    assert page.floor == seq
    made = await rebuilt(writer, seq)
    assert isinstance(made, RebuildResult)
    assert made.tokens == 0
    questions = [event["message_id"] for event in await whole_log(session_log) if event["type"] == "message"]
    assert questions == ["m-g0", "m-g1"]


async def test_a_submit_that_is_tried_again_before_the_rebuild_makes_no_other_generation(
    session_log: SessionLog, redis: Redis
) -> None:
    writer = await admitted_and_claimed(session_log)
    await session_log.rotate("s", writer.claim.epoch, missing=True)
    twin = await session_log.admit(job_of("g2", request_id="r-g1", body_hash="h-g1"))
    assert twin is not None
    assert (twin.fresh, twin.generation) == (False, "g1")
    assert isinstance(await rebuilt(writer), RebuildResult)
    assert await redis.llen(session_log.keys.session("s", "order")) == 1


async def test_what_nobody_had_claimed_is_admitted_again_by_its_own_job(session_log: SessionLog, redis: Redis) -> None:
    await session_log.admit(job_of())
    await session_log.rotate("s", await epoch(session_log), missing=True)
    admitted = await session_log.admit(job_of())
    assert admitted is not None
    assert admitted.fresh
    assert [event["type"] for event in await whole_log(session_log)] == ["message", "status"]
    assert await redis.llen(session_log.keys.session("s", "order")) == 1


# Bury


@pytest.mark.parametrize("session_is_left", [True, False])
async def test_what_nobody_brings_back_ends_as_failed(
    session_log: SessionLog, redis: Redis, session_is_left: bool
) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    await redis.flushall()
    if session_is_left:
        await answered(session_log, job_of("g2"), "other")
    assert await session_log.bury("s", "g1", 2, b'{"error":{"code":"storage"}}') == "buried"
    assert await session_log.bury("s", "g1", 2, b'{"error":{"code":"storage"}}') == "known"
    end = (await whole_log(session_log))[-1]
    assert (end["type"], end["generation"], end["attempt"], end["reason"]) == ("end", "g1", 2, "failed")
    assert (end["count"], end["text_bytes"], end["crc32"], end["error"]) == (0, 0, 0, {"code": "storage"})
    found = await snapshot(session_log)
    assert (found["state"], found["error"]["code"], found["text"]) == ("ended", "storage", "")
    assert await rebuilt(writer) == WriteOutcome("ended")
    assert all([await redis.pttl(key) > 0 for key in await redis.keys()])


async def test_what_is_back_is_not_buried(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await redis.flushall()
    await rebuilt(writer)
    assert await session_log.bury("s", "g1", 1, b"{}") == "known"
    await session_log.delete("s", 1000)
    assert await session_log.bury("s", "g1", 1, b"{}") == "deleted"


async def test_a_generation_that_is_made_again_still_knows_its_readers_language(
    session_log: SessionLog, redis: Redis
) -> None:
    writer = await admitted_and_claimed(session_log, language="de")
    await redis.flushall()
    assert isinstance(await rebuilt(writer, language="de"), RebuildResult)
    standing = await session_log.generation_fields("s", "g1")
    assert standing is not None
    assert standing["language"] == "de"
