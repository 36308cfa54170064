"""The lease thread: renews this worker's leases, on an event loop of its own, when the worker's loop is too busy to.

A lease tells others that its worker lives, and Redis' clock does not wait for a loop that is blocked by a generator
that computes, or by more answers than there is CPU. A worker that took the answer over then would ask the provider
again while the answer is still being written here. So a lease that was not renewed for half its time is renewed from
here, on separate connections. This thread does nothing but renew: acting on any other answer of Redis is left to the
worker's loop.
It also sends the heartbeat of the worker's queue (queue_heartbeat.py) when the worker's loop is late with it.

A loop that has not had a turn for BLOCKED_S is taken for dead, and its leases run out.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from relay import logging, metrics
from relay.errors import StorageError
from relay.store.factory import Stores
from relay.store.queue.queue import Queue
from relay.store.session.session_log import SessionLog
from relay_workers.lease import Lease
from relay_workers.queue_heartbeat import QueueHeartbeat

BLOCKED_S = 60.0
_SEEN_S = 0.5  # how often the worker's loop shows that it has turns
_LOOK_S = 1.0  # how often, at least, this thread checks the leases

logger = logging.get_logger("lifeline")


class Renewal(NamedTuple):
    """The arguments of `SessionLog.renew`."""

    session: str
    generation: str
    fence: int
    last_acked: int
    resume_handle: str


class LeaseThread:
    """`start` it in the worker's loop; `aclose` it there, after everything that holds a lease.

    `connect`: called in the thread, for connections of its own. `queue_heartbeat`: set before `start`.
    """

    def __init__(self, lease_s: float, connect: Callable[[], Stores]) -> None:
        self.queue_heartbeat: QueueHeartbeat | None = None
        self._connect = connect
        self._lease_s = lease_s
        self._lease_ms = int(lease_s * 1000)
        self._leases: dict[Lease, Callable[[], Renewal]] = {}
        self._renewing: dict[Lease, Future[None]] = {}
        self._loop_alive_at = time.monotonic()
        self._given_up = False
        self._trouble, self._bug = (
            logging.FailureLog(logger, "renewal_failed", settled_s=logging.SETTLED_S) for _ in range(2)
        )
        self._seeing: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._keep, name="lifeline", daemon=True)
        self._stopping: Future[None] = Future()
        self._over: Future[None] = Future()

    async def start(self) -> None:
        self._seeing = asyncio.create_task(self._show_loop_alive(), name="lifeline")
        self._thread.start()

    async def aclose(self) -> None:
        if self._seeing is None:
            return
        self._seeing.cancel()
        await asyncio.gather(self._seeing, return_exceptions=True)
        if not self._stopping.done():
            self._stopping.set_result(None)
        await asyncio.shield(asyncio.wrap_future(self._over))

    def add(self, lease: Lease, renewal: Callable[[], Renewal]) -> None:
        """`renewal` is called in the thread, and must only read."""
        self._leases[lease] = renewal

    async def remove(self, lease: Lease) -> None:
        """Return once no renewal is in flight, even if cancelled: a late renewal would undo a release."""
        self._leases.pop(lease, None)
        if (renewing := self._renewing.get(lease)) is not None:
            await _until_over(renewing)

    async def _show_loop_alive(self) -> None:
        while True:
            self._loop_alive_at = time.monotonic()
            await asyncio.sleep(_SEEN_S)

    # In the thread

    def _keep(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception:
            metrics.bugs.labels("lifeline").inc()
            logger.exception("lifeline_failed")
        finally:
            self._over.set_result(None)

    async def _run(self) -> None:
        stopping = asyncio.wrap_future(self._stopping)
        redis, session_log, queue = self._connect()
        try:
            while not stopping.done():
                await asyncio.wait([stopping], timeout=min(self._lease_s / 8, _LOOK_S))
                if not stopping.done():
                    await asyncio.gather(self._look(session_log), self._serve(queue))
        finally:
            await redis.aclose()

    async def _look(self, session_log: SessionLog) -> None:
        late = [lease for lease in list(self._leases) if lease.is_late]
        blocked_s = time.monotonic() - self._loop_alive_at
        if late and blocked_s > BLOCKED_S:
            if not self._given_up:
                logger.error("worker_blocked", seconds=round(blocked_s), leases=len(late))
            self._given_up = True
            return
        self._given_up = False
        await asyncio.gather(*(self._renew(session_log, lease) for lease in late))

    async def _serve(self, queue: Queue) -> None:
        if (
            self.queue_heartbeat is None
            or not self.queue_heartbeat.is_late
            or time.monotonic() - self._loop_alive_at > BLOCKED_S
        ):
            return
        await self.queue_heartbeat.send(queue)

    async def _renew(self, session_log: SessionLog, lease: Lease) -> None:
        under_way = self._renewing[lease] = Future()
        try:
            renewal = self._leases.get(lease)
            if renewal is None:
                return  # it was removed meanwhile
            asked_s = time.monotonic()
            session, generation, fence, done, resume_handle = renewal()
            outcome = await session_log.renew(session, generation, fence, self._lease_ms, done, resume_handle)
            if outcome.what == "written":
                lease.renewed(asked_s)
                metrics.lifelines.inc()
                self._trouble.succeeded()
                self._bug.succeeded()
        except StorageError as error:
            metrics.storage_errors.labels("lifeline").inc()
            self._trouble.failed(error)
        except Exception as error:  # the other leases must still be renewed
            metrics.bugs.labels("lifeline").inc()
            self._bug.unexpected(error)
        finally:
            del self._renewing[lease]
            under_way.set_result(None)


async def _until_over(renewing: Future[None]) -> None:
    over, cancelled = asyncio.wrap_future(renewing), False
    while not over.done():
        try:
            await asyncio.wait([over])  # cancelling `over` would cancel the future that the thread is about to set
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
