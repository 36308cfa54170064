"""The reaper: makes sure that every accepted generation ends, whatever dies.

Every process runs one. It walks bounded pages of the open index. Everything it does is idempotent, so it needs no lock,
and any number of reapers may run.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Set
from typing import Literal, TypeVar, get_args

from relay import logging, metrics
from relay.crashpoints import crashpoint
from relay.errors import LaterJob, StorageError, UnreadableJob
from relay.failure_messages import FailureMessages
from relay.protocol import events
from relay.redis.clock_steps import ClockSteps
from relay.store import jobs
from relay.store.queue.policy import QueuePolicy
from relay.store.queue.queue import Queue
from relay.store.queue.unserved import UnservedQueues, is_silent
from relay.store.session.session_log import SessionLog

T = TypeVar("T")

# The outcome of a check; `relay_reaped_total` counts each.
Idle = Literal["alive", "waiting", "held", "later", "unserved", "refused"]
Action = Literal["requeued", "gone", "admitted", "dropped", "ended", "no_worker", "worker_lost", "storage"]

PAGE = 100
_FORGET_LEFT_S = 600.0  # many checks after it became a letter, or another process admitted it

logger = logging.get_logger("reaper")
_stepped, _look_refused, _trim_refused = (
    logging.RateLimitedLog(logger, event) for event in ("clock_stepped", "look_refused", "trim_refused")
)


class Reaper:
    """Checks what is due in every known queue.

    `own_queue`: that of the worker in this process; `said`: the policy that it stores for it, for all reapers.
    `policy`: applies where a queue's workers have stored nothing.
    """

    def __init__(
        self,
        session_log: SessionLog,
        queue: Queue,
        *,
        policy: QueuePolicy,
        sentences: FailureMessages,
        own_queue: str | None = None,
        said: str = "",
        runs_here: Callable[[str], bool] = lambda generation: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs_here = runs_here
        self._session_log = session_log
        self._queue = queue
        self._policy = policy
        self._own_policy = said
        self._sentences = sentences
        self._own = {own_queue} if own_queue is not None else set()
        self._clock = clock
        self._last_outage_at = self._began_at = -math.inf
        self._sweeping = logging.FailureLog(logger, "sweep_failed")
        self._bug = logging.FailureLog(logger, "reaper_failed")
        self._steps: dict[str, ClockSteps] = {}  # by queue: each may lie on another server
        self._unserved = UnservedQueues()
        self._reported: set[str] = set()  # queues that were logged as unserved
        self._left: dict[str, float] = {}  # jobs left to a later release's reapers, and until when

    async def run(self) -> None:
        """Until cancelled."""
        self._began_at = self._clock()
        pause_s = min(1.0, self._policy.look_ms / 2000)
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))
            try:
                await self._round()
                self._sweeping.succeeded()
                self._bug.succeeded()
            except StorageError as error:
                self._last_outage_at = self._clock()
                metrics.storage_errors.labels("reaper").inc()
                self._sweeping.failed(error)
            except Exception as error:  # without its reaper a process would let answers hang
                metrics.bugs.labels("reaper").inc()
                self._bug.unexpected(error)

    async def _round(self) -> None:
        sizes: dict[str, tuple[int, int]] = {}
        for name in self._own | set(await self._note_slow_reply(self._queue.names())):
            await self.sweep(name)
            sizes[name] = await self._queue.sizes(name)
        self._steps = {name: steps for name, steps in self._steps.items() if name in sizes}
        self._unserved.retain(sizes)
        forgotten_s = self._clock() - _FORGET_LEFT_S
        self._left = {name: until_s for name, until_s in self._left.items() if until_s > forgotten_s}
        self._report_unserved({name for name, (backlog, _) in sizes.items() if backlog}, sizes.keys())
        for queues, names in {"all": set(sizes), "own": self._own}.items():
            if names or queues == "all":
                metrics.backlog.labels(queues).set(sum(sizes[name][0] for name in names))
                metrics.dead_jobs.labels(queues).set(sum(sizes[name][1] for name in names))

    def _report_unserved(self, busy: Set[str], known: Set[str]) -> None:
        """Log when a queue with jobs has no worker, and when it has one again. Only gateways log it."""
        unserved = {queue for queue in known if self._unserved_in_s(queue) <= 0}
        metrics.unserved_queues.set(len(unserved & busy))
        if self._own:
            return
        served = {queue for queue in self._reported & known if self._unserved.is_heard_of(queue)}
        for queue in sorted(served):
            logger.info("queue_served", queue=queue)
        for queue in sorted(unserved & busy - self._reported):
            logger.warning("queue_unserved", queue=queue)
        self._reported = (self._reported & known - served) | unserved & busy

    def _unserved_in_s(self, queue: str) -> float:
        """How long until it is certain that no living worker serves it; 0 or less: it is."""
        return self._unserved.left_s(queue, self._clock(), max(self._last_outage_at, self._began_at))

    async def sweep(self, queue: str) -> None:
        """One page of one queue. Raises StorageError."""
        own_policy = self._own_policy if queue in self._own else ""
        asked_at = self._clock()
        due = await self._note_slow_reply(self._queue.due(queue, PAGE, self._policy.look_ms, own_policy))
        policy = self._policy.with_stored(due.policy)
        steps = self._steps.setdefault(queue, ClockSteps())
        if steps.note(asked_at, self._clock(), due.now_ms, policy.lease_s / 3):
            self._last_outage_at = self._clock()
            _stepped.log(queue=queue)
        self._unserved.note(queue, due.silent_ms, self._clock(), heard=due.heard)
        for session, generation in due.rows:
            what = await self._try_reap(queue, session, generation, due.now_ms, policy)
            metrics.reaped.labels(what).inc()
            if what not in get_args(Idle):
                logger.info("reaped", what=what, session=session, generation=generation, queue=queue)
        for session, generation in due.trims:
            await self._trim(queue, session, generation)

    async def end_orphan(self, session: str, generation: str) -> None:
        """End an orphan: nobody writes it, and its queue has no job of it. Redis has lost its job, or its end.

        If only the row is lost, restore it. A job that cannot be read counts as lost, unless it is from a later
        release, whose workers can read it. Raises StorageError.
        """
        fields = await self._session_log.generation_fields(session, generation)
        if fields is None or fields["state"] == "ended" or self._clock() - self._last_outage_at < self._policy.lease_s:
            return
        queue = fields["queue"]
        if await self._queue.has_job(queue, session, generation):
            return
        try:
            job = await self._queue.job(queue, session, generation)
        except LaterJob:
            await self._queue.put_row_back(queue, session, generation, self._policy.look_ms)
            return
        except UnreadableJob:
            job = None
        if job is not None:
            await self._queue.ensure_row(job, self._policy.look_ms)  # only its row is lost
            return
        metrics.reaped.labels(await self._fail(queue, session, generation, fields, "storage")).inc()

    async def _note_slow_reply(self, reply: Awaitable[T]) -> T:
        """A slow reply counts as an outage: while a frozen Redis held it up, no worker could renew its lease."""
        asked_at = self._clock()
        answer = await reply
        if self._clock() - asked_at > self._policy.lease_s / 3:
            self._last_outage_at = self._clock()
        return answer

    async def _try_reap(
        self, queue: str, session: str, generation: str, now_ms: int, policy: QueuePolicy
    ) -> Idle | Action:
        """Reap, but skip what Redis refuses: a half-lost session may refuse for ever, and no other answer may wait."""
        try:
            return await self._reap_one(queue, session, generation, now_ms, policy)
        except StorageError as error:
            if not error.refused:
                raise
            metrics.storage_errors.labels("reaper").inc()
            _look_refused.log(session=session, generation=generation, detail=str(error))
            return "refused"

    async def _trim(self, queue: str, session: str, generation: str) -> None:
        try:
            while await self._session_log.trim(session, generation):
                pass
            metrics.reaped.labels("trimmed").inc()
        except StorageError as error:
            if not error.refused:
                raise
            # Redis has lost a part of this log. It keeps its batches; no other answer may wait for it.
            metrics.storage_errors.labels("trim").inc()
            _trim_refused.log(session=session, generation=generation, detail=str(error))
        await self._queue.trimmed(queue, session, generation)

    async def _reap_one(
        self, queue: str, session: str, generation: str, now_ms: int, policy: QueuePolicy
    ) -> Idle | Action:
        fields = await self._session_log.generation_fields(session, generation)
        if fields is None:
            return await self._admit(queue, session, generation, policy)
        self._left.pop(jobs.job_name(session, generation), None)  # somebody has admitted it
        if fields["state"] == "ended":
            await self._queue.done(queue, session, generation, fields.get("dead", ""))
            return "ended"
        lease = int(fields.get("lease", 0))
        if lease > now_ms:
            await self._queue.look_at(queue, session, generation, min(lease, now_ms + policy.look_ms) + 1)
            return "alive"
        if self._runs_here(generation):
            return "alive"  # whatever its lease says: its own worker must renew it, or give up the generation
        if self._clock() - self._last_outage_at < policy.lease_s:
            # While Redis was away, or its clock stepped, all leases ran out: first let living workers renew theirs.
            return "waiting"
        lost = int(fields.get("claims", 0)) - int(fields.get("handed", 0))
        if lost >= policy.max_takeovers:
            return await self._fail(queue, session, generation, fields, "worker_lost")
        since_ms = max(lease, int(fields["accepted"]))  # since when no worker has had it
        if now_ms - since_ms - self._skipped_ms(queue, since_ms) > policy.queue_timeout_ms and self._is_warmed_up(
            policy
        ):
            return await self._fail(queue, session, generation, fields, "no_worker")
        what = await self._queue.requeue(queue, session, generation, policy.lease_ms)
        if what == "gone" or "claimed" in fields or "unserved" in fields:
            return what
        return "unserved" if await self._report_no_worker(queue, session, generation, now_ms) else what

    async def _report_no_worker(self, queue: str, session: str, generation: str, now_ms: int) -> bool:
        wait_s = self._unserved_in_s(queue)
        if wait_s > 0:
            if wait_s * 1000 < self._policy.look_ms:
                await self._queue.look_at(queue, session, generation, now_ms + int(wait_s * 1000) + 1)
            return False
        # A page takes time, and a worker may have come meanwhile.
        if not is_silent(await self._queue.silent_ms(queue)):
            return False
        return await self._session_log.unserved(session, generation)

    def _skipped_ms(self, queue: str, since_ms: int) -> int:
        return self._steps[queue].skipped_ms(since_ms) if queue in self._steps else 0

    def _is_warmed_up(self, policy: QueuePolicy) -> bool:
        """Before a start the whole machine may have been off: give its workers time to come and take what waits."""
        return self._clock() - self._began_at >= min(policy.lease_s, policy.queue_timeout_ms / 1000)

    async def _admit(
        self, queue: str, session: str, generation: str, policy: QueuePolicy
    ) -> Literal["admitted", "dropped", "later"]:
        """Admit a job whose gateway died after making it durable: its client may never ask again."""
        try:
            job = await self._queue.job(queue, session, generation)
        except UnreadableJob as error:
            name = jobs.job_name(session, generation)
            if isinstance(error, LaterJob) and self._is_left(name, policy):
                return "later"
            self._left.pop(name, None)
            logger.error("job_dropped", session=session, generation=generation, detail=str(error))
            await self._queue.done(queue, session, generation, "unreadable")
            return "dropped"
        if job is not None:
            admitted = await self._session_log.admit_or_refuse(job)
            if admitted is not None and admitted.accepts(generation):
                await self._queue.ensure_row(job, self._policy.look_ms)
                return "admitted"
        await self._queue.done(queue, session, generation)
        return "dropped"

    def _is_left(self, name: str, policy: QueuePolicy) -> bool:
        """Leave it to a later release's reaper, for as long as a job may wait for a worker, since we first saw it."""
        now_s = self._clock()
        return now_s < self._left.setdefault(name, now_s + policy.queue_timeout_ms / 1000)

    async def _fail(
        self,
        queue: str,
        session: str,
        generation: str,
        fields: dict[str, str],
        code: Literal["no_worker", "worker_lost", "storage"],
    ) -> Idle | Action:
        members = events.failed(code, self._sentences.choose(fields.get("language")), retryable=True)
        dead = code if code == "worker_lost" else ""
        if not await self._session_log.reap(session, generation, fields["fence"], members, dead):
            return "alive"
        crashpoint("reap.reaped")
        # Ask, as our own reason may not hold: a frozen worker may have woken up and ended it a moment before.
        await self._queue.done(queue, session, generation, await self._session_log.dead(session, generation))
        metrics.generations.labels("failed", code).inc()
        return code
