"""The reaper: every accepted generation ends, whoever has died, and none ends while somebody writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.errors import StorageError
from relay.failure_messages import FailureMessages
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.queue.backlog import Backlog
from relay.store.queue.policy import QueuePolicy
from relay.store.queue.queue import Due, Queue
from relay.store.queue.reaper import Reaper
from relay.store.session.replies import ClaimRefused
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import (
    LEASE_MS,
    Clock,
    claimed,
    job_of,
    next_job,
    session_log_on,
    snapshot,
    whole_log,
)

LEASE_S = LEASE_MS / 1000
QUEUE_TIMEOUT_S = 60.0
MAX_TAKEOVERS = 3
POLICY = QueuePolicy(LEASE_MS, int(QUEUE_TIMEOUT_S * 1000), MAX_TAKEOVERS)
LOOK_S = POLICY.look_ms / 1000


def reaper_of(session_log: SessionLog, queue: Queue) -> Reaper:
    return Reaper(
        session_log,
        queue,
        policy=POLICY,
        sentences=FailureMessages("Sorry.", {"de": "Schade."}),
    )


class Slow(Queue):
    """Each reply about what is due takes so long; the reaper's own clock goes on meanwhile."""

    def __init__(self, queue: Queue) -> None:
        self.__dict__ = queue.__dict__
        self.takes_s = 0.0
        self.now_s = 1000.0

    async def due(self, *arguments: Any) -> Due:
        self.now_s += self.takes_s
        return await super().due(*arguments)


async def test_what_runs_in_its_own_process_is_nobody_elses_whatever_became_of_its_lease(
    session_log: SessionLog, queue: Queue, clock: Clock
) -> None:
    running = {"g1"}
    reaper = Reaper(
        session_log,
        queue,
        policy=POLICY,
        sentences=FailureMessages("Sorry.", {}),
        runs_here=running.__contains__,
        clock=clock.time,  # both clocks go on
    )
    job = await accepted(session_log, queue)
    await next_job(queue)
    await claimed(session_log, job)
    clock.advance(s=LEASE_S + QUEUE_TIMEOUT_S + LOOK_S)
    await reaper.sweep("default")
    assert await next_job(queue) is None
    assert (await snapshot(session_log))["state"] != "ended"
    running.clear()
    clock.advance(s=LOOK_S)
    await reaper.sweep("default")
    assert (await snapshot(session_log))["state"] == "ended"


async def test_after_a_reply_that_took_long_nobody_is_taken_for_dead_at_once(
    session_log: SessionLog, queue: Queue, clock: Clock
) -> None:
    slow = Slow(queue)
    reaper = Reaper(
        session_log, slow, policy=POLICY,
        sentences=FailureMessages("Sorry.", {"de": "Schade."}), clock=lambda: slow.now_s,
    )  # fmt: skip
    job = await accepted(session_log, queue)
    await next_job(queue)
    await claimed(session_log, job)
    clock.advance(s=LEASE_S + LOOK_S)
    slow.takes_s = LEASE_S / 2
    await reaper.sweep("default")
    assert await next_job(queue) is None
    slow.takes_s = 0
    clock.advance(s=LEASE_S)
    slow.now_s += LEASE_S
    await reaper.sweep("default")
    assert await next_job(queue) == job


@pytest.fixture
def reaper(session_log: SessionLog, queue: Queue) -> Reaper:
    return reaper_of(session_log, queue)


class Passing:
    """Time that passes in steps, with a sweep after each, as it does in every process."""

    def __init__(self, reaper: Reaper, clock: Clock) -> None:
        self._reaper = reaper
        self._clock = clock

    async def __call__(self, seconds: float, meanwhile: Callable[[], Any] | None = None) -> None:
        until_ms = self._clock.now_ms + seconds * 1000
        while self._clock.now_ms < until_ms:
            self._clock.advance(s=LOOK_S / 5)
            if meanwhile is not None:
                await meanwhile()
            await self._reaper.sweep("default")


@pytest.fixture
def passing(reaper: Reaper, clock: Clock) -> Passing:
    return Passing(reaper, clock)


async def accepted(session_log: SessionLog, queue: Queue, generation: str = "g1", **fields: Any) -> Job:
    """What a submit leaves behind."""
    job = job_of(generation, **fields)
    assert await queue.enqueue(job, POLICY.look_ms)
    assert await session_log.admit(job) is not None
    return job


