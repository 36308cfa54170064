"""A queue that no living worker serves: its viewers are told once, soon, and of no queue that has a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from structlog.testing import capture_logs

from relay.errors import StorageError
from relay.failure_messages import FailureMessages
from relay.store.queue.policy import QueuePolicy
from relay.store.queue.queue import Queue
from relay.store.queue.reaper import Reaper
from relay.store.queue.unserved import SILENT_S, SURE_S
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import LEASE_MS, Clock, claimed, job_of, whole_log

POLICY = QueuePolicy(LEASE_MS, 60_000, 3)
CONTRACT_S = 15.0
STEP_S = 1.0
SERVED = "t:q:{default}:served"

Meanwhile = Callable[[], Awaitable[object]]


class Process(Reaper):
    """A gateway's reaper, or one of a worker of another queue; its rounds come when the test says."""

    def __init__(self, log: SessionLog, queue: Queue, clock: Callable[[], float], policy: QueuePolicy, own: str | None):
        super().__init__(log, queue, policy=policy, sentences=FailureMessages("Sorry.", {}), own_queue=own, clock=clock)

    async def round(self) -> None:
        try:
            await self._round()
        except StorageError:
            self._last_outage_at = self._clock()  # as `run` does


class Stage:
    """Two gateways and a worker of another queue; Redis' clock and theirs go on together."""

    def __init__(self, log: SessionLog, queue: Queue, clock: Clock, policy: QueuePolicy = POLICY) -> None:
        self.log, self.queue, self.clock = log, queue, clock
        self.policy = policy
        self.now_s = 1000.0
        self.worker = False  # one lives, and says so, however busy it is
        self.processes = [Process(log, queue, lambda: self.now_s, policy, own) for own in (None, None, "other")]

    async def submit(self, generation: str = "g1", queue: str = "default", session: str = "s") -> None:
        job = job_of(generation, queue=queue, session=session)
        assert await self.queue.announce(queue)
        assert await self.queue.enqueue(job, self.policy.look_ms)
        assert await self.log.admit(job) is not None

    async def passes(self, seconds: float) -> None:
        """Each round, all of them sweep at the same moment."""
        for _ in range(int(seconds / STEP_S)):
            self.clock.advance(s=STEP_S)
            self.now_s += STEP_S
            if self.worker:
                await self.queue.serve("default")
            await asyncio.gather(*(process.round() for process in self.processes))

    async def told(self, generation: str = "g1") -> list[dict[str, Any]]:
        return [
            event
            for event in await whole_log(self.log)
            if event["type"] == "status" and event.get("detail") and event["generation"] == generation
        ]


@pytest.fixture
def stage(session_log: SessionLog, queue: Queue, clock: Clock) -> Stage:
    return Stage(session_log, queue, clock)


async def when_it_comes_to(stage: Stage, name: str, happens: Meanwhile) -> None:
    """Time passes; right before the first call of the queue's or log's `name` this happens, and then time passes on."""
    part: Any = stage.queue if hasattr(stage.queue, name) else stage.log
    call, left = getattr(part, name), [happens]

    async def moved(*arguments: Any) -> Any:
        if left:
            await left.pop()()
        return await call(*arguments)

    setattr(part, name, moved)
    await stage.passes(CONTRACT_S)
    assert not left


# Told


async def test_a_queue_that_nobody_ever_served_is_told_of_once_within_the_contracts_time(stage: Stage) -> None:
    """As where a client has mistyped it. Every process finds the row, and it is looked at again and again."""
    await stage.submit()
    await stage.passes(CONTRACT_S)
    told = {"type": "status", "generation": "g1", "attempt": 1, "state": "queued", "detail": "no_worker"}
    assert await stage.told() == [{"seq": 3, **told}]
    await stage.passes(2 * CONTRACT_S)
    assert await stage.told() == [{"seq": 3, **told}]


@pytest.mark.parametrize("lease_s", [0.2, 10, 600])
async def test_so_is_one_whose_worker_died_whatever_its_lease(
    session_log: SessionLog, queue: Queue, clock: Clock, lease_s: float
) -> None:
    stage = Stage(session_log, queue, clock, POLICY._replace(lease_ms=int(lease_s * 1000)))
    stage.worker = True
    await stage.submit("g0")
    await stage.passes(CONTRACT_S)
    stage.worker = False
    await stage.submit("g1")
    await stage.passes(CONTRACT_S)
    assert (len(await stage.told("g0")), len(await stage.told("g1"))) == (1, 1)


