"""Queues: jobs on their way to a worker, and the open index by which no job is forgotten.

Every method raises StorageError when Redis does not answer; all of them are idempotent.
"""

from __future__ import annotations

from logging import ERROR, WARNING
from typing import Literal, NamedTuple

from relay import logging, metrics
from relay.errors import LaterJob, UnreadableJob
from relay.protocol.words import PRIORITIES, Priority
from relay.redis.connections import AnyRedis, call
from relay.store import jobs
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.scripts import queue_script, read_atomically

logger = logging.get_logger("queue")
_unreadable = logging.RateLimitedLog(logger, "job_left")

MAX_QUEUES = 1000
MAX_DEAD_LETTERS = 1000  # of one queue, the newest
MAX_TRIMS = 100_000  # rows; a generation that ends beyond them keeps its batches as long as its session


class Due(NamedTuple):
    """Rows to check, and rows to trim: (session, generation); `now_ms` by Redis' clock.

    `policy`: what the queue's workers have stored (policy.py). `silent_ms`: how long there was no heartbeat of the
    queue; `heard`: there has ever been one.
    """

    now_ms: int
    rows: list[tuple[str, str]]
    trims: list[tuple[str, str]]
    policy: bytes = b""
    silent_ms: int = 0
    heard: bool = False


class Queue:
    """The queues under one prefix."""

    def __init__(
        self,
        commands: AnyRedis,
        blocking: AnyRedis,
        keys: Keys,
        *,
        max_backlog: int,
        ttl_s: int,
        trim_after_s: float,
    ) -> None:
        self._commands = commands
        self._blocking = blocking
        self._keys = keys
        self._max_backlog = max_backlog
        self._ttl_ms = ttl_s * 1000
        self._trim_ms = int(trim_after_s * 1000)

    async def announce(self, queue: str) -> bool:
        """Put the queue on the reapers' list, before its first job and again before each one, as Redis may lose it.

        False if there are MAX_QUEUES others: then no reaper would check its jobs, and there must be none.
        """
        return bool(await _ANNOUNCE(self._commands, self._keys.queues, queue, MAX_QUEUES, self._ttl_ms))

    async def enqueue(self, job: Job, look_ms: int, *, held: bool = False) -> bool:
        """Make the job durable; False if the queue is full. A reaper checks it after `look_ms`.

        The caller has announced the queue, so that reapers know it. `held`: a worker makes it already, so it needs to
        be found only if that worker dies.
        """
        return await self._enqueue(job.queue, job.name, job.priority, jobs.encode(job), look_ms, held=held)

    async def _enqueue(
        self, queue: str, name: str, priority: Priority, body: bytes, look_ms: int, *, held: bool
    ) -> bool:
        reply = await _ENQUEUE(
            self._commands,
            self._keys.queue(queue),
            name,
            priority,
            body,
            look_ms,
            self._max_backlog,
            self._ttl_ms,
            int(held),
        )
        return bool(reply != b"full")

    async def ensure_row(self, job: Job, look_ms: int) -> None:
        """Restore the row of an accepted job if Redis has lost it since it was enqueued; otherwise changes nothing.

        Whatever admits a generation must call this afterwards: nothing else checks that the row is still there.
        """
        if await self.has_job(job.queue, job.session, job.generation):
            return
        logger.warning("row_put_back", queue=job.queue, session=job.session, generation=job.generation)
        await self.announce(job.queue)
        await self.enqueue(job, look_ms, held=True)

    async def put_row_back(self, queue: str, session: str, generation: str, look_ms: int) -> None:
        """The same for a job that the queue still has, without decoding it."""
        name = jobs.job_name(session, generation)
        body = await call(self._commands, "HGET", self._keys.queue(queue, "jobs"), name)
        if body is not None:
            logger.warning("row_put_back", queue=queue, session=session, generation=generation)
            await self.announce(queue)
            await self._enqueue(queue, name, "normal", body, look_ms, held=True)  # its entry has its priority

    async def take(self, queue: str, most: int = 1) -> list[Job]:
        """The next jobs, highest priority first; empty if there are none. Never waits.

        One that cannot be read is left out: it stays pending, and comes back for a worker of the release that wrote it.
        """
        while True:
            bodies = await _TAKE(self._commands, self._keys.queue(queue), most, *PRIORITIES)
            found = [job for body in bodies if (job := _readable(queue, body)) is not None]
            if found or not bodies:  # else there may be one behind those that were left out
                return found

    async def newest_entry_ids(self, queue: str) -> dict[str, str]:
        """The newest entry id of each of the queue's streams: `wait` waits for newer ones."""
        ids = {}
        for name in PRIORITIES:
            newest = await call(self._commands, "XREVRANGE", self._keys.queue(queue, name), "+", "-", "COUNT", 1)
            ids[str(name)] = newest[0][0].decode() if newest else "0-0"
        return ids

    async def wait(self, queue: str, entry_ids: dict[str, str], block_ms: int) -> None:
        """Return when there is an entry newer than `entry_ids`, or after `block_ms`.

        The ids are read before a `take` that finds nothing, so no entry can slip in unseen in between.
        """
        streams = [self._keys.queue(queue, name) for name in entry_ids]
        await call(self._blocking, "XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *streams, *entry_ids.values())

    async def job(self, queue: str, session: str, generation: str) -> Job | None:
        """The job, if it is still open."""
        body = await call(self._commands, "HGET", self._keys.queue(queue, "jobs"), jobs.job_name(session, generation))
        return jobs.read(body) if body is not None else None

    async def has_job(self, queue: str, session: str, generation: str) -> bool:
        """Whether a job is still open, and has a row by which a reaper finds it."""
        name = jobs.job_name(session, generation)
        job, row = await read_atomically(
            self._commands,
            ("HEXISTS", self._keys.queue(queue, "jobs"), name),
            ("ZSCORE", self._keys.queue(queue), name),
        )
        return bool(job) and row is not None

    async def done(self, queue: str, session: str, generation: str, dead: str = "") -> None:
        """Remove everything of a job whose generation has ended, or will never exist.

        `dead`: why it goes to the dead letters, if the queue still has it.
        """
        key, name = self._keys.queue(queue), jobs.job_name(session, generation)
        wrote = await _DONE(self._commands, key, name, self._trim_ms, self._ttl_ms, MAX_TRIMS, dead, MAX_DEAD_LETTERS)
        if wrote:
            metrics.dead_letters.labels(dead).inc()

    async def discard(self, queue: str, session: str, generation: str) -> bool:
        """Remove a job from the dead letters; False: it is not there, or not any more."""
        return bool(await _DISCARD(self._commands, self._keys.queue(queue), jobs.job_name(session, generation)))

    async def sizes(self, queue: str) -> tuple[int, int]:
        """How many jobs wait or run, and how many are dead."""
        keys = (self._keys.queue(queue, name) for name in ("open", "dead"))
        backlog, dead = await read_atomically(self._commands, *(("ZCARD", key) for key in keys))
        return int(backlog), int(dead)

    async def due(self, queue: str, page: int, look_ms: int, policy: str = "") -> Due:
        """A page of rows that are due; they are due again after `look_ms`. `policy`: from now on the queue's."""
        key = self._keys.queue(queue)
        now_ms, rows, trims, stored, silent_ms, heard = await _DUE(
            self._commands, key, page, look_ms, policy, self._ttl_ms
        )
        return Due(int(now_ms), _pairs(rows), _pairs(trims), stored, int(silent_ms), bool(heard))

    async def trimmed(self, queue: str, session: str, generation: str) -> None:
        """Note that nothing is left to trim."""
        await call(self._commands, "ZREM", self._keys.queue(queue, "trims"), jobs.job_name(session, generation))

    async def look_at(self, queue: str, session: str, generation: str, at_ms: int) -> None:
        """Have the reapers check this row at `at_ms` (Redis' clock), if it is still open."""
        await _LOOK(self._commands, self._keys.queue(queue), jobs.job_name(session, generation), at_ms)

    async def requeue(
        self, queue: str, session: str, generation: str, idle_ms: int
    ) -> Literal["waiting", "held", "requeued", "gone"]:
        key, name = self._keys.queue(queue), jobs.job_name(session, generation)
        reply = await _REQUEUE(self._commands, key, name, idle_ms, self._ttl_ms)
        return reply.decode()  # type: ignore[no-any-return]

    async def serve(self, queue: str) -> None:
        """The heartbeat of a queue: a living worker takes jobs from it. See unserved.py."""
        await _SERVE(self._commands, self._keys.queue(queue), self._ttl_ms)

    async def silent_ms(self, queue: str) -> int:
        """How long there was no heartbeat of this queue; 0 where that is not known."""
        served, (seconds, microseconds) = await read_atomically(
            self._commands, ("GET", self._keys.queue(queue, "served")), ("TIME",)
        )
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        return max(0, now_ms - int(served.lstrip(b"?"))) if served is not None else 0

    async def names(self) -> list[str]:
        """The queues that have had jobs, for the reapers."""
        return [name.decode() for name in await call(self._commands, "ZRANGE", self._keys.queues, 0, -1)]


def _readable(queue: str, body: bytes) -> Job | None:
    try:
        return jobs.read(body)
    except LaterJob as error:
        _unreadable.log(WARNING, queue=queue, detail=str(error))
    except UnreadableJob as error:
        metrics.storage_errors.labels("queue").inc()
        _unreadable.log(ERROR, level=ERROR, queue=queue, detail=str(error))
    return None


def _pairs(rows: list[bytes]) -> list[tuple[str, str]]:
    pairs = (row.decode().split(" ") for row in rows)
    return [(session, generation) for session, generation in pairs]


_ANNOUNCE = queue_script("announce")
_ENQUEUE = queue_script("enqueue")
_TAKE = queue_script("take")
_DONE = queue_script("done")
_DISCARD = queue_script("discard")
_DUE = queue_script("due")
_LOOK = queue_script("look")
_REQUEUE = queue_script("requeue")
_SERVE = queue_script("serve")
