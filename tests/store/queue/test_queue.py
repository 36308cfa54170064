"""Queues: a job is durable, taken in order of priority, and never forgotten before it is done."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from relay.errors import UnreadableJob
from relay.store.queue.queue import Due, Queue
from tests.store.in_memory import SESSION_TTL_S, TRIM_AFTER_S, Clock, job_of, next_job, queue_on

LOOK_MS = 1000
IDLE_MS = 5000


async def taken(queue: Queue) -> str | None:
    job = await next_job(queue)
    return job.generation if job is not None else None


async def requeued(queue: Queue, generation: str = "g1", idle_ms: int = IDLE_MS) -> str:
    return await queue.requeue("default", "s", generation, idle_ms)


async def left(redis: Redis) -> dict[str, int]:
    """What is left of a queue's jobs, entries, rows and stream entries."""
    streams = [f"t:q:{{default}}:{name}" for name in ("high", "normal", "low")]
    return {
        "jobs": await redis.hlen("t:q:{default}:jobs"),
        "entries": await redis.hlen("t:q:{default}:entries"),
        "open": await redis.zcard("t:q:{default}:open"),
        "streams": sum([await redis.xlen(stream) for stream in streams]),
    }


# Enqueue and take


async def test_a_job_comes_out_as_it_went_in(queue: Queue) -> None:
    job = job_of(system="Be brief.", metadata={"a": [1, "é"]}, max_tokens=5, priority="low")
    assert await queue.enqueue(job, LOOK_MS)
    assert await queue.job("default", "s", "g1") == job
    assert await next_job(queue) == job
    assert await next_job(queue) is None
    assert await queue.job("default", "s", "g1") == job  # taken is not done


async def test_enqueueing_the_same_job_again_changes_nothing(queue: Queue, redis: Redis) -> None:
    for _ in range(3):
        assert await queue.enqueue(job_of(), LOOK_MS)
    assert await left(redis) == {"jobs": 1, "entries": 1, "open": 1, "streams": 1}
    assert await taken(queue) == "g1"
    assert await queue.enqueue(job_of(), LOOK_MS)
    assert await taken(queue) is None


async def test_a_full_queue_takes_no_new_job_but_knows_those_it_has(redis: Redis) -> None:
    queue = queue_on(redis, max_backlog=2)
    assert await queue.enqueue(job_of("g1"), LOOK_MS)
    assert await queue.enqueue(job_of("g2"), LOOK_MS)
    assert not await queue.enqueue(job_of("g3"), LOOK_MS)
    assert await queue.enqueue(job_of("g1"), LOOK_MS)
    assert await queue.job("default", "s", "g3") is None
    assert await left(redis) == {"jobs": 2, "entries": 2, "open": 2, "streams": 2}

    await taken(queue)  # a job that runs still counts
    assert not await queue.enqueue(job_of("g3"), LOOK_MS)
    await queue.done("default", "s", "g1")
    assert await queue.enqueue(job_of("g3"), LOOK_MS)


async def test_jobs_are_taken_by_priority_and_within_one_in_order(queue: Queue) -> None:
    for name, priority in [("a", "low"), ("b", "normal"), ("c", "high"), ("d", "normal"), ("e", "high"), ("f", "low")]:
        await queue.enqueue(job_of(name, priority=priority), LOOK_MS)
    assert [await taken(queue) for _ in range(7)] == ["c", "e", "b", "d", "a", "f", None]


async def test_each_job_is_taken_once_by_however_many_workers(queue: Queue, redis: Redis) -> None:
    other = queue_on(redis)
    for name in ("a", "b", "c"):
        await queue.enqueue(job_of(name), LOOK_MS)
    assert [await taken(by) for by in (queue, other, queue, other)] == ["a", "b", "c", None]


async def test_several_are_taken_at_once_by_priority_and_no_more_than_wanted(queue: Queue) -> None:
    for name, priority in [("a", "low"), ("b", "normal"), ("c", "high"), ("d", "normal"), ("e", "low")]:
        await queue.enqueue(job_of(name, priority=priority), LOOK_MS)
    await queue.done("default", "s", "b")
    assert [job.generation for job in await queue.take("default", 3)] == ["c", "d", "a"]
    assert [job.generation for job in await queue.take("default", 3)] == ["e"]
    assert await queue.take("default", 3) == []


