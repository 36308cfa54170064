"""What a later release has written, in the hands of this one: passed on, left alone, and lost nowhere (shapes.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from relay import settings
from relay.failure_messages import FailureMessages
from relay.store import jobs, shapes
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.queue.admin import QueueAdmin
from relay.store.queue.backlog import Backlog
from relay.store.queue.enqueue import JobSubmitter
from relay.store.queue.policy import QueuePolicy
from relay.store.queue.queue import Queue
from relay.store.queue.reaper import Reaper
from relay.store.queue.worker_registry import Offer, WorkerRegistry
from relay.store.session.session_log import SessionLog
from relay_workers.consumer import Consumer
from relay_workers.limits import consumer_limits
from tests.store.in_memory import LEASE_MS, Clock, claimed, job_of, next_job, snapshot
from tests.workers.alone import alone
from tests.workers.test_consumer import Endless, Silence

LOOK_MS = 1000
TIMEOUT_S = 60
POLICY = QueuePolicy(LEASE_MS, TIMEOUT_S * 1000, 3)
MORE = b'"speak":{"rate":7}'
JOBS = "t:q:{default}:jobs"


def with_more(job: Job) -> Job:
    """As it is read by this release where a later one has stored it."""
    return jobs.read(jobs.encode(job)[:-1] + b"," + MORE + b"}")


def later(job: Job) -> bytes:
    """One that only a later release can make."""
    return jobs.encode(job)[:-1] + b"," + MORE + b',"v":%d}' % (shapes.JOB + 1)


@contextmanager
def later_release(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "JOB", shapes.JOB + 1)
        yield


async def stored(redis: Redis, generation: str = "g1", key: str = JOBS) -> Any:
    body: Any = await redis.hget(key, f"s {generation}")
    return msgspec.json.decode(body)


def reaper_of(session_log: SessionLog, queue: Queue, clock: Clock) -> Reaper:
    return Reaper(session_log, queue, policy=POLICY, sentences=FailureMessages("Sorry.", {}), clock=clock.time)


async def swept(reaper: Reaper, clock: Clock, s: float = POLICY.look_ms / 1000) -> None:
    clock.advance(s=s)
    await reaper.sweep("default")


# What is not known here goes on


async def test_a_job_that_is_put_back_says_all_that_it_said(queue: Queue, redis: Redis) -> None:
    await queue.enqueue(with_more(job_of()), LOOK_MS)
    job = await next_job(queue)
    assert job is not None
    await redis.flushall()
    await queue.ensure_row(job, LOOK_MS)
    assert await stored(redis) == msgspec.json.decode(jobs.encode(job_of())) | {"speak": {"rate": 7}}


async def test_a_retry_asks_with_all_that_was_asked_with(session_log: SessionLog, queue: Queue, redis: Redis) -> None:
    caretaker = QueueAdmin(
        session_log, queue, Backlog(redis, Keys("t")), JobSubmitter(session_log, queue, redis, look_ms=LOOK_MS)
    )
    await queue.announce("default")
    await queue.enqueue(with_more(job_of()), LOOK_MS)
    await session_log.admit(job_of())
    await session_log.reap("s", "g1", "0", b"{}", "worker_lost")
    await queue.done("default", "s", "g1", "worker_lost")
    assert (await stored(redis, key="t:q:{default}:letters"))["speak"] == {"rate": 7}
    again = await caretaker.retry("g1")
    made = await stored(redis, again)
    assert (made["speak"], made["retry_of"], made["generation"]) == ({"rate": 7}, "g1", again)


async def test_an_offer_of_a_later_release_is_read_as_far_as_it_is_known(redis: Redis, clock: Clock) -> None:
    offer = {"queue": "q", "provider": "p", "model": "m", "speaks": ["audio"], "v": shapes.OFFER + 1}
    await redis.zadd(Keys("t").offers, {msgspec.json.encode(offer): clock.now_ms + 1000})
    (read,) = await WorkerRegistry(redis, Keys("t")).current()
    assert msgspec.structs.replace(read, v=1) == Offer("q", "p", "m")


# A job that only a later release can make is left to that one


async def test_its_entry_stays_for_a_worker_that_can_make_it(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.announce("default")
    await queue.enqueue(job_of(), LOOK_MS)
    await session_log.admit(job_of())
    await redis.hset(JOBS, "s g1", later(job_of()))
    with capture_logs() as lines:
        assert await next_job(queue) is None
    (told,) = [line for line in lines if line["event"] == "job_left"]
    assert told["log_level"] != "error"
    reaper = reaper_of(session_log, queue, clock)
    for _ in range(2 * LEASE_MS // POLICY.look_ms):
        await swept(reaper, clock)
    assert await redis.hget(JOBS, "s g1") == later(job_of())
    with later_release(monkeypatch):
        job = await next_job(queue)
    assert job is not None
    assert jobs.encode(job) == later(job_of())


async def test_what_lies_behind_them_is_taken_at_once(queue: Queue, redis: Redis) -> None:
    for number in range(5):
        job = job_of(f"g{number}", priority="high")
        await queue.enqueue(job, LOOK_MS)
        await redis.hset(JOBS, job.name, later(job))
    await queue.enqueue(job_of("mine"), LOOK_MS)
    assert [job.generation for job in await queue.take("default")] == ["mine"]
    assert await queue.take("default") == []


async def test_a_reaper_lets_those_of_the_later_release_admit_it(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gateway died before it could."""
    await queue.enqueue(job_of(), LOOK_MS)
    await redis.hset(JOBS, "s g1", later(job_of()))
    ours, theirs = (reaper_of(session_log, queue, clock) for _ in range(2))
    for _ in range(3):
        await swept(ours, clock)
    assert await session_log.open("s", create=False) is None
    with later_release(monkeypatch):
        await swept(theirs, clock)
    assert (await snapshot(session_log))["state"] == "queued"
    assert await redis.hget(JOBS, "s g1") == later(job_of())


