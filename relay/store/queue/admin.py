"""Queue administration: what an operator may do about jobs that wait, run or are dead.

Every method raises RelayError (StorageError is one) with a sentence for that person.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Literal, TypeVar, assert_never, get_args

import msgspec

from relay.crashpoints import crashpoint
from relay.errors import LaterJob, RelayError, UnreadableJob
from relay.protocol.words import GENERATION, QUEUE, new_id
from relay.store import jobs
from relay.store.jobs import Job
from relay.store.queue.backlog import Backlog, DeadLetter, OpenJob, QueueCounts
from relay.store.queue.enqueue import JobSubmitter
from relay.store.queue.queue import Queue
from relay.store.session.replies import Admitted, Deleted, Stopped
from relay.store.session.session_log import SessionLog

MAX_SCANNED_JOBS = 100_000  # open jobs of one queue, for one list
CONCURRENT_READS = 32

T = TypeVar("T")
JobState = Literal["running", "waiting", "dead"]
JOB_STATES: tuple[JobState, ...] = get_args(JobState)


class JobSummary(msgspec.Struct, frozen=True):
    """One job. `age_s`: since it was accepted, or, if dead, since it died. None: not known any more.

    `waiting`: no worker holds it. `lost_workers`, `attempt`, `owner` and `running_s` (since its first claim) come from
    its session.
    """

    queue: str
    generation: str
    session: str
    state: JobState
    age_s: float | None
    priority: str
    lost_workers: int | None = None
    attempt: int | None = None
    owner: str | None = None
    running_s: float | None = None
    reason: str | None = None


class QueueAdmin:
    """For the queues under one prefix."""

    def __init__(self, session_log: SessionLog, queue: Queue, backlog: Backlog, submitter: JobSubmitter) -> None:
        self._session_log = session_log
        self._queue = queue
        self._backlog = backlog
        self._submitter = submitter

    async def queues(self) -> list[QueueCounts]:
        """Every queue that has had a job, by name."""
        return [await self._backlog.counts(name) for name in sorted(await self._queue.names())]

    async def jobs(self, queue: str, states: Collection[JobState], limit: int) -> list[JobSummary]:
        """At most `limit` jobs in these states: open ones as they were queued, then dead ones, newest first."""
        await self._require_known_queue(queue)
        now_ms = (await self._backlog.counts(queue)).now_ms
        found: list[JobSummary] = []
        if set(states) & {"waiting", "running"}:
            found = await self._open(queue, states, limit, now_ms)
        if "dead" in states and len(found) < limit:
            letters = (await self._backlog.dead_letters(queue))[: limit - len(found)]
            for some in _chunks(letters):
                found += await asyncio.gather(*(self._dead_line(letter, now_ms) for letter in some))
        return found

    async def retry(self, generation: str, queue: str | None = None) -> str:
        """Ask a dead job's question again, as a new generation; returns its name.

        It is idempotent, wherever it is interrupted: it makes one generation, and removes the letter last.
        """
        found = await self._find(generation, queue)
        if isinstance(found, OpenJob):
            raise RelayError(f"{generation} is not dead: it waits or runs in the queue {found.queue}")
        job = await self._retry_job(found)
        made = await self._ensure_generation(job)
        crashpoint("retry.made")
        await self._queue.discard(found.queue, found.session, generation)
        return made

    async def drop(self, generation: str, queue: str | None = None) -> JobState | Literal["ended"]:
        """Remove a dead letter, or stop any other job; returns its state until then."""
        found = await self._find(generation, queue)
        if isinstance(found, DeadLetter):
            await self._queue.discard(found.queue, found.session, generation)
            return "dead"
        stopped = await self._stop(found) or Stopped(generation, already_ended=False)
        await self._submitter.clean_up_after_stop(found.session, stopped._replace(queue=found.queue))
        if stopped.already_ended:
            return "ended"
        return "running" if stopped.owner else "waiting"

    async def _open(self, queue: str, states: Collection[JobState], limit: int, now_ms: int) -> list[JobSummary]:
        found: dict[str, OpenJob] = {}
        async for page in self._backlog.open_job_pages(queue):
            found |= {one.generation: one for one in page}
            if len(found) >= MAX_SCANNED_JOBS:
                break
        listed: list[JobSummary] = []
        for some in _chunks(sorted(found.values(), key=lambda one: one.queued_ms)):
            summaries = await asyncio.gather(*(self._open_line(one, now_ms) for one in some))
            listed += [summary for summary in summaries if summary is not None and summary.state in states]
            if len(listed) >= limit:
                break
        return listed[:limit]

    async def _open_line(self, job: OpenJob, now_ms: int) -> JobSummary | None:
        """None: it has ended, and will be removed from the queue."""
        fields = await self._session_log.generation_fields(job.session, job.generation) or {}
        if fields.get("state") == "ended":
            return None
        since_ms = int(fields.get("accepted", job.queued_ms)) or now_ms
        runs = int(fields.get("lease", 0)) > now_ms and "owner" in fields
        return JobSummary(
            queue=job.queue,
            generation=job.generation,
            session=job.session,
            state="running" if runs else "waiting",
            age_s=_seconds(now_ms - since_ms),
            priority=job.priority,
            lost_workers=_lost_workers(fields, runs),
            attempt=int(fields["attempt"]) if fields else None,
            owner=fields["owner"] if runs else None,
            running_s=_seconds(now_ms - int(fields["claimed"])) if runs and "claimed" in fields else None,
        )

    async def _dead_line(self, letter: DeadLetter, now_ms: int) -> JobSummary:
        fields = await self._session_log.generation_fields(letter.session, letter.generation)
        return JobSummary(
            queue=letter.queue,
            generation=letter.generation,
            session=letter.session,
            state="dead",
            age_s=_seconds(now_ms - letter.died_ms),
            priority=letter.priority,
            lost_workers=_lost_workers(fields, runs=False) if fields is not None else None,
            attempt=int(fields["attempt"]) if fields is not None else None,
            reason=letter.reason,
        )

    async def _find(self, generation: str, queue: str | None) -> DeadLetter | OpenJob:
        """Raises RelayError if there is none."""
        if not GENERATION.match(generation):
            raise RelayError("a generation has 1-64 characters of A-Z a-z 0-9 _ -")
        if queue is not None:
            await self._require_known_queue(queue)
        names = [queue] if queue is not None else await self._queue.names()
        for name in names:
            for letter in await self._backlog.dead_letters(name):
                if letter.generation == generation:
                    return letter
        for name in names:
            async for page in self._backlog.open_job_pages(name, f"* {generation}"):
                return page[0]
        where = f"the queue {queue}" if queue is not None else "any queue"
        raise RelayError(f"there is no job {generation} in {where}; it may have ended")

    async def _require_known_queue(self, queue: str) -> None:
        """Raises RelayError unless the queue is in use. A queue off the reapers' list may still have letters."""
        if not QUEUE.match(queue):
            raise RelayError("a queue has 1-64 characters of A-Z a-z 0-9 _ -")
        if queue not in await self._queue.names() and not any((await self._backlog.counts(queue))[1:4]):
            raise RelayError(f"there is no queue {queue}")

    async def _retry_job(self, letter: DeadLetter) -> Job:
        """The job that replaces the dead one, with all its fields."""
        body = await self._backlog.job_body(letter)
        if body is None:
            raise RelayError(f"somebody else has just retried or dropped {letter.generation}")
        try:
            job = jobs.read(body)
        except UnreadableJob as error:
            raise RelayError(f"this release cannot read the job of {letter.generation}: {error}") from None
        if letter.reason == "unreadable":
            return job  # it was never admitted: now it may be
        if await self._session_log.generation_fields(job.session, job.generation) is None:
            raise RelayError(f"the session of {letter.generation} is gone, or has forgotten it; drop the letter")
        # A client's request_id has no control characters: only a retry can have this one.
        return msgspec.structs.replace(
            job, generation=new_id("g"), request_id=f"\x1fretry {job.generation}", retry_of=job.generation
        )

    async def _ensure_generation(self, job: Job) -> str:
        try:
            known = await self._session_log.find_request(job.session, job.request_id)
        except Deleted:
            raise RelayError(f"the session of {job.retry_of or job.generation} was deleted") from None
        if not await self._queue.announce(job.queue):
            raise RelayError(f"there are too many queues for {job.queue}; the letter stays")
        if known is None:
            admitted = await self._submitter.submit(job)
            match admitted:
                case Admitted(generation=generation):
                    return generation
                case "queue_full":
                    raise RelayError(f"the queue {job.queue} is full; the letter stays")
                case "session_full":
                    raise RelayError("too many answers are running in its session; the letter stays")
                case "deleted":
                    raise RelayError(f"the session of {job.retry_of or job.generation} has just been deleted")
                case "foreign":
                    raise RelayError(f"the session of {job.retry_of or job.generation} is somebody else's now")
                case "forgotten":
                    return job.generation
                case _:
                    assert_never(admitted)
        if await self._submitter.unclaimed(job.session, known[0]):
            await self._submitter.enqueue(msgspec.structs.replace(job, generation=known[0]))
        return known[0]

    async def _stop(self, found: OpenJob) -> Stopped | None:
        """None: there is nothing to stop, and there never will be."""
        session, generation = found.session, found.generation
        stopped = await self._session_log.stop(session, generation)
        if stopped is None:
            # Durable, but not admitted yet. Its gateway may still be about to; so it must be ended, not just removed.
            try:
                job = await self._queue.job(found.queue, session, generation)
            except LaterJob as error:
                raise RelayError(f"{error}: drop it with the release that wrote it") from None
            except UnreadableJob:
                job = None
            if job is not None and await self._session_log.admit_or_refuse(job) is not None:
                stopped = await self._session_log.stop(session, generation)
        return stopped


def _lost_workers(fields: dict[str, str], runs: bool) -> int:
    return int(fields.get("claims", 0)) - int(fields.get("handed", 0)) - runs


def _seconds(ms: int) -> float:
    return max(0, ms) / 1000


def _chunks(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[at : at + CONCURRENT_READS] for at in range(0, len(items), CONCURRENT_READS)]