async def test_of_several_that_tell_it_at_once_one_writes_it(stage: Stage) -> None:
    """As two reapers do that have found the same row, or one whose reply was lost."""
    await stage.submit()
    told = await asyncio.gather(*(stage.log.unserved("s", "g1") for _ in range(3)))
    assert sorted(told) == [False, False, True]
    assert [event["seq"] for event in await stage.told()] == [3]


async def test_every_question_that_waits_there_is_told_by_itself_and_soon_where_it_is_known(stage: Stage) -> None:
    await stage.submit("g1")
    await stage.passes(3 * CONTRACT_S)
    await stage.submit("g2")
    await stage.passes(POLICY.look_ms / 1000)
    assert (len(await stage.told("g1")), len(await stage.told("g2"))) == (1, 1)


async def test_the_next_status_is_that_of_the_worker_that_comes(stage: Stage) -> None:
    await stage.submit()
    await stage.passes(CONTRACT_S)
    await (await claimed(stage.log, job_of())).status("preparing")
    await stage.passes(CONTRACT_S)
    states = [event["state"] for event in await whole_log(stage.log) if event["type"] == "status"]
    assert states == ["queued", "queued", "preparing"]


async def test_an_answer_whose_session_lost_it_is_told_of_again_in_the_log_that_it_has_then(
    stage: Stage, redis: Redis
) -> None:
    await stage.submit()
    await stage.passes(CONTRACT_S)
    await redis.delete(*await redis.keys("t:s:*"))
    await stage.passes(CONTRACT_S)
    assert [event["type"] for event in await whole_log(stage.log)] == ["message", "status", "status"]
    assert len(await stage.told()) == 1


# Not told


async def test_a_worker_that_is_busy_with_all_it_can_take_lives(stage: Stage) -> None:
    stage.worker = True
    await stage.submit()
    await stage.passes(3 * CONTRACT_S)
    assert await stage.told() == []


async def test_workers_that_restart_are_missed_by_nobody(stage: Stage) -> None:
    stage.worker = True
    await stage.submit()
    await stage.passes(CONTRACT_S)
    stage.worker = False
    await stage.passes(SILENT_S + SURE_S - 2 * STEP_S)
    stage.worker = True
    await stage.passes(CONTRACT_S)
    assert await stage.told() == []


async def test_what_redis_has_lost_counts_for_nobody(stage: Stage, redis: Redis) -> None:
    """The mark itself; a worker that lives says it again."""
    stage.worker = True
    await stage.submit()
    await stage.passes(CONTRACT_S)
    await redis.delete(SERVED)
    stage.worker = False
    await stage.passes(SILENT_S)
    stage.worker = True
    await stage.passes(CONTRACT_S)
    assert await stage.told() == []


@pytest.mark.parametrize("step_s", [-1000.0, 3.0, 100.0])
@pytest.mark.parametrize("lease_s", [10, 600])
async def test_a_step_of_redis_clock_makes_no_worker_absent(
    session_log: SessionLog, queue: Queue, clock: Clock, step_s: float, lease_s: float
) -> None:
    """The worker speaks a moment after the reapers have looked."""
    stage = Stage(session_log, queue, clock, POLICY._replace(lease_ms=int(lease_s * 1000), queue_timeout_ms=10**9))
    stage.worker = True
    await stage.submit()
    await stage.passes(CONTRACT_S)
    clock.advance(s=step_s)
    stage.worker = False
    await stage.passes(1.0)
    stage.worker = True
    await stage.passes(CONTRACT_S)
    assert await stage.told() == []


async def test_after_redis_was_away_workers_have_their_time_to_speak(stage: Stage) -> None:
    async def away(*_: object) -> None:
        raise StorageError("away")

    stage.worker = True
    await stage.submit()
    await stage.passes(CONTRACT_S)
    stage.worker, stage.queue.names = False, away  # type: ignore[method-assign, assignment]
    await stage.passes(2 * CONTRACT_S)
    del stage.queue.names
    await stage.passes(SILENT_S - STEP_S)
    stage.worker = True
    await stage.passes(CONTRACT_S)
    assert await stage.told() == []


async def test_a_process_that_starts_lets_workers_start_too(stage: Stage) -> None:
    await stage.submit()
    await stage.passes(1.0)
    stage.clock.advance(s=30)  # the whole machine was off
    for process in stage.processes:
        process._steps.clear()
        process._began_at = stage.now_s
    await stage.passes(SILENT_S - STEP_S)
    stage.worker = True
    await stage.passes(CONTRACT_S)
    assert await stage.told() == []