async def test_a_job_that_cannot_be_read_does_not_hold_up_the_next(queue: Queue, redis: Redis) -> None:
    for name in ("a", "b"):
        await queue.enqueue(job_of(name), LOOK_MS)
    await redis.hset("t:q:{default}:jobs", "s a", b'{"of":"another release"}')
    assert await taken(queue) == "b"
    with pytest.raises(UnreadableJob):
        await queue.job("default", "s", "a")
    assert (await redis.xpending("t:q:{default}:normal", "workers"))["pending"] == 2


async def test_queues_and_sessions_are_kept_apart(queue: Queue) -> None:
    await queue.enqueue(job_of("a", queue="fast"), LOOK_MS)
    await queue.enqueue(job_of("a", session="other"), LOOK_MS)
    job = await next_job(queue)
    assert job is not None
    assert (job.session, job.generation) == ("other", "a")
    assert await taken(queue) is None
    fast = await next_job(queue, "fast")
    assert fast is not None
    assert fast.session == "s"
    await queue.done("default", "s", "a")  # not there
    assert await queue.job("fast", "s", "a") is not None
    assert await queue.job("default", "other", "a") is not None


async def test_entries_of_jobs_that_are_done_are_dropped_on_the_way(queue: Queue, redis: Redis) -> None:
    """An entry can outlive its job: it was put in again while somebody finished the job."""
    for name in ("a", "b", "c"):
        await queue.enqueue(job_of(name), LOOK_MS)
    await redis.hdel("t:q:{default}:jobs", "s a", "s b")
    assert await taken(queue) == "c"
    assert await redis.xlen("t:q:{default}:normal") == 1
    pending = await redis.xpending("t:q:{default}:normal", "workers")
    assert pending["pending"] == 1


async def test_taking_from_a_queue_that_never_was_makes_nothing(queue: Queue, redis: Redis) -> None:
    assert await next_job(queue, "nowhere") is None
    assert await queue.due("nowhere", 10, LOOK_MS) == Due((await queue.due("nowhere", 10, LOOK_MS)).now_ms, [], [])
    assert await queue.job("nowhere", "s", "g1") is None
    assert await redis.keys() == []


async def test_the_group_is_made_again_after_redis_lost_everything(queue: Queue, redis: Redis) -> None:
    await queue.enqueue(job_of("a"), LOOK_MS)
    assert await taken(queue) == "a"
    await redis.flushall()
    assert await taken(queue) is None
    await queue.enqueue(job_of("b"), LOOK_MS)
    assert await taken(queue) == "b"


async def test_entries_from_before_the_group_was_lost_are_taken_again(queue: Queue, redis: Redis) -> None:
    await queue.enqueue(job_of("a"), LOOK_MS)
    assert await taken(queue) == "a"
    await redis.xgroup_destroy("t:q:{default}:normal", "workers")
    assert await taken(queue) == "a"  # once more; the session's meta decides what becomes of it


async def test_marks_move_with_every_entry_and_a_wait_beyond_old_ones_returns(queue: Queue) -> None:
    nothing = await queue.newest_entry_ids("default")
    assert nothing == {"high": "0-0", "normal": "0-0", "low": "0-0"}
    await queue.enqueue(job_of("a", priority="low"), LOOK_MS)
    await queue.wait("default", nothing, 60_000)  # returns at once: there is something newer
    marks = await queue.newest_entry_ids("default")
    assert marks["low"] != "0-0"
    await queue.enqueue(job_of("b", priority="high"), LOOK_MS)
    await queue.wait("default", marks, 60_000)


# Done


async def test_nothing_is_left_of_a_job_that_is_done(queue: Queue, redis: Redis) -> None:
    nothing = {"jobs": 0, "entries": 0, "open": 0, "streams": 0}
    await queue.enqueue(job_of("a"), LOOK_MS)
    await queue.done("default", "s", "a")  # never taken
    assert await left(redis) == nothing

    await queue.enqueue(job_of("b", priority="high"), LOOK_MS)
    await taken(queue)
    for _ in range(3):
        await queue.done("default", "s", "b")
    assert await left(redis) == nothing
    assert (await redis.xpending("t:q:{default}:high", "workers"))["pending"] == 0


