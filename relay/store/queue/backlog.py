"""The backlog: which jobs the queues hold, for operators. Reads no question and no answer.

Every method raises StorageError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from relay.protocol.words import PRIORITIES
from relay.redis.connections import AnyRedis, call
from relay.store import jobs
from relay.store.keys import Keys
from relay.store.queue.queue import MAX_DEAD_LETTERS
from relay.store.scripts import queue_script, read_atomically

PAGE = 500


class QueueCounts(NamedTuple):
    """Of one queue: `waiting` jobs that no worker has read, the other open ones, dead letters.

    `oldest_s`: how long the oldest job has waited; None: none waits. `now_ms` by Redis' clock.
    """

    queue: str
    waiting: int
    running: int
    dead: int
    oldest_s: float | None
    now_ms: int


class OpenJob(NamedTuple):
    """A job that waits or runs. `queued_ms`: when its last entry was made; 0: it never had one."""

    queue: str
    session: str
    generation: str
    priority: str
    queued_ms: int


class DeadLetter(NamedTuple):
    """A job that died. `reason`: `worker_lost` or `unreadable`; `died_ms` by Redis' clock."""

    queue: str
    session: str
    generation: str
    priority: str
    reason: str
    died_ms: int

    @property
    def name(self) -> str:
        return jobs.job_name(self.session, self.generation)


class Backlog:
    """For the queues under one prefix."""

    def __init__(self, redis: AnyRedis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def counts(self, queue: str) -> QueueCounts:
        reply = await _COUNTS(self._redis, self._keys.queue(queue), *PRIORITIES)
        now_ms, jobs_, waiting, dead = (int(reply[index]) for index in (0, 1, 2, 4))
        oldest_s = max(0, now_ms - int(reply[3])) / 1000 if reply[3] else None
        # An entry may outlive its job until a worker comes across it.
        waiting = min(waiting, jobs_)
        return QueueCounts(queue, waiting, jobs_ - waiting, dead, oldest_s if waiting else None, now_ms)

    async def open_job_pages(self, queue: str, match: str = "*") -> AsyncIterator[list[OpenJob]]:
        """The open jobs whose name matches, a bounded page at a time, in no order; one may come twice.

        A job that is open all the time is never left out.
        """
        cursor = "0"
        while True:
            key = self._keys.queue(queue, "entries")
            [(at, flat)] = await read_atomically(
                self._redis, ("HSCAN", key, cursor, "MATCH", match, "COUNT", str(PAGE))
            )
            if flat:
                pairs = zip(flat[::2], flat[1::2], strict=True)
                yield [_open(queue, name.decode(), entry.decode()) for name, entry in pairs]
            if (cursor := at.decode()) == "0":
                return

    async def dead_letters(self, queue: str) -> list[DeadLetter]:
        """The newest first; never more than MAX_DEAD_LETTERS."""
        key = self._keys.queue(queue, "dead")
        [flat] = await read_atomically(self._redis, ("ZREVRANGE", key, "0", str(MAX_DEAD_LETTERS - 1), "WITHSCORES"))
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return [_letter(queue, row.decode(), int(float(died_ms))) for row, died_ms in pairs]

    async def job_body(self, letter: DeadLetter) -> bytes | None:
        """The whole job as it was enqueued; None: somebody else has removed the letter."""
        body: bytes | None = await call(self._redis, "HGET", self._keys.queue(letter.queue, "letters"), letter.name)
        return body


def _open(queue: str, name: str, entry: str) -> OpenJob:
    session, generation = name.split(" ")
    priority, _, entry_id = entry.partition(" ")
    return OpenJob(queue, session, generation, priority, int(entry_id.partition("-")[0]))


def _letter(queue: str, row: str, died_ms: int) -> DeadLetter:
    session, generation, priority, reason = row.split(" ")
    return DeadLetter(queue, session, generation, priority, reason, died_ms)


_COUNTS = queue_script("counts")
