"""The consumer: takes jobs from one queue, as many at a time as it has room for, and processes each to its end.

    take → admit → claim → generation → done

The pending list of the queue decides nothing. Where a job comes twice, late or from a dead worker, the session's meta
decides when the job is claimed.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from dataclasses import dataclass
from typing import assert_never

from relay import logging, metrics
from relay.crashpoints import crashpoint
from relay.errors import StorageError
from relay.redis.connections import BLOCK_S
from relay.redis.pubsub.subscriber import ChannelSource
from relay.store.jobs import Job
from relay.store.queue.queue import Queue
from relay.store.session.replies import Claim
from relay.store.session.session_log import SessionLog
from relay_workers.asking.provider_pool import ProviderPool
from relay_workers.generation import Generation, GenerationLimits
from relay_workers.lease_thread import LeaseThread
from relay_workers.writing.claimed import Claimed

_CLAIMS = 3  # tries in a row where Redis loses the generation between admit and claim; then it counts as an outage
MAX_TAKE = 8  # jobs per round trip: one at a time starves the last of many; all at once starves other workers
_RETRY_S = 0.5

logger = logging.get_logger("consumer")


@dataclass(frozen=True, slots=True)
class ConsumerLimits:
    """`concurrency` jobs at a time; when draining they have `grace_s`. `history_turns`: past turns in each prompt.

    `look_ms`: how long until a reaper checks a job that was requeued.
    """

    concurrency: int
    grace_s: float
    history_turns: int
    lease_ms: int
    look_ms: int
    generation: GenerationLimits


class Consumer:
    """One worker process's share of a queue."""

    def __init__(
        self,
        session_log: SessionLog,
        queue: Queue,
        source: ChannelSource,
        providers: ProviderPool,
        name: str,
        limits: ConsumerLimits,
        lease_thread: LeaseThread | None = None,
    ) -> None:
        self._lease_thread = lease_thread
        self.worker = f"{socket.gethostname()[:32]}-{secrets.token_hex(4)}"
        self._session_log = session_log
        self._queue = queue
        self._source = source
        self._providers = providers
        self._name = name
        self._limits = limits
        self._free_slots = limits.concurrency  # jobs that may be taken now
        self._freed = asyncio.Event()
        self._draining = False
        self._handing_over = False  # from now on nothing is claimed
        self._trouble = logging.FailureLog(logger, "take_failed", queue=name)
        self._unknown = logging.RateLimitedLog(logger, "control_ignored")
        self._claiming: set[str] = set()  # generations; a reaper may have requeued one meanwhile
        self._running: dict[str, Generation] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event, hand_over_now: asyncio.Event) -> None:
        """Run until `stopping` is set. Then finish jobs for `grace_s` or until `hand_over_now`; hand over the rest."""
        listening = asyncio.create_task(
            self._source.subscribe(self._session_log.keys.worker(self.worker), self), name="control channel"
        )
        taking = asyncio.create_task(self._take_jobs(), name="consumer")
        waiting = asyncio.create_task(stopping.wait(), name="stopping")
        await asyncio.wait([taking, waiting], return_when=asyncio.FIRST_COMPLETED)
        self._draining = True
        for task in (taking, waiting, listening):
            task.cancel()
        await asyncio.gather(taking, waiting, listening, return_exceptions=True)
        failure = None if taking.cancelled() else taking.exception()
        await self._finish(hand_over_now)
        self._source.unsubscribe(self._session_log.keys.worker(self.worker), self)
        if failure is not None:
            raise failure

    def is_running(self, generation: str) -> bool:
        """Whether this worker is making it now."""
        return generation in self._running

    async def _finish(self, hand_over_now: asyncio.Event) -> None:
        if self._tasks:
            logger.info("finishing", running=len(self._tasks), grace_s=self._limits.grace_s)
            running = set(self._tasks)  # a copy: all may have ended before `asyncio.wait` takes its first step
            finishing = asyncio.create_task(asyncio.wait(running, timeout=self._limits.grace_s), name="finishing")
            hurried = asyncio.create_task(hand_over_now.wait(), name="at once")
            await asyncio.wait([finishing, hurried], return_when=asyncio.FIRST_COMPLETED)
            for helper in (finishing, hurried):
                helper.cancel()
            await asyncio.gather(finishing, hurried, return_exceptions=True)
        self._handing_over = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Called for the control channel

    def acknowledged(self) -> None:
        """Nothing to do: a missed stop is found at the next append or renewal."""

    def message(self, payload: bytes) -> None:
        verb, _, rest = payload.decode(errors="replace").partition(" ")
        if verb != "stop":  # from a later release (shapes.py): the next write or renewal finds what has ended
            self._unknown.log(verb=verb[:64])
        elif (running := self._running.get(rest.partition(" ")[0])) is not None:
            running.stop()

    def lost(self) -> None:
        """As above."""

    async def _take_jobs(self) -> None:
        while True:
            while not self._free_slots:
                self._freed.clear()
                await self._freed.wait()
            for job in await self._next_jobs(min(self._free_slots, MAX_TAKE)):
                self._free_slots -= 1
                task = asyncio.create_task(self._process(job), name=f"job {job.generation}")
                self._tasks.add(task)
                task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free_slots += 1
        self._freed.set()

    async def _next_jobs(self, most: int) -> list[Job]:
        while True:
            try:
                jobs = await self._take(most)
                self._trouble.succeeded()
                if jobs:
                    return jobs
                newest = await self._queue.newest_entry_ids(self._name)
                if jobs := await self._take(most):  # what came before those ids were read
                    return jobs
                await self._queue.wait(self._name, newest, int(BLOCK_S * 1000))
            except StorageError as error:
                metrics.storage_errors.labels("consumer").inc()
                self._trouble.failed(error)
                await asyncio.sleep(_RETRY_S)

    async def _take(self, most: int) -> list[Job]:
        """A take always runs to its end: nobody but a reaper would see a job that Redis has already handed out.

        If cancelled, it requeues the jobs that it got.
        """
        taking = asyncio.create_task(self._queue.take(self._name, most), name="take")
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            try:
                jobs = await taking
            except StorageError as error:
                metrics.storage_errors.labels("consumer").inc()
                logger.warning("take_failed", queue=self._name, detail=str(error))
            else:
                await asyncio.gather(*map(self._requeue, jobs))  # at once: we may be killed before many round trips
            raise

    async def _process(self, job: Job) -> None:
        """Bring one job from taken to done. If Redis fails here, the job is left to the reapers."""
        crashpoint("claim.taken")
        try:
            if job.generation not in self._running and job.generation not in self._claiming:
                await self._claim_and_run(job)
        except StorageError as error:
            metrics.storage_errors.labels("consumer").inc()
            logger.warning("job_left", session=job.session, generation=job.generation, detail=str(error))
        except Exception:
            metrics.bugs.labels("consumer").inc()
            logger.exception("job_failed", session=job.session, generation=job.generation)

    async def _claim_and_run(self, job: Job) -> None:
        self._claiming.add(job.generation)
        claiming = asyncio.create_task(self._claim_with_retries(job), name=f"claim {job.generation}")
        try:
            claim = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # Otherwise its lease would have no owner, and run out as if this worker had been lost.
            if (claim := await claiming) is not None:
                await self._hand_over(job, claim.fence)
            raise
        finally:
            self._claiming.remove(job.generation)
        if claim is not None:
            await self._run(job, claim)

    async def _claim_with_retries(self, job: Job) -> Claim | None:
        """Tries for as long as Redis is away or full. The job's entry has been read, so only a reaper would see the
        job next, and it might find that the job has waited too long. None: the job is not ours.
        """
        trouble = logging.FailureLog(logger, "claim_failed", session=job.session, generation=job.generation)
        in_doubt = False  # an earlier try may have made the generation
        while True:
            try:
                claim = await self._claim(job)
                trouble.succeeded()
                return claim._replace(fresh=claim.fresh or in_doubt) if claim is not None else None
            except StorageError as error:
                if error.refused or self._draining:
                    raise
                in_doubt = True
                metrics.storage_errors.labels("consumer").inc()
                trouble.failed(error)
                await asyncio.sleep(_RETRY_S)

    async def _claim(self, job: Job) -> Claim | None:
        for _ in range(_CLAIMS):
            admitted = await self._session_log.admit_or_refuse(job)
            crashpoint("claim.admitted")
            if admitted is None or not admitted.accepts(job.generation):
                # It was never accepted (its request_id belongs to another generation, or the session is full), or the
                # session was deleted.
                await self._queue.done(job.queue, job.session, job.generation)
                metrics.claims.labels("foreign").inc()
                return None
            if self._handing_over:
                await self._requeue(job)
                return None
            exchanges = (self._limits.history_turns + 1) // 2
            claim = await self._session_log.claim(
                job.session, job.generation, self.worker, self._limits.lease_ms, exchanges
            )
            crashpoint("claim.claimed")
            if isinstance(claim, Claim):
                metrics.claims.labels("claimed").inc()
                return claim._replace(fresh=admitted.fresh)
            metrics.claims.labels(claim.why).inc()
            match claim.why:
                case "unknown":
                    continue
                case "ended":
                    await self._finish_job(job)
                case "leased":
                    pass
                case _:
                    assert_never(claim.why)
            return None
        raise StorageError("Redis has repeatedly lost the answer before it could be claimed")

    async def _run(self, job: Job, claim: Claim) -> None:
        claimed, limits = Claimed(job, claim, self.worker, self._limits.lease_ms), self._limits.generation
        generation = Generation(claimed, self._providers, self._session_log, self._queue, limits, self._lease_thread)
        self._running[job.generation] = generation
        metrics.running.inc()
        try:
            ended = await generation.run()
        except asyncio.CancelledError:
            await self._hand_over(job, generation.fence)
            raise
        finally:
            metrics.running.dec()
            del self._running[job.generation]
        crashpoint("end.appended")
        if ended:
            await self._finish_job(job)
        crashpoint("end.done")

    async def _finish_job(self, job: Job) -> None:
        """A reaper may have ended it without finishing the job; then its dead letter must still be written."""
        dead = await self._session_log.dead(job.session, job.generation)
        await self._queue.done(job.queue, job.session, job.generation, dead)

    async def _hand_over(self, job: Job, fence: int) -> None:
        """This worker shuts down, so another may begin at once. If Redis is away, the lease runs out instead."""
        try:
            await self._session_log.release(job.session, job.generation, fence)
        except StorageError as error:
            metrics.storage_errors.labels("consumer").inc()
            logger.warning("hand_over_failed", session=job.session, generation=job.generation, detail=str(error))
            return
        await self._requeue(job)

    async def _requeue(self, job: Job) -> None:
        """Give a job back, so that another worker need not wait until this one's time for it runs out.

        If Redis has lost the job, perhaps only this worker still has what it takes to create it again.
        """
        try:
            await self._queue.ensure_row(job, self._limits.look_ms)
            await self._queue.requeue(job.queue, job.session, job.generation, 0)
            logger.info("handed_over", session=job.session, generation=job.generation)
        except StorageError as error:
            metrics.storage_errors.labels("consumer").inc()
            logger.warning("hand_over_failed", session=job.session, generation=job.generation, detail=str(error))
