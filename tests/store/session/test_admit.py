"""Admit: one generation per request_id, bounded in number, and the oldest forgotten entirely."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from relay.protocol.frames import Active
from relay.store.jobs import Job
from relay.store.session.replies import Admitted
from relay.store.session.session_log import REFUSED_MS, SessionLog
from tests.store.in_memory import (
    Clock,
    admitted_and_claimed,
    answered,
    generations,
    head,
    job_of,
    session_log_on,
    snapshot,
    transcript,
    whole_log,
)


async def test_admitting_writes_the_question_and_that_it_is_queued(session_log: SessionLog) -> None:
    assert await session_log.admit(job_of()) == Admitted(True, "g1", "h-g1", "queued")
    assert await whole_log(session_log) == [
        {
            "seq": 1, "type": "message", "message_id": "m-g1", "role": "user", "content": "question of g1",
            "generation": "g1",
        },
        {"seq": 2, "type": "status", "generation": "g1", "attempt": 1, "state": "queued"},
    ]  # fmt: skip
    opened = await session_log.open("s", create=False)
    assert opened is not None
    assert (opened.head, opened.floor, opened.active) == (2, 0, [Active("g1", 1, "queued")])


async def test_admitting_the_same_job_again_changes_nothing(session_log: SessionLog) -> None:
    await session_log.admit(job_of())
    assert await session_log.admit(job_of()) == Admitted(False, "g1", "h-g1", "queued")
    assert await head(session_log) == 2


async def test_of_two_candidates_for_a_request_id_the_first_is_admitted(session_log: SessionLog) -> None:
    await session_log.admit(job_of("g1", request_id="r"))
    second = await session_log.admit(job_of("g2", request_id="r", body_hash="other"))
    assert second == Admitted(False, "g1", "h-g1", "queued")
    assert await session_log.snapshots.generation("s", "g2") is None
    assert await session_log.find_request("s", "r") == ("g1", "h-g1")
    assert await head(session_log) == 2


async def test_request_ids_count_per_session(session_log: SessionLog) -> None:
    await session_log.admit(job_of("g1", request_id="r"))
    other = await session_log.admit(job_of("g2", request_id="r", session="other"))
    assert other is not None
    assert other.fresh


@pytest.mark.parametrize("request_id", ["a b", "späße 😀", "{x}", "*", "%s"])
async def test_a_request_id_may_be_any_text(session_log: SessionLog, request_id: str) -> None:
    await session_log.admit(job_of("g1", request_id=request_id))
    assert await session_log.find_request("s", request_id) == ("g1", "h-g1")
    assert await session_log.find_request("s", "unheard of") is None


async def test_a_known_request_tells_how_its_generation_stands(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("Hi")
    known = await session_log.admit(job_of())
    assert known is not None
    assert (known.fresh, known.state) == (False, "streaming")
    await writer.end()
    known = await session_log.admit(job_of())
    assert known is not None
    assert (known.fresh, known.state) == (False, "ended")


async def test_a_retry_is_admitted_without_a_message_of_its_own(session_log: SessionLog) -> None:
    await answered(session_log, job_of("g1"), "Hello")
    before = await head(session_log)
    await session_log.admit(job_of("g2", retry_of="g1", message_id="m-g1", content="question of g1"))
    assert (await whole_log(session_log))[before:] == [
        {"seq": before + 1, "type": "status", "generation": "g2", "attempt": 1, "state": "queued"}
    ]
    assert await session_log.user_turn("s", "g2") == ("m-g1", "question of g1")


async def test_a_session_full_of_active_generations_admits_no_more(redis: Redis) -> None:
    session_log = session_log_on(redis, max_generations=2)
    await session_log.admit(job_of("g1"))
    await session_log.admit(job_of("g2"))
    assert await session_log.admit(job_of("g3")) is None
    assert await session_log.find_request("s", "r-g3") is None
    assert await session_log.snapshots.generation("s", "g3") is None
    assert await session_log.admit(job_of("g2")) == Admitted(False, "g2", "h-g2", "queued")

    await session_log.stop("s", "g1")
    assert await session_log.admit(job_of("g3")) == Admitted(True, "g3", "h-g3", "queued")


async def test_the_oldest_ended_generation_is_forgotten_entirely(redis: Redis) -> None:
    session_log = session_log_on(redis, max_generations=2)
    await answered(session_log, job_of("g1"), "one")
    await answered(session_log, job_of("g2"), "two")
    forgotten_end = (await whole_log(session_log))[3]
    assert (forgotten_end["type"], forgotten_end["generation"]) == ("end", "g1")
    await session_log.admit(job_of("g3"))

    assert {event["generation"] for event in await whole_log(session_log)} == {"g2", "g3"}
    assert await session_log.snapshots.generation("s", "g1") is None
    assert await generations(session_log, 10) == ["g2", "g3"]
    assert await transcript(session_log) == ["g2"]
    assert not [key for key in await redis.keys() if b"g1" in key]
    opened = await session_log.open("s")
    assert opened is not None
    assert opened.floor == forgotten_end["seq"]


async def test_an_old_generation_that_has_not_ended_is_kept_and_the_next_one_forgotten(redis: Redis) -> None:
    session_log = session_log_on(redis, max_generations=2)
    old, second = await admitted_and_claimed(session_log, "g1"), await admitted_and_claimed(session_log, "g2")
    for writer in (old, second, old, second):
        await writer.tokens(f"{writer.generation} ")
    await second.end()
    await old.tokens("goes on")
    await session_log.admit(job_of("g3"))

    assert [event["generation"] for event in await whole_log(session_log)] == ["g1"] * 5 + ["g3"] * 2
    assert (await snapshot(session_log, "g1"))["text"] == "g1 g1 goes on"
    assert await generations(session_log, 10) == ["g1", "g3"]


async def test_the_floor_never_falls(redis: Redis) -> None:
    """g2 ends before g1, so it has the lower last seq, yet g1 is the older one."""
    session_log = session_log_on(redis, max_generations=2)
    writer = await admitted_and_claimed(session_log, "g1")
    await answered(session_log, job_of("g2"), "two")
    end_of_g1 = (await writer.end()).seq
    floors = []
    for name in ("g3", "g4"):
        await answered(session_log, job_of(name), name)
        opened = await session_log.open("s")
        assert opened is not None
        floors.append(opened.floor)
    assert floors == [end_of_g1, end_of_g1]


async def test_a_forgotten_generation_does_not_come_back_by_its_request_id(redis: Redis) -> None:
    session_log = session_log_on(redis, max_generations=1)
    await answered(session_log, job_of("g1"))
    await session_log.admit(job_of("g2"))
    assert await session_log.admit(job_of("g9", request_id="r-g1")) == Admitted(False, "g1", "h-g1", "forgotten")


async def test_only_so_many_request_ids_are_remembered_the_newest(redis: Redis) -> None:
    session_log = session_log_on(redis, max_requests=2)
    for name in ("g1", "g2", "g3"):
        await session_log.admit(job_of(name))
    assert await session_log.find_request("s", "r-g1") is None
    assert await session_log.find_request("s", "r-g2") == ("g2", "h-g2")
    assert await session_log.find_request("s", "r-g3") == ("g3", "h-g3")
    # A generation whose request_id is forgotten is still the same generation.
    assert await session_log.admit(job_of("g1")) == Admitted(False, "g1", "h-g1", "queued")
    assert await redis.llen("t:s:{s}:order") == 2


async def questions(session_log: SessionLog) -> list[tuple[str, str]]:
    """message_id and generation of each question that a viewer who comes now is shown."""
    found = [event for event in await whole_log(session_log) if event["type"] == "message"]
    return [(event["message_id"], event["generation"]) for event in found]


def retry(generation: str, of: str = "g1") -> Job:
    return job_of(generation, retry_of=of, message_id="m-g1", content="question of g1")


async def test_a_retry_keeps_its_question_when_what_it_retries_is_forgotten(redis: Redis) -> None:
    session_log = session_log_on(redis, max_generations=2)
    await answered(session_log, job_of("g1"), "one")
    await session_log.admit(retry("g2"))
    await session_log.admit(job_of("g3"))
    assert await session_log.snapshots.generation("s", "g1") is None
    assert await questions(session_log) == [("m-g1", "g2"), ("m-g3", "g3")]
    assert (await whole_log(session_log))[0]["seq"] == 1  # where it was asked


async def test_a_question_goes_from_retry_to_retry_and_then_with_the_last_of_them(redis: Redis) -> None:
    session_log = session_log_on(redis, max_generations=3)
    await answered(session_log, job_of("g1"), "one")
    await answered(session_log, retry("g2"), "two")
    await answered(session_log, retry("g3", of="g2"), "three")
    await answered(session_log, job_of("g4"), "four")
    assert await questions(session_log) == [("m-g1", "g2"), ("m-g4", "g4")]
    await answered(session_log, job_of("g5"), "five")
    assert await questions(session_log) == [("m-g1", "g3"), ("m-g4", "g4"), ("m-g5", "g5")]
    await answered(session_log, job_of("g6"), "six")
    assert await questions(session_log) == [("m-g4", "g4"), ("m-g5", "g5"), ("m-g6", "g6")]
    assert {event["generation"] for event in await whole_log(session_log)} == {"g4", "g5", "g6"}
    assert not [name for name in await redis.hkeys("t:s:{s}:meta") if b"question" in name]


# Whoever drops the job of a full session makes that final first


async def test_what_was_refused_for_want_of_room_is_never_admitted_later(redis: Redis) -> None:
    """Gateway and worker both admit a job: what one of them has acted on must be true for the other."""
    session_log = session_log_on(redis, max_generations=1)
    await session_log.admit(job_of("g1"))
    assert await session_log.admit_or_refuse(job_of("g2")) is None
    await session_log.stop("s", "g1")
    assert await session_log.admit(job_of("g2")) is None
    again = await session_log.admit(job_of("g3", request_id="r-g2", body_hash="h-g2"))
    assert again == Admitted(True, "g3", "h-g2", "queued")


async def test_what_somebody_else_admits_before_it_is_refused_stands(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_log = session_log_on(redis, max_generations=1)
    await session_log.admit(job_of("g1"))
    admit = session_log.admit

    async def and_then_there_is_room(job: Job) -> Admitted | None:
        heard = await admit(job)
        if heard is None:
            await session_log.stop("s", "g1")
            await admit(job)
        return heard

    monkeypatch.setattr(session_log, "admit", and_then_there_is_room)
    assert await session_log.admit_or_refuse(job_of("g2")) == Admitted(False, "g2", "h-g2", "queued")


async def test_a_refusal_is_remembered_for_a_time_and_so_are_only_so_many(
    redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.session.session_log.MAX_TOMBSTONES", 3)
    session_log = session_log_on(redis, max_generations=1)
    await session_log.admit(job_of("g1"))
    for number in range(5):
        assert await session_log.admit_or_refuse(job_of(f"x{number}")) is None
        clock.advance(ms=1)
    assert await redis.zrange("t:s:{s}:refused", 0, -1) == [b"x2", b"x3", b"x4"]
    assert 0 < await redis.pttl("t:s:{s}:refused") <= REFUSED_MS
    clock.advance(ms=REFUSED_MS)
    assert await session_log.admit_or_refuse(job_of("x5")) is None
    assert await redis.zrange("t:s:{s}:refused", 0, -1) == [b"x5"]
