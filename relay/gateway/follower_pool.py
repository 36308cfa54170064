"""The follower pool of a process: one follower per session for any number of viewers, kept a while after the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from relay import logging, metrics, timeouts
from relay.auth import identity
from relay.auth.identity import Access
from relay.errors import StorageError
from relay.follow.follower import Follower
from relay.protocol.words import Cursor

SYNC_WITHIN_S = 2.0  # for the sync of an existing follower, before it is lent out
LEAVE_EVERY_S = 1.0  # how often to check a follower that stays because answers are missing, however short the linger

logger = logging.get_logger("hub")


class Own(Protocol):
    """`SessionLog.own`."""

    async def __call__(self, session: str, sub: str, *, make: bool) -> bool: ...


class _Entry:
    def __init__(self, follower: Follower, maker: str) -> None:
        self.follower = follower
        self.users = 0
        self.started = asyncio.create_task(follower.start(maker), name=f"start {follower.session}")
        self.linger: asyncio.TimerHandle | None = None

    @property
    def failed(self) -> bool:
        return self.started.done() and (self.started.cancelled() or self.started.exception() is not None)


class FollowerPool:
    """Lends out followers; each `acquire` needs a `release`."""

    def __init__(self, make: Callable[[str], Follower], own: Own, linger_s: float) -> None:
        self._make = make
        self._own = own
        self._linger_s = linger_s
        self._entries: dict[str, _Entry] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def acquire(self, session: str, cursor: Cursor | None = None, *, access: Access) -> Follower:
        """The session's follower, started and up to date. `cursor`: the client's.

        Raises StorageError; ClientError `forbidden` if the session must be somebody's and is not.
        """
        is_theirs = access.sub is None
        while True:
            if not is_theirs and not self._is_followed(session):
                await self._require_own(session, access)  # before a new follower makes the session
                is_theirs = True
            follower = await self._synced(session, cursor, access)
            if not follower.deleted and access.sub in (None, follower.sub):
                return follower
            was_deleted = follower.deleted
            self.release(follower)
            if access.sub is not None:
                if is_theirs and not was_deleted:
                    raise identity.foreign()  # somebody else made it just now
                await self._require_own(session, access)
                is_theirs = True

    async def _require_own(self, session: str, access: Access) -> None:
        if access.sub is not None and not await self._own(session, access.sub, make=access.makes):
            raise identity.foreign()

    async def _synced(self, session: str, cursor: Cursor | None, access: Access) -> Follower:
        """If Redis loses the session of `access.sub` before a follower opens it, it is made as theirs again."""
        follower, is_new = await self._started(session, access.maker if access.sub is None else access.sub)
        try:
            if not is_new:
                await self._sync(follower, cursor, access)
        except BaseException:
            self.release(follower)
            raise
        return follower

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

    def get(self, session: str, access: Access) -> Follower | None:
        """The session's follower, if it is followed here, and was that of `access.sub` when it was last seen."""
        entry = self._entries.get(session)
        if entry is None or (access.sub is not None and (entry.follower.deleted or entry.follower.sub != access.sub)):
            return None
        return entry.follower

    def is_missing(self, session: str, generation: str, access: Access) -> bool:
        """Whether it was followed here, and Redis has lost it. `access`: as for `get`."""
        follower = self.get(session, access)
        return follower is not None and not follower.deleted and generation in follower.missing

    def _is_followed(self, session: str) -> bool:
        """Whether the next `acquire` is lent a follower that there is."""
        entry = self._entries.get(session)
        return entry is not None and not entry.follower.deleted and not entry.failed

    async def aclose(self) -> None:
        for session, entry in list(self._entries.items()):
            self._forget(session, entry)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _started(self, session: str, maker: str) -> tuple[Follower, bool]:
        """(follower, whether it was created for this call); counts as a use. `maker`: for `Follower.start`."""
        entry = self._entries.get(session)
        if entry is not None and not self._is_followed(session):
            self._forget(session, entry)
            entry = None
        is_new = entry is None
        if entry is None:
            entry = self._entries[session] = _Entry(self._make(session), maker)
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
    async def _sync(follower: Follower, cursor: Cursor | None, access: Access) -> None:
        """Learn of a DELETE elsewhere, of a new owner, and of what another gateway has shown a client.

        If Redis does not answer in time, the follower is lent as it is, unless it does not reach the cursor, or is not
        known to be theirs.
        """
        try:
            async with timeouts.timeout(SYNC_WITHIN_S):
                await follower.sync()
        except (StorageError, TimeoutError) as error:
            in_doubt = access.sub not in (None, follower.sub)
            if in_doubt or (cursor is not None and not follower.honours(cursor.epoch, cursor.seq)):
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