async def ends(session_log: SessionLog) -> list[tuple[str, str | None]]:
    """Reason and error code of every end in the log."""
    return [
        (event["reason"], event.get("error", {}).get("code"))
        for event in await whole_log(session_log)
        if event["type"] == "end"
    ]


async def is_open(queue: Queue, generation: str = "g1") -> bool:
    return await queue.job("default", "s", generation) is not None


# Rows that need nothing, or little


async def test_a_generation_that_has_ended_only_loses_its_row(
    session_log: SessionLog, queue: Queue, passing: Passing
) -> None:
    """A worker died between its end and the queue's tidying."""
    job = await accepted(session_log, queue)
    await next_job(queue)
    await (await claimed(session_log, job)).end("complete", "a1")
    await passing(2 * LOOK_S)
    assert not await is_open(queue)
    assert await ends(session_log) == [("complete", None)]
    assert await next_job(queue) is None


async def test_a_generation_whose_lease_lives_is_left_alone(
    session_log: SessionLog, queue: Queue, passing: Passing
) -> None:
    job = await accepted(session_log, queue)
    await next_job(queue)
    writer = await claimed(session_log, job)

    async def works() -> None:
        assert (await session_log.renew("s", "g1", writer.fence, LEASE_MS)).what == "written"

    await passing(10 * QUEUE_TIMEOUT_S, works)
    assert await ends(session_log) == []
    assert await is_open(queue)
    assert await next_job(queue) is None
    assert (await writer.tokens("a")).what == "written"


async def test_a_live_generation_is_looked_at_again_when_its_lease_runs_out(
    session_log: SessionLog, queue: Queue, reaper: Reaper, clock: Clock
) -> None:
    job = await accepted(session_log, queue)
    clock.advance(s=LOOK_S)
    await session_log.claim(job.session, job.generation, "w1", 700, 0)
    await reaper.sweep("default")
    clock.advance(ms=700)
    assert (await queue.due("default", 10, 1)).rows == []
    clock.advance(ms=1)
    assert (await queue.due("default", 10, 1)).rows == [("s", "g1")]


# What died before it was accepted


async def test_a_job_that_was_never_admitted_is_admitted(
    session_log: SessionLog, queue: Queue, passing: Passing
) -> None:
    """A gateway died between making the job durable and admitting it."""
    await queue.enqueue(job_of(), 1000)
    await passing(2 * LOOK_S)
    assert (await snapshot(session_log))["state"] == "queued"
    assert [event["type"] for event in await whole_log(session_log)] == ["message", "status"]
    job = await next_job(queue)
    assert job == job_of()


async def test_a_job_whose_request_id_is_anothers_is_dropped(
    session_log: SessionLog, queue: Queue, passing: Passing
) -> None:
    await accepted(session_log, queue, "g1", request_id="r")
    await queue.enqueue(job_of("g2", request_id="r"), 1000)
    await passing(2 * LOOK_S)
    assert not await is_open(queue, "g2")
    assert await is_open(queue, "g1")
    assert await session_log.snapshots.generation("s", "g2") is None


async def test_a_job_for_which_its_session_has_no_room_is_dropped(redis: Redis, queue: Queue, clock: Clock) -> None:
    session_log = session_log_on(redis, max_generations=1)
    await accepted(session_log, queue, "g1")
    await queue.enqueue(job_of("g2"), 1000)
    await Passing(reaper_of(session_log, queue), clock)(2 * LOOK_S)
    assert not await is_open(queue, "g2")
    assert await session_log.snapshots.generation("s", "g2") is None


async def test_a_job_whose_generation_has_ended_and_is_forgotten_is_dropped(
    redis: Redis, queue: Queue, clock: Clock
) -> None:
    session_log = session_log_on(redis, max_generations=1)
    await accepted(session_log, queue, "g1")
    await session_log.stop("s", "g1")
    await accepted(session_log, queue, "g2")
    await Passing(reaper_of(session_log, queue), clock)(2 * LOOK_S)
    assert not await is_open(queue, "g1")
    assert await is_open(queue, "g2")


async def test_a_job_that_cannot_be_read_and_was_never_admitted_is_dropped(
    session_log: SessionLog, queue: Queue, redis: Redis, passing: Passing
) -> None:
    await queue.enqueue(job_of(), 1000)
    await redis.hset("t:q:{default}:jobs", "s g1", b"of another release")
    await passing(2 * LOOK_S)
    assert await redis.exists("t:q:{default}:open") == 0
    assert await session_log.open("s", create=False) is None


