"""Serving: says each second that this worker lives and takes jobs from its queue; see relay/store/queue/unserved.py.

It says so however busy the worker is, and no more once it is to go. Where the worker's own loop is too busy to, its
lifeline does.
"""

from __future__ import annotations

import asyncio
import time

from relay import logging, metrics
from relay.errors import StorageError
from relay.store.queue.queue import Queue
from relay.store.queue.unserved import HEARTBEAT_EVERY_S

_LATE_S = 2 * HEARTBEAT_EVERY_S

logger = logging.get_logger("serving")


class QueueHeartbeat:
    """One worker's word for its queue `name`, until `stopping` is set."""

    def __init__(self, queue: Queue, name: str, stopping: asyncio.Event) -> None:
        self.name = name
        self._queue = queue
        self._stopping = stopping
        self._sent_at = time.monotonic()
        self._trouble = logging.FailureLog(logger, "serve_failed", queue=name)
        self._bug = logging.FailureLog(logger, "serving_failed", queue=name)

    @property
    def is_late(self) -> bool:
        return not self._stopping.is_set() and time.monotonic() - self._sent_at > _LATE_S

    async def keep(self) -> None:
        while not self._stopping.is_set():
            await self.send()
            await asyncio.sleep(HEARTBEAT_EVERY_S)

    async def send(self, queue: Queue | None = None) -> None:
        """If Redis answers; the next time does otherwise. `queue`: on connections of another thread's."""
        try:
            await (queue or self._queue).serve(self.name)
            self._sent_at = time.monotonic()
            self._trouble.succeeded()
            self._bug.succeeded()
        except StorageError as error:
            metrics.storage_errors.labels("serving").inc()
            self._trouble.failed(error)
        except Exception as error:  # the next second may do better, and else the lifeline says it
            metrics.bugs.labels("serving").inc()
            self._bug.unexpected(error)
