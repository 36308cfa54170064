"""The backlog: what lies in the queues is counted and listed as it is, without reading what was asked."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from relay.store.keys import Keys
from relay.store.queue.backlog import Backlog, DeadLetter, OpenJob, QueueCounts
from relay.store.queue.queue import Queue
from tests.store.in_memory import SESSION_TTL_S, Clock, job_of, next_job

LOOK_MS = 1000


@pytest.fixture
def backlog(redis: Redis) -> Backlog:
    return Backlog(redis, Keys("t"))


async def died(queue: Queue, generation: str, reason: str = "worker_lost", **fields: str) -> None:
    job = job_of(generation, **fields)
    await queue.enqueue(job, LOOK_MS)
    await queue.done(job.queue, job.session, generation, reason)


async def listed(backlog: Backlog, match: str = "*") -> set[str]:
    return {one.generation async for page in backlog.open_job_pages("default", match) for one in page}


# Counts


async def test_a_queue_that_never_was_has_nothing_and_is_not_made_by_looking(
    backlog: Backlog, redis: Redis, clock: Clock
) -> None:
    assert await backlog.counts("default") == QueueCounts("default", 0, 0, 0, None, clock.now_ms)
    assert await backlog.dead_letters("default") == []
    assert await listed(backlog) == set()
    assert await redis.keys() == []


async def test_jobs_wait_until_a_worker_has_read_them_and_then_count_as_running(
    backlog: Backlog, queue: Queue, clock: Clock
) -> None:
    for name, priority in [("a", "low"), ("b", "normal"), ("c", "high"), ("d", "normal")]:
        await queue.enqueue(job_of(name, priority=priority), LOOK_MS)
        clock.advance(s=1)
    assert (await backlog.counts("default"))[:5] == ("default", 4, 0, 0, 4.0)
    await queue.take("default", 2)  # c, b
    assert (await backlog.counts("default"))[:5] == ("default", 2, 2, 0, 4.0)
    await queue.done("default", "s", "c")
    await queue.done("default", "s", "a")  # never read: stopped
    assert (await backlog.counts("default"))[:5] == ("default", 1, 1, 0, 1.0)
    await died(queue, "e")
    await queue.take("default", 2)
    assert (await backlog.counts("default"))[:5] == ("default", 0, 2, 1, None)


async def test_a_job_that_was_requeued_waits_again_and_one_that_a_worker_brought_back_runs(
    backlog: Backlog, queue: Queue
) -> None:
    await queue.enqueue(job_of("a"), LOOK_MS)
    await next_job(queue)
    await queue.requeue("default", "s", "a", 0)
    await queue.enqueue(job_of("b"), LOOK_MS, held=True)
    assert (await backlog.counts("default"))[1:3] == (1, 1)


# Pages


async def test_open_jobs_are_listed_with_their_priority_and_since_when_they_are_queued(
    backlog: Backlog, queue: Queue, clock: Clock
) -> None:
    await queue.enqueue(job_of("a", priority="high"), LOOK_MS)
    await queue.enqueue(job_of("b", session="other"), LOOK_MS, held=True)
    found = [one async for page in backlog.open_job_pages("default") for one in page]
    assert set(found) == {
        OpenJob("default", "s", "a", "high", clock.now_ms),
        OpenJob("default", "other", "b", "normal", 0),
    }


async def test_however_many_jobs_there_are_each_is_found_by_its_name(
    backlog: Backlog, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.queue.backlog.PAGE", 7)
    names = {f"g{number}" for number in range(60)}
    for name in names:
        await queue.enqueue(job_of(name), LOOK_MS)
    assert await listed(backlog) == names
    assert await listed(backlog, "* g5") == {"g5"}
    assert await listed(backlog, "* g") == set()


# Letters


async def test_a_dead_job_lies_in_the_letters_whole_and_nowhere_else(
    backlog: Backlog, queue: Queue, redis: Redis, clock: Clock
) -> None:
    await queue.enqueue(job_of(priority="high"), LOOK_MS)
    body = await redis.hget("t:q:{default}:jobs", "s g1")
    await queue.done("default", "s", "g1", "worker_lost")
    letter = DeadLetter("default", "s", "g1", "high", "worker_lost", clock.now_ms)
    assert await backlog.dead_letters("default") == [letter]
    assert await backlog.job_body(letter) == body
    assert await listed(backlog) == set()
    assert (await backlog.counts("default"))[1:4] == (0, 0, 1)
    assert await next_job(queue) is None


async def test_tidying_up_again_makes_no_second_letter_and_brings_none_back(backlog: Backlog, queue: Queue) -> None:
    await died(queue, "g1")
    for reason in ("worker_lost", "unreadable", ""):
        await queue.done("default", "s", "g1", reason)
    (letter,) = await backlog.dead_letters("default")
    assert await queue.discard("default", "s", "g1")
    await queue.done("default", "s", "g1", "worker_lost")
    assert await backlog.dead_letters("default") == []
    assert not await queue.discard("default", "s", "g1")
    assert await backlog.job_body(letter) is None


async def test_a_job_that_died_twice_has_one_letter(backlog: Backlog, queue: Queue) -> None:
    """A worker that was frozen brought it back to the queue meanwhile."""
    await died(queue, "g1")
    await died(queue, "g1", priority="low")
    assert len(await backlog.dead_letters("default")) == 1


async def test_a_job_that_is_done_otherwise_leaves_no_letter(backlog: Backlog, queue: Queue, redis: Redis) -> None:
    await queue.enqueue(job_of(), LOOK_MS)
    await queue.done("default", "s", "g1")
    assert await redis.exists("t:q:{default}:dead", "t:q:{default}:letters") == 0


async def test_the_newest_letters_are_kept_and_come_first(
    backlog: Backlog, queue: Queue, redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.queue.queue.MAX_DEAD_LETTERS", 3)
    for number in range(5):
        await died(queue, f"g{number}")
        clock.advance(ms=1)
    assert [letter.generation for letter in await backlog.dead_letters("default")] == ["g4", "g3", "g2"]
    assert await redis.hlen("t:q:{default}:letters") == 3


async def test_no_letter_is_kept_longer_because_its_queue_is_in_use(
    backlog: Backlog, queue: Queue, redis: Redis, clock: Clock
) -> None:
    await died(queue, "g1")
    clock.advance(s=SESSION_TTL_S - 1)
    await queue.enqueue(job_of("g2"), LOOK_MS)
    assert await redis.pttl("t:q:{default}:letters") == await redis.pttl("t:q:{default}:dead") == 1000
    await queue.done("default", "s", "g2", "worker_lost")
    clock.advance(s=2)
    await died(queue, "g3")
    assert [letter.generation for letter in await backlog.dead_letters("default")] == ["g3", "g2"]
    assert await redis.hlen("t:q:{default}:letters") == 2
    assert all([await redis.pttl(key) > 0 for key in await redis.keys()])