async def test_a_row_without_its_job_is_dropped(
    session_log: SessionLog, queue: Queue, redis: Redis, passing: Passing
) -> None:
    await queue.enqueue(job_of(), 1000)
    await redis.hdel("t:q:{default}:jobs", "s g1")
    await passing(2 * LOOK_S)
    assert await redis.exists("t:q:{default}:open") == 0
    assert await session_log.open("s", create=False) is None


# Nobody claims it


async def test_an_answer_that_nobody_claims_fails_after_the_queue_timeout(
    session_log: SessionLog, queue: Queue, passing: Passing
) -> None:
    await accepted(session_log, queue)
    await passing(QUEUE_TIMEOUT_S)
    assert await ends(session_log) == []
    await passing(2 * LOOK_S)
    assert await ends(session_log) == [("failed", "no_worker")]
    end = (await whole_log(session_log))[-1]
    assert end["error"] == {"code": "no_worker", "message": "Sorry.", "retryable": True}
    assert not await is_open(queue)
    assert await next_job(queue) is None


async def test_a_job_that_a_worker_took_and_never_claimed_is_requeued(
    session_log: SessionLog, queue: Queue, passing: Passing
) -> None:
    await accepted(session_log, queue)
    await next_job(queue)  # which dies
    await passing(LEASE_S + 2 * LOOK_S)
    job = await next_job(queue)
    assert job is not None
    await claimed(session_log, job, "w2")


# Whoever claimed it is dead


async def test_an_answer_whose_worker_died_is_requeued_when_the_lease_has_run_out(
    session_log: SessionLog, queue: Queue, passing: Passing
) -> None:
    job = await accepted(session_log, queue)
    await next_job(queue)
    await (await claimed(session_log, job)).tokens("half")
    await passing(LEASE_S - LOOK_S)
    assert await next_job(queue) is None
    await passing(3 * LOOK_S)
    again = await next_job(queue)
    assert again == job
    await claimed(session_log, job, "w2")
    assert await ends(session_log) == []


async def test_an_answer_that_loses_one_worker_after_the_other_fails_in_the_end(
    session_log: SessionLog, queue: Queue, passing: Passing
) -> None:
    job = await accepted(session_log, queue)
    for number in range(1, MAX_TAKEOVERS + 1):
        assert await ends(session_log) == []
        assert await next_job(queue) == job
        await claimed(session_log, job, f"w{number}")
        await passing(LEASE_S + 3 * LOOK_S)
    assert await ends(session_log) == [("failed", "worker_lost")]
    assert not await is_open(queue)
    assert await next_job(queue) is None
    assert await session_log.claim("s", "g1", "w9", LEASE_MS, 0) == ClaimRefused("ended")


async def test_an_answer_that_was_handed_over_has_not_lost_a_worker(
    session_log: SessionLog, queue: Queue, passing: Passing
) -> None:
    job = await accepted(session_log, queue)
    for number in range(3 * MAX_TAKEOVERS):
        assert await next_job(queue) == job
        writer = await claimed(session_log, job, f"w{number}")
        await session_log.release("s", "g1", writer.fence)
        await queue.requeue("default", "s", "g1", 0)
        await passing(2 * LOOK_S)
    assert await ends(session_log) == []
    assert await next_job(queue) == job


@pytest.mark.parametrize("how", ["died", "handed over"])
async def test_an_answer_that_nobody_claims_again_fails_after_the_queue_timeout(
    session_log: SessionLog, queue: Queue, passing: Passing, how: str
) -> None:
    job = await accepted(session_log, queue)
    await next_job(queue)
    await passing(QUEUE_TIMEOUT_S / 2)
    writer = await claimed(session_log, job)
    await writer.tokens("half")
    if how == "handed over":
        await session_log.release("s", "g1", writer.fence)
        await queue.requeue("default", "s", "g1", 0)
    else:
        await passing(LEASE_S)
    await passing(QUEUE_TIMEOUT_S)
    assert await ends(session_log) == []
    await passing(2 * LOOK_S)
    assert await ends(session_log) == [("failed", "no_worker")]
    assert not await is_open(queue)


# Dead letters


