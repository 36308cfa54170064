"""The caretaker: dead jobs get one second chance, others are stopped; and whoever dies in between loses nothing."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from relay.errors import RelayError, StorageError
from relay.protocol.commands import Options, Turn
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.queue.admin import JobState, QueueAdmin
from relay.store.queue.backlog import Backlog
from relay.store.queue.enqueue import JobSubmitter
from relay.store.queue.queue import Queue
from relay.store.session.replies import Admitted
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import (
    LEASE_MS,
    Clock,
    answered,
    claimed,
    generations,
    job_of,
    next_job,
    queue_on,
    session_log_on,
    snapshot,
    whole_log,
)

LOOK_MS = 1000
ALL: tuple[JobState, ...] = ("running", "waiting", "dead")


@pytest.fixture
def backlog(redis: Redis) -> Backlog:
    return Backlog(redis, Keys("t"))


def caretaker_of(redis: Redis, session_log: SessionLog, queue: Queue) -> QueueAdmin:
    intake = JobSubmitter(session_log, queue, redis, look_ms=LOOK_MS)
    return QueueAdmin(session_log, queue, Backlog(redis, Keys("t")), intake)


@pytest.fixture
def caretaker(redis: Redis, session_log: SessionLog, queue: Queue) -> QueueAdmin:
    return caretaker_of(redis, session_log, queue)


async def accepted(session_log: SessionLog, queue: Queue, generation: str = "g1", /, **fields: Any) -> Job:
    job = job_of(generation, **fields)
    assert await queue.announce(job.queue)
    assert await queue.enqueue(job, LOOK_MS)
    assert await session_log.admit(job) is not None
    return job


async def dead(session_log: SessionLog, queue: Queue, generation: str = "g1", /, **fields: Any) -> Job:
    """A job that has lost a worker too many."""
    job = await accepted(session_log, queue, generation, **fields)
    assert await session_log.reap(job.session, generation, "0", b'{"error":{"code":"worker_lost"}}', "worker_lost")
    dead = await session_log.dead(job.session, generation)
    await queue.done(job.queue, job.session, generation, dead)
    return job


async def letters(backlog: Backlog) -> list[str]:
    return [letter.generation for letter in await backlog.dead_letters("default")]


# Retry


async def test_a_retry_asks_the_same_with_everything_that_was_asked_with(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, backlog: Backlog
) -> None:
    asked: dict[str, Any] = {
        "priority": "high", "provider": "demo", "model": "m", "max_tokens": 7, "system": "Be brief.",
        "metadata": {"a": 1}, "options": Options(seed=1), "messages": [Turn("user", "question of g1")],
    }  # fmt: skip
    job = await dead(session_log, queue, **asked)
    made = await caretaker.retry("g1")
    again = await next_job(queue)
    assert again is not None
    assert again.generation == made != "g1"
    assert (again.retry_of, again.message_id, again.content) == ("g1", job.message_id, job.content)
    assert {name: getattr(again, name) for name in asked} == {name: getattr(job, name) for name in asked}
    assert await letters(backlog) == []
    shown = await snapshot(session_log, made)
    assert (shown["state"], shown["retry_of"]) == ("queued", "g1")
    questions = [event for event in await whole_log(session_log) if event["type"] == "message"]
    assert len(questions) == 1, "the question stands in the log already"


async def test_a_retry_that_dies_too_can_be_retried(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, backlog: Backlog
) -> None:
    await dead(session_log, queue)
    first = await caretaker.retry("g1")
    await session_log.reap("s", first, "0", b"{}", "worker_lost")
    await queue.done("default", "s", first, "worker_lost")
    assert await letters(backlog) == [first]
    second = await caretaker.retry(first, "default")
    assert len({"g1", first, second}) == 3
    assert await letters(backlog) == []


@pytest.mark.parametrize("where", ["announce", "enqueue", "admit", "discard"])
async def test_a_retry_that_is_interrupted_anywhere_makes_one_generation_in_the_end(
    caretaker: QueueAdmin,
    session_log: SessionLog,
    queue: Queue,
    backlog: Backlog,
    redis: Redis,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis does what it is told, and its reply is lost."""
    await dead(session_log, queue)
    owner: Any = {"announce": queue, "enqueue": queue, "admit": session_log, "discard": queue}[where]
    really = getattr(owner, where)

    async def lost(*arguments: Any) -> None:
        await really(*arguments)
        raise StorageError("away")

    with monkeypatch.context() as patched:
        patched.setattr(owner, where, lost)
        with pytest.raises(StorageError):
            await caretaker.retry("g1")
    if where == "discard":
        assert await letters(backlog) == []
        made = ""
    else:
        assert await letters(backlog) == ["g1"]
        made = await caretaker.retry("g1")
    while (job := await next_job(queue)) is not None:  # what a worker does with each job
        admitted = await session_log.admit(job)
        if admitted is None or not admitted.accepts(job.generation):
            await queue.done("default", "s", job.generation)
    retries = [name for name in await generations(session_log, 100) if name != "g1"]
    assert len(retries) == 1
    assert made in (*retries, "")
    assert await redis.hkeys("t:q:{default}:jobs") == [f"s {retries[0]}".encode()]


