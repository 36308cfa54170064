"""Brings a job into its queue and its session, and cleans up after a stop; for all that submit.

The steps come in the crash order of docs/design.md. Every method raises StorageError.
"""

from __future__ import annotations

from typing import Literal

from relay.crashpoints import crashpoint
from relay.redis.connections import AnyRedis, call, publish_verb
from relay.store.jobs import Job
from relay.store.queue.queue import Queue
from relay.store.session.replies import Admitted, Stopped
from relay.store.session.session_log import SessionLog

NotAdmitted = Literal["queue_full", "session_full", "deleted", "forgotten", "foreign"]


class JobSubmitter:
    """`look_ms`: after how long a reaper first checks a new job."""

    def __init__(self, session_log: SessionLog, queue: Queue, redis: AnyRedis, *, look_ms: int) -> None:
        self._session_log = session_log
        self._queue = queue
        self._redis = redis
        self._look_ms = look_ms

    async def submit(self, job: Job) -> Admitted | NotAdmitted:
        """Make the job durable, then its generation. The caller has announced the queue.

        Admitted may name another generation, which has the request_id: then nothing of this job is left, as after a
        refusal. `deleted`: its session, or what it retries, was deleted meanwhile. `forgotten`: a worker was faster;
        the answer has ended, and `max_generations` has already removed it. `foreign`: its session is not that of its
        `sub`; somebody else was faster to make it.
        """
        if not await self.enqueue(job):
            return "queue_full"
        crashpoint("submit.enqueued")

        admitted = await self._session_log.admit_or_refuse(job)
        crashpoint("submit.admitted")
        if admitted is not None and admitted.accepts(job.generation):
            if admitted.fresh:
                await self._queue.ensure_row(job, self._look_ms)
            return admitted
        # The same submit was faster elsewhere, or there is no room: what we enqueued belongs to no generation.
        await self._queue.done(job.queue, job.session, job.generation)
        if admitted is None:
            return "session_full"
        if admitted.generation != job.generation:
            return admitted
        match admitted.state:
            case "deleted" | "foreign" as why:
                return why
            case _:
                return "forgotten"

    async def unclaimed(self, session: str, generation: str) -> dict[str, str] | None:
        """Its fields in the session, if it was admitted and no worker has ever claimed it.

        Then the queue may have lost a job that the session still has; if not, enqueueing it again changes nothing.
        """
        fields = await self._session_log.generation_fields(session, generation)
        if fields is None or fields["state"] == "ended" or "claimed" in fields:
            return None
        return fields

    async def enqueue(self, job: Job) -> bool:
        """Make the job durable; False if the queue is full."""
        return await self._queue.enqueue(job, self._look_ms)

    async def clean_up_after_stop(self, session: str, stopped: Stopped) -> None:
        """After a stop: notify the worker, remove the job and its letter. The stop holds even if this fails."""
        if stopped.owner:
            verb, channel = await publish_verb(self._redis), self._session_log.keys.worker(stopped.owner)
            await call(self._redis, verb, channel, f"stop {stopped.generation}")
        if stopped.queue:
            await self._queue.done(stopped.queue, session, stopped.generation)
            if stopped.already_ended:
                await self._queue.discard(stopped.queue, session, stopped.generation)