async def letters(redis: Redis) -> list[tuple[str, str]]:
    """Generation and reason."""
    found = await Backlog(redis, Keys("t")).dead_letters("default")
    return [(letter.generation, letter.reason) for letter in found]


async def loses_every_worker(session_log: SessionLog, queue: Queue, clock: Clock) -> Job:
    job = await accepted(session_log, queue)
    for number in range(MAX_TAKEOVERS):
        await claimed(session_log, job, f"w{number}")
        clock.advance(s=LEASE_S + 1)
    return job


async def test_an_answer_that_loses_every_worker_lies_in_the_dead_letters(
    session_log: SessionLog, queue: Queue, redis: Redis, reaper: Reaper, clock: Clock
) -> None:
    await loses_every_worker(session_log, queue, clock)
    for _ in range(3):
        await reaper.sweep("default")
        clock.advance(s=LOOK_S)
    assert await ends(session_log) == [("failed", "worker_lost")]
    assert await letters(redis) == [("g1", "worker_lost")]
    assert not await is_open(queue)


async def test_an_answer_that_nobody_claimed_is_not_dead(
    session_log: SessionLog, queue: Queue, redis: Redis, passing: Passing
) -> None:
    await accepted(session_log, queue)
    await passing(QUEUE_TIMEOUT_S + 3 * LOOK_S)
    assert await ends(session_log) == [("failed", "no_worker")]
    assert await letters(redis) == []


