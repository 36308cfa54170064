"""A submit's way into queue and session while others have their hands on the same job, and while Redis forgets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.queue.enqueue import JobSubmitter
from relay.store.queue.queue import Queue
from relay.store.queue.reaper import Reaper
from relay.store.session.replies import Admitted
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import SESSION_TTL_S, Clock, answered, job_of, next_job
from tests.store.queue.test_reaper import LOOK_S, POLICY, reaper_of

Step = Callable[[], Awaitable[object]]


class Between(SessionLog):
    """The gateway's log: `first` happens after it has enqueued, and before it admits."""

    def __init__(self, redis: Redis, first: Step, *, max_generations: int = 10) -> None:
        super().__init__(
            redis, redis, Keys("t"), session_ttl_s=SESSION_TTL_S, max_generations=max_generations, max_requests=100
        )
        self._first: list[Step] = [first]

    async def admit(self, job: Job) -> Admitted | None:
        if self._first:
            await self._first.pop()()
        return await super().admit(job)


def submitting(log: SessionLog, queue: Queue, redis: Redis) -> JobSubmitter:
    return JobSubmitter(log, queue, redis, look_ms=POLICY.look_ms)


async def test_a_job_that_another_has_dropped_for_want_of_room_is_not_accepted_any_more(
    redis: Redis, queue: Queue, session_log: SessionLog, clock: Clock
) -> None:
    """A reaper hears that the session is full, and drops the job; then an answer ends, and its gateway admits."""

    async def heard_full() -> None:
        clock.advance(s=LOOK_S)
        await reaper_of(log, queue).sweep("default")
        assert not await queue.has_job("default", "s", "g2")
        await session_log.stop("s", "g1")

    log = Between(redis, heard_full, max_generations=1)
    await session_log.admit(job_of("g1"))
    assert await submitting(log, queue, redis).submit(job_of("g2")) == "session_full"
    assert await session_log.generation_fields("s", "g2") is None


async def test_a_job_that_is_lost_before_it_is_admitted_has_its_row_again(
    redis: Redis, queue: Queue, session_log: SessionLog, clock: Clock
) -> None:
    log = Between(redis, redis.flushall)
    await queue.announce("default")
    admitted = await submitting(log, queue, redis).submit(job_of())
    assert isinstance(admitted, Admitted)
    assert await queue.names() == ["default"]
    clock.advance(s=LOOK_S)
    await reaper_of(session_log, queue).sweep("default")
    assert await next_job(queue) == job_of()
    assert all([await redis.pttl(key) > 0 for key in await redis.keys()])


async def test_a_job_that_is_lost_while_a_reaper_admits_it_has_its_row_again(
    redis: Redis, queue: Queue, clock: Clock
) -> None:
    reaper: Reaper = reaper_of(Between(redis, redis.flushall), queue)
    await queue.enqueue(job_of(), POLICY.look_ms)
    clock.advance(s=LOOK_S)
    await reaper.sweep("default")
    assert await queue.has_job("default", "s", "g1")


async def test_a_job_that_was_answered_and_forgotten_before_its_gateway_admits_it_was_not_deleted(
    redis: Redis, queue: Queue
) -> None:
    async def answered_and_forgotten() -> None:
        await answered(log, job_of("g1"))
        await answered(log, job_of("g2"))

    log = Between(redis, answered_and_forgotten, max_generations=1)
    assert await submitting(log, queue, redis).submit(job_of("g1")) == "forgotten"
    assert not await queue.has_job("default", "s", "g1")


@pytest.mark.parametrize("fields", [{}, {"retry_of": "g0"}])
async def test_a_job_whose_session_is_deleted_before_its_gateway_admits_it_is_deleted(
    redis: Redis, queue: Queue, session_log: SessionLog, fields: dict[str, str]
) -> None:
    async def deleted() -> None:
        if not fields:  # a worker was faster
            await session_log.admit(job_of("g1"))
        await session_log.delete("s", 60_000)

    await session_log.admit(job_of("g0"))
    log = Between(redis, deleted)
    assert await submitting(log, queue, redis).submit(job_of("g1", **fields)) == "deleted"
    assert not await queue.has_job("default", "s", "g1")


async def test_nothing_is_put_back_where_nothing_was_lost(redis: Redis, queue: Queue, session_log: SessionLog) -> None:
    await submitting(session_log, queue, redis).submit(job_of())
    assert await next_job(queue) == job_of()
    assert await next_job(queue) is None
    await answered(session_log, job_of("g2"))
    assert await redis.xlen("t:q:{default}:normal") == 1