async def test_a_retry_whose_job_redis_lost_has_it_again_when_it_is_tried_again(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await dead(session_log, queue)
    with monkeypatch.context() as patched:
        patched.setattr(queue, "discard", _fails)
        with pytest.raises(StorageError):
            await caretaker.retry("g1")
    job = await next_job(queue)
    assert job is not None
    await queue.done("default", "s", job.generation)
    assert await caretaker.retry("g1") == job.generation
    assert await next_job(queue) == job
    assert await letters(backlog) == []


async def test_where_there_is_no_room_the_letter_stays(
    redis: Redis, session_log: SessionLog, queue: Queue, backlog: Backlog, caretaker: QueueAdmin
) -> None:
    await dead(session_log, queue)
    await accepted(session_log, queue, "g2")
    full = caretaker_of(redis, session_log, queue_on(redis, max_backlog=1))
    with pytest.raises(RelayError, match="the queue default is full"):
        await full.retry("g1")
    full = caretaker_of(redis, session_log_on(redis, max_generations=1), queue)
    with pytest.raises(RelayError, match="too many answers are running"):
        await full.retry("g1")
    assert await letters(backlog) == ["g1"]
    assert await redis.hkeys("t:q:{default}:jobs") == [b"s g2"]
    await caretaker.retry("g1")


async def test_a_dead_job_whose_session_is_gone_is_not_retried_and_its_session_not_made_again(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, backlog: Backlog, redis: Redis
) -> None:
    await dead(session_log, queue)
    await redis.delete(*await redis.keys("t:s:*"))
    with pytest.raises(RelayError, match="the session of g1 is gone"):
        await caretaker.retry("g1")
    assert await letters(backlog) == ["g1"]
    assert await redis.keys("t:s:*") == []
    assert await next_job(queue) is None
    await session_log.admit(job_of("g5"))  # another life of it
    with pytest.raises(RelayError, match="the session of g1 is gone"):
        await caretaker.retry("g1")


async def test_a_letter_of_another_release_stays_and_can_be_dropped(
    caretaker: QueueAdmin, queue: Queue, redis: Redis, backlog: Backlog
) -> None:
    await queue.announce("default")
    await queue.enqueue(job_of(), LOOK_MS)
    await redis.hset("t:q:{default}:jobs", "s g1", b'{"of":"another release"}')
    await queue.done("default", "s", "g1", "unreadable")
    with pytest.raises(RelayError, match="this release cannot read the job of g1"):
        await caretaker.retry("g1")
    assert await redis.hget("t:q:{default}:letters", "s g1") == b'{"of":"another release"}'
    assert await caretaker.drop("g1") == "dead"
    assert await letters(backlog) == []
    assert await redis.exists("t:q:{default}:letters") == 0


async def test_what_an_older_release_could_not_read_is_asked_as_it_was_by_one_that_can(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, backlog: Backlog
) -> None:
    """It had not been admitted."""
    await queue.announce("default")
    await queue.enqueue(job_of(), LOOK_MS)
    await queue.done("default", "s", "g1", "unreadable")
    assert await caretaker.retry("g1") == "g1"
    assert await next_job(queue) == job_of()
    assert (await snapshot(session_log))["state"] == "queued"
    assert await letters(backlog) == []


async def test_only_dead_jobs_are_retried(caretaker: QueueAdmin, session_log: SessionLog, queue: Queue) -> None:
    await accepted(session_log, queue)
    with pytest.raises(RelayError, match="g1 is not dead"):
        await caretaker.retry("g1")


@pytest.mark.parametrize("verb", ["retry", "drop"])
async def test_what_is_not_there_is_said(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, verb: str
) -> None:
    await dead(session_log, queue)
    await accepted(session_log, queue, "g3", queue="other")
    act = getattr(caretaker, verb)
    for arguments, sentence in [
        (("g2",), "there is no job g2 in any queue"),
        (("*",), "a generation has"),
        (("g1", "other"), "there is no job g1 in the queue other"),
        (("g1", "nowhere"), "there is no queue nowhere"),
        (("g1", "no where"), "a queue has"),
    ]:
        with pytest.raises(RelayError, match=sentence):
            await act(*arguments)


async def test_a_retry_brings_back_nothing_of_a_session_that_is_deleted_meanwhile(
    session_log: SessionLog, queue: Queue, redis: Redis, backlog: Backlog
) -> None:
    class Deletes(SessionLog):
        """Just after it was asked whether the dead generation is still there."""

        async def generation_fields(self, session: str, generation: str) -> dict[str, str] | None:
            found = await super().generation_fields(session, generation)
            assert await self.delete(session, 60_000)
            return found

    job = await dead(session_log, queue)
    deletes = Deletes(redis, redis, Keys("t"), session_ttl_s=60, max_generations=9, max_requests=9)
    with pytest.raises(RelayError, match="has just been deleted"):
        await caretaker_of(redis, deletes, queue).retry("g1")
    assert await session_log.span("s", "g1") is None
    assert await session_log.find_request("s", f"\x1fretry {job.generation}") is None
    assert await next_job(queue) is None
    assert await queue.sizes("default") == (0, 1)


async def test_a_retry_asks_nothing_in_a_session_that_becomes_somebody_elses_meanwhile(
    session_log: SessionLog, queue: Queue, redis: Redis
) -> None:
    class Lost(SessionLog):
        """With all else of its session, which somebody else makes then."""

        async def generation_fields(self, session: str, generation: str) -> dict[str, str] | None:
            found = await super().generation_fields(session, generation)
            await redis.delete(*await redis.keys("t:s:*"))
            await answered(self, job_of("g2", sub="b"), "of b")
            return found

    await dead(session_log, queue)
    lost = Lost(redis, redis, Keys("t"), session_ttl_s=60, max_generations=9, max_requests=9)
    with pytest.raises(RelayError, match="somebody else's now"):
        await caretaker_of(redis, lost, queue).retry("g1")
    assert await next_job(queue) is None
    assert await queue.sizes("default") == (0, 1)


async def test_a_retry_that_is_answered_and_forgotten_before_it_is_admitted_was_made(
    session_log: SessionLog, queue: Queue, redis: Redis
) -> None:
    class Overtaken(SessionLog):
        """A worker takes the job, and others take its answer's place."""

        async def admit(self, job: Job) -> Admitted | None:
            for one in (job, job_of("g8"), job_of("g9")):
                await answered(narrow, one)
            return await super().admit(job)

    narrow = session_log_on(redis, max_generations=2)
    job = await dead(session_log, queue)
    overtaken = Overtaken(redis, redis, Keys("t"), session_ttl_s=60, max_generations=2, max_requests=9)
    made = await caretaker_of(redis, overtaken, queue).retry("g1")
    assert await session_log.find_request("s", f"\x1fretry {job.generation}") == (made, job.body_hash)
    assert await queue.sizes("default") == (0, 0)


# Drop


async def test_dropping_a_job_that_runs_stops_it_and_tells_its_worker(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, redis: Redis
) -> None:
    job = await accepted(session_log, queue)
    await next_job(queue)
    writer = await claimed(session_log, job)
    async with redis.pubsub() as heard:
        await heard.subscribe(session_log.keys.worker("w1"))
        await heard.get_message(timeout=5)
        assert await caretaker.drop("g1") == "running"
        message = await heard.get_message(timeout=5)
    assert message is not None
    assert message["data"] == b"stop g1"
    assert (await writer.tokens("late")).what == "ended"
    assert (await snapshot(session_log))["reason"] == "stopped"
    assert await redis.hlen("t:q:{default}:jobs") == 0


async def test_dropping_a_job_that_waits_ends_it(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, backlog: Backlog
) -> None:
    await accepted(session_log, queue)
    assert await caretaker.drop("g1", "default") == "waiting"
    assert (await snapshot(session_log))["reason"] == "stopped"
    assert await next_job(queue) is None
    assert await letters(backlog) == []


async def test_dropping_a_job_that_is_not_admitted_yet_leaves_an_end_for_whoever_admits_it(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue
) -> None:
    await queue.announce("default")
    await queue.enqueue(job_of(), LOOK_MS)
    assert await caretaker.drop("g1") == "waiting"
    admitted = await session_log.admit(job_of())
    assert admitted is not None
    assert (admitted.fresh, admitted.state) == (False, "ended")
    assert await next_job(queue) is None


async def test_dropping_what_has_ended_and_was_not_tidied_up_tidies_it_up(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, redis: Redis
) -> None:
    writer = await claimed(session_log, await accepted(session_log, queue))
    await writer.end()
    assert await caretaker.drop("g1") == "ended"
    assert (await snapshot(session_log))["reason"] == "complete"
    assert await redis.hlen("t:q:{default}:jobs") == 0


# Lists


async def test_a_list_says_of_each_job_what_its_session_says(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, clock: Clock
) -> None:
    await dead(session_log, queue, "died", session="other")
    lost = await accepted(session_log, queue, "lost")
    clock.advance(s=1)
    await claimed(session_log, lost, "w0")
    clock.advance(ms=LEASE_MS)
    runs = await accepted(session_log, queue, "runs", priority="high")
    clock.advance(s=2)
    await claimed(session_log, runs, "w1")
    clock.advance(s=3)
    await queue.enqueue(job_of("not-admitted"), LOOK_MS)
    clock.advance(s=1)
    found = {line.generation: line for line in await caretaker.jobs("default", ALL, 100)}
    assert list(found) == ["lost", "runs", "not-admitted", "died"]
    assert [(line.state, line.owner, line.lost_workers, line.reason) for line in found.values()] == [
        ("waiting", None, 1, None),
        ("running", "w1", 0, None),
        ("waiting", None, 0, None),
        ("dead", None, 0, "worker_lost"),
    ]
    assert [line.age_s for line in found.values()] == [17.0, 6.0, 1.0, 17.0]
    assert (found["runs"].running_s, found["runs"].attempt, found["runs"].priority) == (4.0, 1, "high")
    assert "question" not in repr(found)


async def test_a_list_is_of_the_states_that_were_asked_for_and_no_longer_than_that(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue, clock: Clock
) -> None:
    for number in range(5):
        await accepted(session_log, queue, f"w{number}")
        clock.advance(ms=1)
    for number in range(5):
        await dead(session_log, queue, f"d{number}")
        clock.advance(ms=1)
    await claimed(session_log, job_of("w1"))

    async def names(states: tuple[JobState, ...], limit: int) -> list[str]:
        return [line.generation for line in await caretaker.jobs("default", states, limit)]

    assert await names(("waiting",), 100) == ["w0", "w2", "w3", "w4"]
    assert await names(("waiting",), 2) == ["w0", "w2"]
    assert await names(("running",), 100) == ["w1"]
    assert await names(("dead",), 3) == ["d4", "d3", "d2"]
    assert await names(ALL, 7) == ["w0", "w1", "w2", "w3", "w4", "d4", "d3"]


async def test_what_has_ended_is_not_listed_though_its_row_is_still_there(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue
) -> None:
    writer = await claimed(session_log, await accepted(session_log, queue))
    await writer.end()
    assert await caretaker.jobs("default", ALL, 10) == []


async def test_all_queues_are_counted_by_name_and_an_unknown_one_is_no_empty_list(
    caretaker: QueueAdmin, session_log: SessionLog, queue: Queue
) -> None:
    await accepted(session_log, queue, "g1", queue="slow")
    await accepted(session_log, queue, "g2", queue="fast")
    assert [counts[:4] for counts in await caretaker.queues()] == [("fast", 1, 0, 0), ("slow", 1, 0, 0)]
    with pytest.raises(RelayError, match="there is no queue nowhere"):
        await caretaker.jobs("nowhere", ALL, 10)


async def _fails(*_: Any) -> bool:
    raise StorageError("away")