@pytest.mark.parametrize("place", ["requeue", "silent_ms", "unserved"])
@pytest.mark.parametrize("what", ["claimed", "stopped", "deleted", "lost"])
async def test_the_script_decides_what_has_become_of_it_meanwhile(
    stage: Stage, redis: Redis, place: str, what: str
) -> None:
    async def claims() -> None:
        await claimed(stage.log, job_of())

    async def loses() -> None:
        await redis.delete(stage.log.keys.session("s"))

    happens: dict[str, Meanwhile] = {
        "claimed": claims,
        "stopped": lambda: stage.log.stop("s", "g1"),
        "deleted": lambda: stage.log.delete("s", 60_000),
        "lost": loses,
    }
    await stage.submit()
    if place == "requeue":
        await stage.passes(SILENT_S)
    await when_it_comes_to(stage, place, happens[what])
    if what in ("claimed", "stopped"):
        assert await stage.told() == []
    elif what == "deleted":
        assert await stage.log.open("s", create=False) is None
    else:
        await stage.passes(CONTRACT_S)
        assert [event["type"] for event in await whole_log(stage.log)] == ["message", "status", "status"]
        assert len(await stage.told()) == 1


async def test_a_worker_that_comes_while_a_page_is_looked_at_is_seen(stage: Stage) -> None:
    await stage.submit()

    async def comes() -> None:
        stage.worker = True
        await stage.queue.serve("default")

    await when_it_comes_to(stage, "silent_ms", comes)
    assert await stage.told() == []


async def test_who_was_claimed_before_is_not_told_of_though_its_worker_is_gone(stage: Stage) -> None:
    await stage.submit()
    await claimed(stage.log, job_of())
    await stage.passes(2 * CONTRACT_S)
    assert await stage.told() == []


# What operators see


def lines_about(lines: Any) -> list[tuple[str, str, str]]:
    return [(e["log_level"], e["event"], e["queue"]) for e in lines if e["event"] in ("queue_unserved", "queue_served")]


def unserved_queues() -> float | None:
    return REGISTRY.get_sample_value("relay_unserved_queues")


async def test_an_outage_is_one_line_of_each_gateway_and_one_when_a_worker_is_back(stage: Stage) -> None:
    """However many wait, however often somebody looks, and whatever is asked in between."""
    unserved, served = ("warning", "queue_unserved", "default"), ("info", "queue_served", "default")
    with capture_logs() as lines:
        for number in range(5):
            await stage.submit(f"g{number}")
        await stage.passes(5 * CONTRACT_S)  # all of them fail meanwhile
        assert unserved_queues() == 0
        await stage.submit("late")
        await stage.passes(CONTRACT_S)
        assert unserved_queues() == 1
        assert lines_about(lines) == [unserved] * 2
        stage.worker = True
        await stage.passes(CONTRACT_S)
        assert lines_about(lines) == [unserved] * 2 + [served] * 2
        assert unserved_queues() == 0
        stage.worker = False
        await stage.passes(CONTRACT_S)
        assert lines_about(lines) == ([unserved] * 2 + [served] * 2) + [unserved] * 2
        assert not [line for line in lines if line["event"] == "reaped" and line["what"] == "unserved"]


async def test_a_mark_that_redis_loses_is_no_worker_that_came(stage: Stage, redis: Redis) -> None:
    with capture_logs() as lines:
        await stage.submit()
        await stage.passes(CONTRACT_S)
        await redis.delete("t:q:{default}:served")
        await stage.passes(CONTRACT_S)
        assert lines_about(lines) == [("warning", "queue_unserved", "default")] * 2
        assert unserved_queues() == 1


async def test_an_idle_queue_without_a_worker_is_no_news(stage: Stage) -> None:
    await stage.submit()
    await stage.log.stop("s", "g1")
    await stage.queue.done("default", "s", "g1")
    with capture_logs() as lines:
        await stage.passes(2 * CONTRACT_S)
    assert lines_about(lines) == []
    assert unserved_queues() == 0


async def test_a_queue_that_is_forgotten_is_forgotten_here_too(stage: Stage, redis: Redis) -> None:
    await stage.submit()
    await stage.passes(CONTRACT_S)
    await redis.flushall()
    await stage.passes(1.0)
    for process in stage.processes[:2]:
        assert not process._reported
        assert not process._unserved._silent_s
        assert not process._unserved._since