async def test_a_reaper_makes_it_a_letter_when_nobody_has_admitted_it_in_time(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock
) -> None:
    await queue.enqueue(job_of(), LOOK_MS)
    await redis.hset(JOBS, "s g1", later(job_of()))
    reaper = reaper_of(session_log, queue, clock)
    await swept(reaper, clock)
    await swept(reaper, clock, TIMEOUT_S - 1)
    assert await queue.sizes("default") == (1, 0)
    await swept(reaper, clock)
    assert await queue.sizes("default") == (0, 1)
    assert await redis.hget("t:q:{default}:letters", "s g1") == later(job_of())


async def test_the_time_that_one_was_given_is_over_once_it_is_admitted(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis loses its session much later: it has the whole time again, and no letter is written of it."""
    reaper, job = reaper_of(session_log, queue, clock), job_of()
    await queue.enqueue(job, LOOK_MS)
    await redis.hset(JOBS, job.name, later(job))
    await swept(reaper, clock)
    with later_release(monkeypatch):
        await session_log.admit(job)
    await swept(reaper, clock)
    clock.advance(s=2 * TIMEOUT_S)
    await redis.delete(*await redis.keys("t:s:*"))
    await reaper.sweep("default")
    assert await queue.sizes("default") == (1, 0)


async def test_its_answer_is_not_lost_with_its_row(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock
) -> None:
    await queue.enqueue(job_of(), LOOK_MS)
    await session_log.admit(job_of())
    await next_job(queue)
    await claimed(session_log, job_of())
    await redis.hset(JOBS, "s g1", later(job_of()))
    await redis.delete("t:q:{default}:open")
    reaper = reaper_of(session_log, queue, clock)
    clock.advance(ms=LEASE_MS)
    await reaper.end_orphan("s", "g1")
    assert (await snapshot(session_log))["state"] == "queued"
    assert await queue.has_job("default", "s", "g1")
    assert await queue.names() == ["default"]
    assert await redis.hget(JOBS, "s g1") == later(job_of())


# What a worker is told


async def test_a_worker_ignores_what_it_does_not_understand_and_says_so_once() -> None:
    consumer = _consumer()
    with capture_logs() as lines:
        for payload in (b"pause g1", b"pause g2", b"\xff\xfe", b""):
            consumer.message(payload)
    assert [line["event"] for line in lines] == ["control_ignored"] * 4
    assert [line["verb"] for line in lines if line["log_level"] == "warning"] == ["pause"]


@pytest.mark.parametrize(("payload", "stopped"), [(b"stop g1", 1), (b"stop g1 because", 1), (b"stop g2", 0)])
async def test_a_worker_is_told_to_stop_whatever_else_a_later_release_says(payload: bytes, stopped: int) -> None:
    consumer, stops = _consumer(), []

    class Running:
        def stop(self) -> None:
            stops.append("g1")

    consumer._running["g1"] = Running()  # type: ignore[assignment]
    consumer.message(payload)
    assert len(stops) == stopped


def _consumer() -> Consumer:
    nothing: Any = None
    return Consumer(nothing, nothing, Silence(), alone(Endless()), "default", consumer_limits(settings.load()))