async def test_a_reaper_that_dies_before_the_letter_leaves_it_to_the_next(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await loses_every_worker(session_log, queue, clock)

    async def dies(*_: Any) -> None:
        raise StorageError("away")

    with monkeypatch.context() as patched:
        patched.setattr(queue, "done", dies)
        with pytest.raises(StorageError):
            await reaper_of(session_log, queue).sweep("default")
    assert await ends(session_log) == [("failed", "worker_lost")]
    assert await letters(redis) == []
    assert await is_open(queue)
    clock.advance(s=LOOK_S)
    for _ in range(2):
        await reaper_of(session_log, queue).sweep("default")
    assert await letters(redis) == [("g1", "worker_lost")]
    assert not await is_open(queue)
    assert all([await redis.pttl(key) > 0 for key in await redis.keys()])


async def test_two_reapers_at_once_write_one_letter(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock
) -> None:
    await loses_every_worker(session_log, queue, clock)
    reapers = [reaper_of(session_log, queue) for _ in range(3)]
    await asyncio.gather(*(one._reap_one("default", "s", "g1", clock.now_ms, POLICY) for one in reapers))
    assert await letters(redis) == [("g1", "worker_lost")]


async def test_an_answer_that_its_last_worker_finishes_while_the_reaper_looks_is_not_dead(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await loses_every_worker(session_log, queue, clock)
    last = await claimed(session_log, job, "w9")
    clock.advance(s=LEASE_S + 1)
    look = session_log.generation_fields

    async def standing(session: str, generation: str) -> dict[str, str] | None:
        seen = await look(session, generation)
        await last.end()
        return seen

    monkeypatch.setattr(session_log, "generation_fields", standing)
    await reaper_of(session_log, queue).sweep("default")
    assert await ends(session_log) == [("complete", None)]
    assert await letters(redis) == []
    assert not await is_open(queue)


async def test_a_job_that_nobody_here_can_read_lies_there_as_it_is(
    queue: Queue, redis: Redis, reaper: Reaper, clock: Clock
) -> None:
    await queue.enqueue(job_of(), 1)
    await redis.hset("t:q:{default}:jobs", "s g1", b'{"of":"another release"}')
    clock.advance(s=LOOK_S)
    await reaper.sweep("default")
    assert await letters(redis) == [("g1", "unreadable")]
    assert await redis.hget("t:q:{default}:letters", "s g1") == b'{"of":"another release"}'


# When Redis was away


async def test_after_trouble_nobody_is_taken_for_dead_until_all_could_renew(
    session_log: SessionLog, queue: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    swept = asyncio.Event()
    naming, failures = queue.names, [StorageError("away")]

    class Watched(Reaper):
        async def sweep(self, queue: str) -> None:
            await super().sweep(queue)
            swept.set()

    async def fails_at_first() -> list[str]:
        if failures:
            raise failures.pop()
        return await naming()

    async def sweeps(times: int) -> None:
        async with asyncio.timeout(10):
            for _ in range(times):
                swept.clear()
                await swept.wait()

    job = await accepted(session_log, queue)
    await queue.announce("default")
    await next_job(queue)
    await claimed(session_log, job)
    clock.advance(s=LEASE_S + 1)
    monkeypatch.setattr(queue, "names", fails_at_first)
    reaper = Watched(
        session_log,
        queue,
        policy=POLICY._replace(lease_ms=200, max_takeovers=1),  # so that it sweeps often
        sentences=FailureMessages("Sorry.", {"de": "Schade."}),
        clock=lambda: now_s,
    )
    running = asyncio.create_task(reaper.run())
    await sweeps(1)
    clock.advance(s=1)
    await sweeps(2)
    assert await ends(session_log) == []
    now_s += 0.3
    clock.advance(s=1)
    await sweeps(2)
    assert await ends(session_log) == [("failed", "worker_lost")]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# What the queue has lost (whoever follows the answer asks about it)


async def test_an_answer_whose_row_alone_is_lost_has_it_again_and_is_taken_over(
    redis: Redis, reaper: Reaper, session_log: SessionLog, queue: Queue, clock: Clock
) -> None:
    job = await accepted(session_log, queue)
    await next_job(queue)
    await claimed(session_log, job)
    await redis.delete("t:q:{default}:open")  # and then its worker dies
    clock.advance(s=LEASE_S)
    await reaper.end_orphan("s", "g1")
    assert await ends(session_log) == []
    clock.advance(s=LOOK_S)
    await reaper.sweep("default")
    assert await next_job(queue) == job


@pytest.mark.parametrize("left", [None, b'{"of":"another release"}'])
async def test_an_answer_whose_job_is_lost_ends_once_nobody_writes_it(
    redis: Redis, reaper: Reaper, session_log: SessionLog, queue: Queue, clock: Clock, left: bytes | None
) -> None:
    job = await accepted(session_log, queue)
    await next_job(queue)
    await claimed(session_log, job)
    await redis.delete("t:q:{default}:open", "t:q:{default}:jobs")
    if left is not None:
        await redis.hset("t:q:{default}:jobs", "s g1", left)
    await reaper.end_orphan("s", "g1")
    assert await ends(session_log) == []
    clock.advance(s=LEASE_S)
    await reaper.end_orphan("s", "g1")
    assert await ends(session_log) == [("failed", "storage")]
    assert await redis.exists("t:q:{default}:jobs") == 0


async def test_a_worker_looks_after_its_own_queue_even_if_nobody_announced_it(
    session_log: SessionLog, queue: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accepted(session_log, queue)
    clock.advance(s=QUEUE_TIMEOUT_S + 1)
    reaper = Reaper(
        session_log,
        queue,
        policy=POLICY._replace(lease_ms=200),
        sentences=FailureMessages("Sorry.", {"de": "Schade."}),
        own_queue="default",
    )
    ended = asyncio.Event()
    reaping = session_log.reap

    async def told(*arguments: Any) -> bool:
        outcome = await reaping(*arguments)
        ended.set()
        return outcome

    monkeypatch.setattr(session_log, "reap", told)
    running = asyncio.create_task(reaper.run())
    async with asyncio.timeout(10):
        while not ended.is_set():
            clock.advance(ms=10)
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await ends(session_log) == [("failed", "no_worker")]


# Several at once


async def test_two_reapers_at_once_end_it_once(session_log: SessionLog, queue: Queue, clock: Clock) -> None:
    await accepted(session_log, queue)
    clock.advance(s=QUEUE_TIMEOUT_S + 1)
    reapers = [reaper_of(session_log, queue) for _ in range(2)]
    due = await queue.due("default", 10, 1)
    assert due.rows == [("s", "g1")]
    outcomes = await asyncio.gather(*(one._reap_one("default", "s", "g1", due.now_ms, POLICY) for one in reapers))
    assert set(outcomes) <= {"no_worker", "ended"}
    assert await ends(session_log) == [("failed", "no_worker")]
    assert not await is_open(queue)


async def test_two_reapers_at_once_requeue_it_once(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock
) -> None:
    job = await accepted(session_log, queue)
    await next_job(queue)
    await claimed(session_log, job)
    clock.advance(s=LEASE_S + 1)
    reapers = [reaper_of(session_log, queue) for _ in range(2)]
    outcomes = await asyncio.gather(*(one._reap_one("default", "s", "g1", clock.now_ms, POLICY) for one in reapers))
    assert sorted(outcomes) == ["requeued", "waiting"]
    assert await redis.xlen("t:q:{default}:normal") == 1


async def test_a_claim_that_comes_while_the_reaper_looks_wins(
    session_log: SessionLog, queue: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await accepted(session_log, queue)
    clock.advance(s=QUEUE_TIMEOUT_S + 1)
    look = session_log.generation_fields

    async def standing(session: str, generation: str) -> dict[str, str] | None:
        seen = await look(session, generation)
        await claimed(session_log, job)
        return seen

    monkeypatch.setattr(session_log, "generation_fields", standing)
    await reaper_of(session_log, queue).sweep("default")
    assert await ends(session_log) == []
    assert await is_open(queue)


@pytest.mark.parametrize(("language", "said"), [("de-CH,en", "Schade."), ("fr", "Sorry."), (None, "Sorry.")])
async def test_it_says_the_sentence_in_the_language_of_whoever_asked(
    session_log: SessionLog, queue: Queue, clock: Clock, language: str | None, said: str
) -> None:
    await accepted(session_log, queue, language=language)
    clock.advance(s=QUEUE_TIMEOUT_S + 1)
    await reaper_of(session_log, queue).sweep("default")
    assert (await snapshot(session_log))["error"] == {"code": "no_worker", "message": said, "retryable": True}


async def test_more_rows_than_a_page_are_all_looked_at(
    session_log: SessionLog, queue: Queue, redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.queue.reaper.PAGE", 3)
    for number in range(8):
        await accepted(session_log, queue, f"g{number}")
    clock.advance(s=QUEUE_TIMEOUT_S + 1)
    for _ in range(3):
        await reaper_of(session_log, queue).sweep("default")
    assert await ends(session_log) == [("failed", "no_worker")] * 8
    assert await redis.exists("t:q:{default}:open") == 0


def test_a_row_is_looked_at_often_enough_for_either_deadline() -> None:
    assert QueuePolicy(10_000, 60_000, 3).look_ms == 5000
    assert QueuePolicy(10_000, 4_000, 3).look_ms == 2000
    assert QueuePolicy(200, 10, 3).look_ms == 100


# Whose deadlines count


async def test_a_queues_own_workers_say_by_which_deadlines_every_reaper_judges(
    session_log: SessionLog, queue: Queue, clock: Clock
) -> None:
    await accepted(session_log, queue)
    none = FailureMessages("Sorry.", {})
    worker = Reaper(session_log, queue, policy=POLICY, sentences=none, own_queue="default", said="1 - 600000 -")
    await worker.sweep("default")
    clock.advance(s=QUEUE_TIMEOUT_S + 1)
    for reaper in (worker, reaper_of(session_log, queue)):
        await reaper.sweep("default")
    assert await ends(session_log) == []
    clock.advance(s=600)
    await reaper_of(session_log, queue).sweep("default")
    assert await ends(session_log) == [("failed", "no_worker")]


async def test_what_workers_have_said_is_kept_for_a_time_and_not_taken_back_by_others(
    queue: Queue, redis: Redis
) -> None:
    assert (await queue.due("default", 10, 1)).policy == b""
    assert (await queue.due("default", 10, 1, "1 - 9 -")).policy == b"1 - 9 -"
    assert (await queue.due("default", 10, 1)).policy == b"1 - 9 -"
    assert await redis.pttl("t:q:{default}:policy") > 0


# When Redis' clock steps forward


class Both(Passing):
    """Time passes for Redis and for the reaper alike, but for what `step` adds to Redis' clock."""

    def __init__(self, session_log: SessionLog, queue: Queue, clock: Clock) -> None:
        self.now_s = 1000.0
        sentences = FailureMessages("Sorry.", {"de": "Schade."})
        reaper = Reaper(session_log, queue, policy=POLICY, sentences=sentences, clock=lambda: self.now_s)
        super().__init__(reaper, clock)

    async def __call__(self, seconds: float, meanwhile: Callable[[], Any] | None = None) -> None:
        async def both() -> None:
            self.now_s += LOOK_S / 5
            if meanwhile is not None:
                await meanwhile()

        await super().__call__(seconds, both)

    async def step(self, seconds: float) -> None:
        self._clock.advance(s=seconds)
        await self._reaper.sweep("default")


@pytest.fixture
def both(session_log: SessionLog, queue: Queue, clock: Clock) -> Both:
    return Both(session_log, queue, clock)


async def test_an_answer_that_waits_for_its_first_token_outlives_a_step_of_redis_clock(
    session_log: SessionLog, queue: Queue, both: Both
) -> None:
    job = await accepted(session_log, queue)
    await next_job(queue)
    writer = await claimed(session_log, job)
    await both(LOOK_S)
    await both.step(1.5 * QUEUE_TIMEOUT_S)
    await both(LEASE_S / 3)  # so often it is renewed
    assert await ends(session_log) == []
    assert (await session_log.renew("s", "g1", writer.fence, LEASE_MS)).what == "written"
    await both(LEASE_S - LOOK_S)
    assert await next_job(queue) is None
    assert (await writer.end()).what == "written"


async def test_an_answer_whose_worker_died_in_a_step_of_redis_clock_is_taken_over(
    session_log: SessionLog, queue: Queue, both: Both
) -> None:
    job = await accepted(session_log, queue)
    await next_job(queue)
    await claimed(session_log, job)
    await both(LOOK_S)
    await both.step(1.5 * QUEUE_TIMEOUT_S)
    await both(LEASE_S + LOOK_S)
    assert await ends(session_log) == []
    assert await next_job(queue) == job


async def test_an_answer_that_is_written_is_nobody_elses_where_redis_clock_is_set_back(
    session_log: SessionLog, queue: Queue, both: Both
) -> None:
    job = await accepted(session_log, queue)
    await next_job(queue)
    writer = await claimed(session_log, job)
    await both(LOOK_S)
    await both.step(-6 * QUEUE_TIMEOUT_S)
    for _ in range(9):
        assert (await session_log.renew("s", "g1", writer.fence, LEASE_MS)).what == "written"
        await both(LEASE_S / 3)
        assert isinstance(await session_log.claim("s", "g1", "w2", LEASE_MS, 0), ClaimRefused)
    assert await next_job(queue) is None
    assert (await writer.end()).what == "written"


async def test_a_job_waits_its_time_for_a_worker_whatever_redis_clock_skips(
    session_log: SessionLog, queue: Queue, both: Both
) -> None:
    await accepted(session_log, queue)
    await both(QUEUE_TIMEOUT_S / 3)
    await both.step(6 * QUEUE_TIMEOUT_S)
    await both(QUEUE_TIMEOUT_S / 3)
    await both.step(6 * QUEUE_TIMEOUT_S)
    await both(QUEUE_TIMEOUT_S / 3 - LOOK_S)
    assert await ends(session_log) == []
    await both(LEASE_S + 2 * LOOK_S)
    assert await ends(session_log) == [("failed", "no_worker")]


async def test_after_a_start_workers_have_a_lease_to_come_and_take_what_waits(
    session_log: SessionLog, queue: Queue, clock: Clock
) -> None:
    """The whole machine was off: what waited in Redis waited for nobody, and what ran is taken over at once."""
    now_s, rounds = 1000.0, asyncio.Queue[None]()

    class Watched(Reaper):
        async def sweep(self, queue: str) -> None:
            await super().sweep(queue)
            rounds.put_nowait(None)

    async def sweeps() -> None:
        async with asyncio.timeout(10):
            for _ in range(2):
                await rounds.get()

    waits, ran = await accepted(session_log, queue, "g1"), await accepted(session_log, queue, "g2")
    assert [job.generation for job in await queue.take("default", 2)] == ["g1", "g2"]
    await claimed(session_log, ran)
    await queue.requeue("default", "s", "g1", 0)
    await queue.announce("default")
    clock.advance(s=2 * QUEUE_TIMEOUT_S)
    reaper = Watched(
        session_log,
        queue,
        policy=POLICY._replace(lease_ms=200),  # so that it sweeps often
        sentences=FailureMessages("Sorry.", {}),
        clock=lambda: now_s,
    )
    running = asyncio.create_task(reaper.run())
    await sweeps()
    now_s += 0.19
    clock.advance(ms=190)
    await sweeps()
    assert await ends(session_log) == []
    assert {job.generation for job in await queue.take("default", 2)} == {waits.generation, ran.generation}
    now_s += 0.2
    clock.advance(ms=200)
    await sweeps()
    assert await ends(session_log) == [("failed", "no_worker")] * 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
