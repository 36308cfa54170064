"""One followed session: its view, kept correct by the contract's rules, and its listeners.

Several listeners (a following, answers) share the one subscription that a connection has to a session.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec

from relay.client.backoff import Backoff
from relay.client.constants import SHARED
from relay.client.missing import MissingAnswers
from relay.errors import RelayError, RequestRefused, SessionDeleted
from relay.protocol.view import FrameDict, SessionView
from relay.protocol.words import Cursor, new_id

KEEP_GENERATIONS = 200  # ended ones kept in a view: as many as a gateway keeps by default
NEVER = float("inf")
_UNTIL_RECONNECTED = {"token_expired", "unauthenticated"}  # the close that follows says whether another token helps


class SubscriptionListener:
    """Called at once, before the next frame is read. None of these may block. This base class does nothing."""

    def applied(self, frame: FrameDict) -> None:
        """A log frame has changed the view."""

    def rebuilding(self, frame: FrameDict) -> None:
        """`subscribed` without recovery: the state so far is void, and what follows builds it again."""

    def lost(self, names: list[str]) -> None:
        """These were accepted or shown, and did not come (back)."""

    def changed(self) -> None:
        """Anything may have changed, including `blocked_by` and `failure`."""


class Subscription:
    """One session, over any number of connections. `ask_at`: when to send `subscribe`, by the loop's clock."""

    def __init__(
        self,
        session: str,
        *,
        start: str,
        cursor: Cursor | None,
        answer_within_s: float,
        lost_after_s: Callable[[], float],
    ) -> None:
        """`lost_after_s`: as the gateway last announced it."""
        self.view = SessionView(session, f"{new_id('subscribe')}-")
        if cursor is not None:
            self.view.resume(cursor)
        self.listeners: set[SubscriptionListener] = set()
        self.ready = asyncio.Event()  # subscribed, or failed
        self.failure: RelayError | None = None
        self.ask_at = 0.0
        self._start = start
        self.from_start = start == "start" and cursor is None  # followed from the log's first event
        self._answer_within_s = answer_within_s
        self._missing = MissingAnswers(lost_after_s, self._give_up)
        self._closed = False
        self._connected = False
        self._degraded = False
        self._refusal: RequestRefused | None = None  # of the last `subscribe`, which will be sent again
        self._again = Backoff()
        self._rebuilds: Counter[str] = Counter()  # generation → rebuilds because of it

    @property
    def blocked_by(self) -> str:
        """Why nothing moves at the moment; empty if nothing blocks it."""
        if not self._connected:
            return "reconnecting"
        return "refused" if self._refusal is not None else "degraded" if self._degraded else ""

    @property
    def detail(self) -> str:
        """More on `blocked_by`: for a refusal, the gateway's own words."""
        return str(self._refusal) if self.blocked_by == "refused" else ""

    def subscribe(self, now: float) -> bytes:
        """The command that is due; due again if it gets no answer."""
        self.ask_at = now + self._answer_within_s
        return msgspec.json.encode(self.view.subscribe(start=self._start))

    def connected(self) -> None:
        self._connected, self._degraded, self._refusal = True, False, None
        self.ask_at = 0.0 if self.failure is None else NEVER
        self._tell()

    def lost(self) -> None:
        self._connected = False
        self._tell()

    def close(self) -> None:
        """Nobody listens any more."""
        self._closed = True
        self._watch()

    def degraded(self, yes: bool) -> None:
        self._degraded = yes
        self._tell()

    def expect(self, generation: str) -> None:
        """It was accepted, so it must come, or it is lost."""
        self.view.expect(generation)
        self._watch()

    def fail(self, error: RelayError) -> None:
        """End it: nothing is sent any more, and listeners raise `error`."""
        self.failure = self.failure or error
        self.ask_at = NEVER
        self.ready.set()
        self._tell()

    def rewind(self) -> None:
        """Read everything again from the log's beginning."""
        self._start, self.from_start = "start", True
        self.ready.clear()
        self._forget(delay_s=0)

    def handle_frame(self, frame: FrameDict) -> None:
        """One frame that names this session and answers no request."""
        match frame["type"]:
            case "error":
                self._refused(frame)
            case "unsubscribed":
                if not frame.get("id"):  # unasked; a reply to our own `unsubscribe` concerns an earlier subscription
                    self.fail(SessionDeleted(self.view.session))
            case "degraded" | "restored":
                self.degraded(frame["type"] == "degraded")
            case _:
                self._apply(frame)

    def _apply(self, frame: FrameDict) -> None:
        outcome = self.view.apply(frame)
        if outcome == "mismatch" and not self._should_rebuild():
            outcome = "applied"
        if outcome == "gap":
            self._ask_again(self._delay())
        elif outcome == "applied" and frame["type"] == "subscribed":
            self._subscribed(frame)
        elif outcome == "applied":
            self._again.reset()
            for listener in list(self.listeners):
                listener.applied(frame)
            if frame["type"] in ("end", "catchup"):
                self.view.prune(KEEP_GENERATIONS)
            self._tell()

    def _subscribed(self, frame: FrameDict) -> None:
        self.ask_at, self._refusal = NEVER, None
        if not frame["recovered"]:
            for listener in list(self.listeners):
                listener.rebuilding(frame)
        self.ready.set()
        self._give_up(self.view.missing[:-KEEP_GENERATIONS])

    def _watch(self) -> None:
        """The time of missing answers counts only while we would hear of them."""
        view = self.view
        over = self._closed or self.failure is not None
        can_hear = not over and not self.blocked_by and not view.waiting and not view.rebuilding
        self._missing.watch(view.missing if can_hear else [])

    def _give_up(self, names: list[str]) -> None:
        names = self.view.give_up(names)
        if names:
            self.view.prune(KEEP_GENERATIONS)
            for listener in list(self.listeners):
                listener.lost(names)
        self._tell()

    def _should_rebuild(self) -> bool:
        """A text does not match its checksum: whether to build everything again, which may repair it."""
        unproven = [name for name in self.view.unproven if self._rebuilds[name] < SHARED.rebuilds]
        if not unproven:
            return False
        if len(self._rebuilds) > SHARED.remembered_doubts:
            self._rebuilds.clear()
        self._rebuilds.update(unproven)
        self._start, self.from_start = "start", True  # with `live`, the unproven answers would never come again
        tries = max(self._rebuilds[name] for name in unproven)
        self._forget(delay_s=0 if tries == 1 else self._again.next())
        return True

    def _forget(self, delay_s: float) -> None:
        self.view.forget()
        self._ask_again(delay_s)
        self._tell()

    def _refused(self, frame: FrameDict) -> None:
        if self.failure is not None:
            return
        if frame["retryable"]:
            self._refusal = RequestRefused(frame["code"], frame["message"], retryable=True)
            self._ask_again((frame.get("retry_after_s") or 0) + self._again.next(SHARED.refused_most_s))
            self._tell()
        elif frame["code"] in _UNTIL_RECONNECTED:
            self._refusal = RequestRefused(frame["code"], frame["message"])
            self.ask_at = NEVER
            self._tell()
        elif frame.get("id") or frame["code"] == "forbidden":  # without one: a newer token allows less
            self.fail(RequestRefused(frame["code"], frame["message"]))

    def _delay(self) -> float:
        """No delay for the first gap; a growing one for each further gap with nothing applied in between."""
        first, delay_s = self._again.failures == 0, self._again.next()
        return 0 if first else delay_s

    def _ask_again(self, delay_s: float) -> None:
        self.view.waiting = True  # frames that still come belong to the subscription that we give up
        self.ask_at = asyncio.get_running_loop().time() + delay_s
        self._watch()

    def _tell(self) -> None:
        self._watch()
        for listener in list(self.listeners):
            listener.changed()