async def test_a_job_that_is_done_is_not_taken_any_more(queue: Queue) -> None:
    await queue.enqueue(job_of("a"), LOOK_MS)
    await queue.enqueue(job_of("b"), LOOK_MS)
    await queue.done("default", "s", "a")
    assert [await taken(queue), await taken(queue)] == ["b", None]


async def test_done_leaves_the_other_jobs_alone(queue: Queue, redis: Redis) -> None:
    for name in ("a", "b"):
        await queue.enqueue(job_of(name), LOOK_MS)
    await queue.done("default", "s", "a")
    assert await left(redis) == {"jobs": 1, "entries": 1, "open": 1, "streams": 1}


# Due


async def test_a_row_is_due_after_its_time_and_then_again_and_again(queue: Queue, clock: Clock) -> None:
    await queue.enqueue(job_of(), LOOK_MS)
    clock.advance(ms=LOOK_MS - 1)
    assert await queue.due("default", 10, LOOK_MS) == Due(clock.now_ms, [], [])
    clock.advance(ms=1)
    assert await queue.due("default", 10, 500) == Due(clock.now_ms, [("s", "g1")], [], silent_ms=1)
    assert await queue.due("default", 10, 500) == Due(clock.now_ms, [], [], silent_ms=1)
    clock.advance(ms=500)
    assert await queue.due("default", 10, 500) == Due(clock.now_ms, [("s", "g1")], [], silent_ms=501)


async def test_due_rows_come_in_bounded_pages_the_oldest_first(queue: Queue, clock: Clock) -> None:
    for name in ("a", "b", "c", "d", "e"):
        await queue.enqueue(job_of(name), LOOK_MS)
        clock.advance(ms=1)
    clock.advance(ms=LOOK_MS)
    pages = [[name for _, name in (await queue.due("default", 2, LOOK_MS)).rows] for _ in range(4)]
    assert pages == [["a", "b"], ["c", "d"], ["e"], []]


async def test_a_reaper_may_choose_when_to_look_next(queue: Queue, clock: Clock) -> None:
    await queue.enqueue(job_of(), LOOK_MS)
    at_ms = clock.now_ms + 123
    await queue.look_at("default", "s", "g1", at_ms)
    clock.advance(ms=122)
    assert (await queue.due("default", 10, LOOK_MS)).rows == []
    clock.advance(ms=1)
    assert (await queue.due("default", 10, LOOK_MS)).rows == [("s", "g1")]


async def test_looking_later_at_a_row_that_is_gone_does_not_bring_it_back(queue: Queue, redis: Redis) -> None:
    await queue.enqueue(job_of(), LOOK_MS)
    await queue.done("default", "s", "g1")
    await queue.look_at("default", "s", "g1", 0)
    assert (await queue.due("default", 10, LOOK_MS)).rows == []
    assert await redis.exists("t:q:{default}:open") == 0


# Requeue


async def test_an_entry_that_nobody_has_read_is_waiting(queue: Queue, redis: Redis) -> None:
    await queue.enqueue(job_of(), LOOK_MS)
    assert await requeued(queue) == "waiting"  # before there is a group
    assert await taken(queue) == "g1"
    await queue.enqueue(job_of("g2"), LOOK_MS)
    assert await requeued(queue, "g2") == "waiting"
    assert (await left(redis))["streams"] == 2


async def test_an_entry_that_was_read_a_moment_ago_is_held_and_later_requeued(
    queue: Queue, redis: Redis, clock: Clock
) -> None:
    await queue.enqueue(job_of(priority="high"), LOOK_MS)
    await taken(queue)
    clock.advance(ms=IDLE_MS - 1)
    assert await requeued(queue) == "held"
    assert await taken(queue) is None
    await queue.enqueue(job_of("g2"), LOOK_MS)
    clock.advance(ms=1)
    assert await requeued(queue) == "requeued"
    assert await left(redis) == {"jobs": 2, "entries": 2, "open": 2, "streams": 2}
    assert (await redis.xpending("t:q:{default}:high", "workers"))["pending"] == 0
    assert await requeued(queue) == "waiting"
    assert [await taken(queue), await taken(queue)] == ["g1", "g2"]  # with the priority that it had


