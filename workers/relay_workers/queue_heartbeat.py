"""The queue heartbeat: says each second that a worker serves this queue; see relay/store/queue/unserved.py.

It is sent however busy the worker is, and no more once the worker is draining. If the worker's loop is too busy, the
lease thread sends it.
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
    """One worker's heartbeat for its queue `name`, until `stopping` is set."""

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
        """Send it once; if Redis does not answer, the next one must do. `queue`: on another thread's connections."""
        try:
            await (queue or self._queue).serve(self.name)
            self._sent_at = time.monotonic()
            self._trouble.succeeded()
            self._bug.succeeded()
        except StorageError as error:
            metrics.storage_errors.labels("serving").inc()
            self._trouble.failed(error)
        except Exception as error:  # the next second may do better; otherwise the lease thread sends it
            metrics.bugs.labels("serving").inc()
            self._bug.unexpected(error)
