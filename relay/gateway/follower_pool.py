"""The follower pool of a process: one follower per session for any number of viewers, kept a while after the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relay import logging, metrics, timeouts
from relay.errors import StorageError
from relay.follow.follower import Follower
from relay.protocol.words import Cursor

SYNC_WITHIN_S = 2.0  # for the sync of an existing follower, before it is lent out
LEAVE_EVERY_S = 1.0  # how often to check a follower that stays because answers are missing, however short the linger

logger = logging.get_logger("hub")


class _Entry:
    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.users = 0
        self.started = asyncio.create_task(follower.start(), name=f"start {follower.session}")
        self.linger: asyncio.TimerHandle | None = None

    @property
    def failed(self) -> bool:
        return self.started.done() and (self.started.cancelled() or self.started.exception() is not None)


class FollowerPool:
    """Lends out followers; each `acquire` needs a `release`."""

    def __init__(self, make: Callable[[str], Follower], linger_s: float) -> None:
        self._make = make
        self._linger_s = linger_s
        self._entries: dict[str, _Entry] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def acquire(self, session: str, cursor: Cursor | None = None) -> Follower:
        """The session's follower, started and up to date. `cursor`: the client's. Raises StorageError."""
        while True:
            follower, is_new = await self._started(session)
            try:
                if not is_new:
                    await self._sync(follower, cursor)
            except BaseException:
                self.release(follower)
                raise
            if not follower.deleted:
                return follower
            self.release(follower)

    def release(self, follower: Follower) -> None:
        session = follower.session
        entry = self._entries.get(session)
        if entry is None or entry.follower is not follower:
            return  # deleted, and forgotten
        entry.users -= 1
        if entry.users > 0:
            return
        if entry.failed or follower.deleted or not entry.started.done():
            self._forget(session, entry)
        else:
            self._linger(session, entry, self._linger_s)

    def _linger(self, session: str, entry: _Entry, for_s: float) -> None:
        """Keep it for a while, and at least until what is missing there is back or ended."""
        entry.linger = asyncio.get_running_loop().call_later(for_s, self._leave, session, entry)

    def _leave(self, session: str, entry: _Entry) -> None:
        if entry.follower.missing and not entry.follower.deleted:
            self._linger(session, entry, max(self._linger_s, LEAVE_EVERY_S))
        else:
            self._forget(session, entry)

    def get(self, session: str) -> Follower | None:
        """The session's follower, if it is followed here."""
        entry = self._entries.get(session)
        return entry.follower if entry is not None else None

    def is_missing(self, session: str, generation: str) -> bool:
        """Whether it was followed here, and Redis has lost it."""
        entry = self._entries.get(session)
        return entry is not None and not entry.follower.deleted and generation in entry.follower.missing

    async def aclose(self) -> None:
        for session, entry in list(self._entries.items()):
            self._forget(session, entry)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _started(self, session: str) -> tuple[Follower, bool]:
        """(follower, whether it was created for this call); counts as a use."""
        entry = self._entries.get(session)
        if entry is not None and (entry.follower.deleted or entry.failed):
            self._forget(session, entry)
            entry = None
        is_new = entry is None
        if entry is None:
            entry = self._entries[session] = _Entry(self._make(session))
            metrics.followers.inc()
        if entry.linger is not None:
            entry.linger.cancel()
            entry.linger = None
        entry.users += 1
        try:
            await asyncio.wait([entry.started])
            if entry.started.cancelled():
                raise StorageError("follow: this gateway is draining")
            entry.started.result()
        except BaseException:
            self.release(entry.follower)
            raise
        return entry.follower, is_new

    @staticmethod
    async def _sync(follower: Follower, cursor: Cursor | None) -> None:
        """Learn of a DELETE elsewhere, and of what another gateway has shown a client.

        If Redis does not answer in time, the follower is lent as it is, unless it does not reach the cursor.
        """
        try:
            async with timeouts.timeout(SYNC_WITHIN_S):
                await follower.sync()
        except (StorageError, TimeoutError) as error:
            if cursor is not None and not follower.honours(cursor.epoch, cursor.seq):
                raise StorageError(f"sync: {error or 'no answer in time'}") from None

    def _forget(self, session: str, entry: _Entry) -> None:
        if self._entries.get(session) is not entry:
            return
        if entry.linger is not None:
            entry.linger.cancel()
        del self._entries[session]
        metrics.followers.dec()
        task = asyncio.create_task(self._close(entry), name=f"close {session}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    @staticmethod
    async def _close(entry: _Entry) -> None:
        entry.started.cancel()
        await asyncio.gather(entry.started, return_exceptions=True)
        await entry.follower.aclose()
