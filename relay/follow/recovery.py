"""Recovery: look for answers that Redis has lost until they are back; end those that nobody brings back in time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol, assert_never

from relay import logging, metrics
from relay.follow.missing import MissingGenerations
from relay.protocol.frames import Active
from relay.store.session.replies import Span
from relay.store.session.session_log import SessionLog

logger = logging.get_logger("follower")


class RecoveryTarget(Protocol):
    """What recovery reads of its follower; all of it may change at any await."""

    session: str
    sub: str
    epoch: str
    frontier: int
    active: dict[str, Active]


class Recovery:
    """Of one follower's answers. Each method raises StorageError."""

    def __init__(
        self,
        followed: RecoveryTarget,
        session_log: SessionLog,
        missing: MissingGenerations,
        *,
        lost_after_s: float,
        lost_members: bytes,
        orphaned: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """`lost_members`: a JSON object that the `end` event of a lost answer gets besides the usual members.

        `orphaned` is called now and then for each running answer, as perhaps no queue knows of it any more.
        """
        self._followed = followed
        self._session_log = session_log
        self._missing = missing
        self._lost_members = lost_members
        self._orphaned = orphaned
        self._orphans_every_s = lost_after_s / 2
        self._orphans_sought = time.monotonic()

    async def seek_missing(self) -> None:
        """Check whether answers that Redis lost are back; end those that are overdue."""
        for known, overdue in self._missing.unheard(time.monotonic()):
            span = await self._session_log.span(self._followed.session, known.generation)
            if span is not None:
                if overdue or self._has_seen(known.generation, span):  # otherwise the next sync shows it
                    self._missing.found(known.generation, self._followed.active.get(known.generation))
            elif overdue:
                await self._bury(known)

    async def _bury(self, known: Active) -> None:
        """End it, as nobody has brought it back. Its `end` event then removes it from `missing`."""
        buried = await self._session_log.bury(
            self._followed.session, known.generation, known.attempt, self._lost_members, sub=self._followed.sub
        )
        match buried:
            case "buried":
                metrics.generations.labels("failed", "storage").inc()
                logger.warning("lost", session=self._followed.session, generation=known.generation)
                return
            case "known":
                if not self._missing.note_refused_end(known.generation):
                    return
            case "deleted":
                pass
            case _:
                assert_never(buried)
        self._missing.forget(known.generation)  # no event will ever come of it
        logger.warning("lost", session=self._followed.session, generation=known.generation, buried=buried)

    async def seek_orphans(self) -> None:
        if time.monotonic() - self._orphans_sought < self._orphans_every_s:
            return
        self._orphans_sought = time.monotonic()
        for generation in tuple(self._followed.active):
            await self._orphaned(self._followed.session, generation)

    def _has_seen(self, generation: str, span: Span) -> bool:
        """Whether the follower has applied what the log has of it: it runs here, or its end was reached."""
        ended = span.last is not None and span.last <= self._followed.frontier
        return span.epoch == self._followed.epoch and (ended or generation in self._followed.active)