async def test_a_worker_that_goes_has_its_job_requeued_at_once(queue: Queue) -> None:
    await queue.enqueue(job_of(), LOOK_MS)
    await taken(queue)
    assert await requeued(queue, idle_ms=0) == "requeued"
    assert await taken(queue) == "g1"


async def test_an_entry_that_was_lost_is_made_again(queue: Queue, redis: Redis) -> None:
    await queue.enqueue(job_of(priority="low"), LOOK_MS)
    await redis.delete("t:q:{default}:low")
    assert await requeued(queue) == "requeued"
    assert await taken(queue) == "g1"


async def test_a_job_that_a_worker_brought_back_has_its_priority_when_it_needs_an_entry(
    queue: Queue, redis: Redis
) -> None:
    await queue.enqueue(job_of("g1"), LOOK_MS)
    await queue.enqueue(job_of("g2", priority="high"), LOOK_MS, held=True)
    assert [await taken(queue), await taken(queue)] == ["g1", None]
    assert await requeued(queue, "g2") == "requeued"
    assert await redis.xlen("t:q:{default}:high") == 1
    assert await taken(queue) == "g2"
    await queue.enqueue(job_of("g3"), LOOK_MS, held=True)
    for name in ("g1", "g2", "g3"):
        await queue.done("default", "s", name)
    assert set((await left(redis)).values()) == {0}


async def test_a_job_that_is_done_is_gone_and_so_is_its_row(queue: Queue, redis: Redis) -> None:
    await queue.enqueue(job_of(), LOOK_MS)
    await redis.hdel("t:q:{default}:jobs", "s g1")
    assert await requeued(queue) == "gone"
    assert await redis.exists("t:q:{default}:open") == 0
    assert await requeued(queue, "never was") == "gone"


# Names


async def test_a_queue_that_was_announced_is_known_by_name_to_every_process(queue: Queue, redis: Redis) -> None:
    assert await queue.names() == []
    for name in ("slow", "fast", "slow"):
        assert await queue.announce(name)
    assert sorted(await queue.names()) == ["fast", "slow"]
    assert sorted(await queue_on(redis).names()) == ["fast", "slow"]


async def test_a_queue_can_be_announced_again_after_redis_lost_everything(queue: Queue, redis: Redis) -> None:
    await queue.announce("default")
    await redis.flushall()
    assert await queue.announce("default")
    assert await queue.names() == ["default"]


