"""Revocations in a gateway: since when the tokens of a `sub` are refused, and whom to tell of a new one.

Each gateway reads them all at its start and what is new twice a second, so that a revocation holds everywhere within a
second. It goes on with what it knows while Redis is away, and gives Redis back what that has lost.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from relay import logging, metrics
from relay.auth.identity import Identity
from relay.errors import ClientError, StorageError
from relay.store.revocations import KEEP_S, MAX_REVOCATIONS, RevocationStore, Revoked

EVERY_S = 0.4
MAX_SUB = 128  # characters
OVERLAP_MS = 5_000  # read again each time: after a failover another server's clock may be a little behind
COMPARE_EVERY_S = 5.0
FAR_AHEAD_MS = 10**15
TOO_MANY = (
    f"There are {MAX_REVOCATIONS:,} revocations, and no room for another one until the oldest expires. "
    "Changing the key that tokens are signed with refuses all of them."
)

logger = logging.get_logger("revocations")


class Watch:
    """A live connection or stream, as `Revocations.watch` returns it."""

    __slots__ = ("identity", "on_revoked")

    def __init__(self, identity: Identity, on_revoked: Callable[[], None]) -> None:
        self.identity = identity
        self.on_revoked = on_revoked


class Revocations:
    """`keep_s`: the longest that a token may be accepted; a revocation older than that concerns none any more."""

    def __init__(self, store: RevocationStore, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        if keep_s > KEEP_S:
            raise ValueError(f"Redis keeps revocations for {KEEP_S} s only")
        self._store = store
        self._keep_ms = int(keep_s * 1000)
        self._clock = clock
        self._at_ms: dict[str, int] = {}  # by sub
        self._oldest_ms = 0  # none of them is older
        self._read_until_ms = 0  # by Redis' clock: what was written before is known
        self._is_known = False
        self._must_read_all = True
        self._compared_at = -math.inf  # with all that Redis has
        self._watches: dict[str, set[Watch]] = {}
        self._trouble = logging.FailureLog(logger, "revocations_failed")
        self._bug = logging.FailureLog(logger, "revocations_crashed")

    # Whom they concern

    def is_revoked(self, identity: Identity) -> bool:
        """Raises ClientError `unavailable` while they have never been read: nobody is let in on a guess."""
        if not self._is_known:
            raise ClientError("unavailable", "It is not known yet which tokens were revoked.", retry_after_s=1)
        return self._concerns(identity)

    def watch(self, identity: Identity, on_revoked: Callable[[], None]) -> Watch:
        """Until `unwatch`. `on_revoked` is called once: as soon as it is revoked, or before this returns if it was."""
        watch = Watch(identity, on_revoked)
        self._begin(watch)
        return watch

    def replace(self, watch: Watch, identity: Identity) -> None:
        """A newer token of the same person took the place of the earlier one. Checks like `watch`.

        One that was told of a revocation, or is not watched any more, stays so.
        """
        if not self._is_watched(watch):
            return
        self.unwatch(watch)
        watch.identity = identity
        self._begin(watch)

    def unwatch(self, watch: Watch) -> None:
        """May be called again."""
        of_sub = self._watches.get(watch.identity.sub)
        if of_sub is not None:
            of_sub.discard(watch)
            if not of_sub:
                del self._watches[watch.identity.sub]

    def _begin(self, watch: Watch) -> None:
        self._watches.setdefault(watch.identity.sub, set()).add(watch)
        if self._concerns(watch.identity):
            self._tell(watch)

    def _is_watched(self, watch: Watch) -> bool:
        return watch in self._watches.get(watch.identity.sub, ())

    def _concerns(self, identity: Identity) -> bool:
        at_ms = self._at_ms.get(identity.sub)
        return at_ms is not None and identity.issued_at * 1000 <= at_ms

    def _tell(self, watch: Watch) -> None:
        self.unwatch(watch)
        metrics.revoked_connections.inc()
        try:
            watch.on_revoked()
        except Exception as error:  # one connection must not cost the others their revocation
            metrics.bugs.labels("revocations").inc()
            self._bug.unexpected(error)

    # Where they come from

    async def revoke(self, sub: str) -> float:
        """From now on, on every gateway within a second; here at once. Returns since when, in Unix seconds.

        Raises StorageError: it may or may not hold; ClientError `unavailable` if there are too many.
        """
        revoked = await self._store.revoke(sub)
        if revoked is None:
            raise ClientError("unavailable", TOO_MANY, retry_after_s=3600)
        metrics.revocations.labels("written").inc()
        logger.info("revoked", sub=sub.encode("unicode_escape").decode())  # without anything that a terminal obeys
        self._apply([revoked])
        return revoked.at_ms / 1000

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.sync()
            await asyncio.sleep(EVERY_S)

    async def sync(self) -> None:
        """Read what is new, or everything. Raises nothing: what fails is logged, and done again."""
        try:
            total = await self._read_news()
            if self._must_read_all or (total != len(self._at_ms) and self._may_compare()):
                await self._read_all()
            self._trouble.succeeded()
            self._bug.succeeded()
        except StorageError as error:
            self._must_read_all = True
            metrics.storage_errors.labels("revocations").inc()
            self._trouble.failed(error)
        except Exception as error:  # otherwise this gateway would never learn of another revocation
            self._must_read_all = True
            metrics.bugs.labels("revocations").inc()
            self._bug.unexpected(error)

    async def _read_news(self) -> int:
        """Returns how many there are in Redis."""
        since_ms = max(0, self._read_until_ms - OVERLAP_MS)
        if not self._is_known:
            since_ms = FAR_AHEAD_MS  # everything is read anyway
        while True:
            news = await self._store.news(since_ms, self._keep_ms)
            self._must_read_all |= news.now_ms < self._read_until_ms  # the clock of Redis was set back
            self._read_until_ms = news.now_ms
            self._apply(news.rows)
            if news.is_all:
                return news.total
            newest_ms = news.rows[-1].at_ms
            if newest_ms == since_ms:
                self._must_read_all = True
                return news.total
            since_ms = newest_ms

    async def _read_all(self) -> None:
        """What comes meanwhile is in the next news."""
        before, stored = self._at_ms.copy(), dict[str, int]()
        async for rows in self._store.pages():
            stored.update(rows)
            self._apply(rows)
        self._is_known, self._must_read_all, self._compared_at = True, False, self._clock()
        # One that was written while this read is not lost: it is not among those of before.
        lost = [Revoked(sub, at_ms) for sub, at_ms in before.items() if at_ms > stored.get(sub, 0)]
        if lost:
            await self._store.put_back(lost)
            metrics.revocations.labels("restored").inc(len(lost))
            logger.warning("revocations_restored", count=len(lost))

    def _may_compare(self) -> bool:
        """Whether it is time to ask why Redis has more, or fewer. It may stay so while there is no room for all."""
        return self._clock() - self._compared_at >= COMPARE_EVERY_S

    def _apply(self, rows: Sequence[Revoked]) -> None:
        over_ms = self._read_until_ms - self._keep_ms
        for sub, at_ms in rows:
            if at_ms < over_ms or at_ms <= self._at_ms.get(sub, 0):
                continue
            self._at_ms[sub] = at_ms
            self._oldest_ms = min(self._oldest_ms, at_ms)
            self._tell_all(sub)
        if self._oldest_ms < over_ms:
            self._at_ms = {sub: at_ms for sub, at_ms in self._at_ms.items() if at_ms >= over_ms}
            self._oldest_ms = min(self._at_ms.values(), default=over_ms)

    def _tell_all(self, sub: str) -> None:
        for watch in list(self._watches.get(sub, ())):
            if self._concerns(watch.identity) and self._is_watched(watch):  # the one before may have closed this one
                self._tell(watch)


def check_sub(given: object) -> str:
    """A `sub` as tokens have it. Raises ClientError `bad_message`."""
    if not isinstance(given, str) or not 1 <= len(given) <= MAX_SUB or not _is_text(given):
        raise ClientError("bad_message", f"sub must be 1 to {MAX_SUB} characters.")
    return given


def _is_text(given: str) -> bool:
    """A lone half of a surrogate pair is none."""
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True