async def test_there_are_only_so_many_queues_at_a_time(
    queue: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.queue.queue.MAX_QUEUES", 3)
    for name in ("a", "b", "c"):
        assert await queue.announce(name)
        clock.advance(s=1)
    assert not await queue.announce("d")
    assert await queue.announce("a")
    assert sorted(await queue.names()) == ["a", "b", "c"]

    clock.advance(s=SESSION_TTL_S - 1)  # b was announced longer ago than that
    assert await queue.announce("d")
    assert sorted(await queue.names()) == ["a", "c", "d"]


# Expiry


async def test_every_key_of_a_queue_expires_some_time_after_its_last_job(
    queue: Queue, redis: Redis, clock: Clock
) -> None:
    async def ttls() -> set[int]:
        return {await redis.pttl(key) for key in await redis.keys("t:q:*")}

    await queue.announce("default")
    for name, priority in [("a", "low"), ("b", "normal"), ("c", "high")]:
        await queue.enqueue(job_of(name, priority=priority), LOOK_MS)
    assert await ttls() == {SESSION_TTL_S * 1000}
    clock.advance(s=100)
    await taken(queue)
    await requeued(queue, "c", 0)
    await queue.done("default", "s", "a")
    assert await ttls() == {(SESSION_TTL_S - 100) * 1000, SESSION_TTL_S * 1000}  # the latter of `trims`, new
    await queue.enqueue(job_of("d"), LOOK_MS)
    assert await ttls() == {SESSION_TTL_S * 1000}
    assert 0 < await redis.pttl("t:queues") <= SESSION_TTL_S * 1000


# Trims


async def test_what_has_ended_is_to_be_trimmed_after_its_time_until_it_is(queue: Queue, clock: Clock) -> None:
    await queue.enqueue(job_of("a"), 10**9)
    await queue.done("default", "s", "a")
    await queue.done("default", "s", "a")
    await queue.done("default", "s", "never-was")
    assert (await queue.due("default", 10, LOOK_MS)).trims == []
    clock.advance(s=TRIM_AFTER_S)
    assert (await queue.due("default", 10, LOOK_MS)).trims == [("s", "a")]
    assert (await queue.due("default", 10, LOOK_MS)).trims == []
    clock.advance(ms=LOOK_MS)
    assert (await queue.due("default", 10, LOOK_MS)).trims == [("s", "a")]  # the reaper that had it may have died
    await queue.trimmed("default", "s", "a")
    clock.advance(s=TRIM_AFTER_S)
    assert (await queue.due("default", 10, LOOK_MS)).trims == []


async def test_rows_to_trim_are_bounded(queue: Queue, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.store.queue.queue.MAX_TRIMS", 3)
    for number in range(5):
        await queue.enqueue(job_of(f"g{number}"), LOOK_MS)
        await queue.done("default", "s", f"g{number}")
    assert await redis.zcard("t:q:{default}:trims") == 3


async def test_every_key_of_a_queue_expires_also_one_that_a_requeue_makes(queue: Queue, redis: Redis) -> None:
    """Redis had lost the queue; the job's worker put the row back, and goes."""
    await queue.enqueue(job_of(priority="high"), LOOK_MS, held=True)
    assert await requeued(queue, idle_ms=0) == "requeued"
    await redis.delete("t:q:{default}:entries", "t:q:{default}:high")
    assert await requeued(queue, idle_ms=0) == "requeued"
    assert await redis.exists("t:q:{default}:entries", "t:q:{default}:normal") == 2
    assert all([await redis.pttl(key) > 0 for key in await redis.keys()])


@pytest.mark.parametrize("way", ["enqueue", "held", "put_back"])
async def test_a_row_that_was_lost_without_its_job_comes_back(
    queue: Queue, redis: Redis, clock: Clock, way: str
) -> None:
    """Nobody would ever look at that job again."""
    await queue.enqueue(job_of(), LOOK_MS)
    assert await taken(queue) == "g1"
    await redis.delete("t:q:{default}:open")
    assert not await queue.has_job("default", "s", "g1")
    if way == "put_back":
        await queue.ensure_row(job_of(), LOOK_MS)
    else:
        await queue.enqueue(job_of(), LOOK_MS, held=way == "held")
    assert await queue.has_job("default", "s", "g1")
    assert await left(redis) == {"jobs": 1, "entries": 1, "open": 1, "streams": 1}
    assert all([await redis.pttl(key) > 0 for key in await redis.keys()])
    assert (await queue.due("default", 10, LOOK_MS)).rows == []
    clock.advance(ms=LOOK_MS)
    assert (await queue.due("default", 10, LOOK_MS)).rows == [("s", "g1")]


async def test_a_row_that_is_there_is_left_as_it_is(queue: Queue, redis: Redis, clock: Clock) -> None:
    """Else whoever submits again and again would keep the reapers from looking."""
    await queue.enqueue(job_of(), LOOK_MS)
    clock.advance(ms=LOOK_MS)
    await queue.enqueue(job_of(), LOOK_MS)
    await queue.ensure_row(job_of(), LOOK_MS)
    assert (await queue.due("default", 10, LOOK_MS)).rows == [("s", "g1")]


async def test_a_row_is_put_back_once_and_its_queue_is_known_again(queue: Queue, redis: Redis) -> None:
    await queue.ensure_row(job_of(), LOOK_MS)
    await queue.ensure_row(job_of(), LOOK_MS)
    assert await queue.names() == ["default"]
    assert await left(redis) == {"jobs": 1, "entries": 1, "open": 1, "streams": 0}
    assert await taken(queue) is None  # whoever put it back may be making it
    assert await requeued(queue) == "requeued"
    assert await taken(queue) == "g1"
