"""Following a session: every event once and in order, merged for a reader that lags behind."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, assert_never

import msgspec

from relay.client.answer_items import Status
from relay.client.subscription import KEEP_GENERATIONS, Subscription, SubscriptionListener
from relay.protocol.compact import Compactor
from relay.protocol.view import FrameDict, SessionView
from relay.protocol.words import Cursor

_MERGE_ABOVE = 64  # events


@dataclass(frozen=True, slots=True)
class Applied:
    """The events `first` … `seq`, in order, as in PROTOCOL section 4; those of several seqs may be merged."""

    first: int
    seq: int
    events: list[FrameDict]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Forget what you have of this session: everything after `at` follows; at `head` you have it all again."""

    epoch: str
    at: int
    head: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Answers that were accepted or shown, and do not come (back). If one comes after all, its events follow."""

    generations: tuple[str, ...]


Change = Applied | Rebuilt | Lost | Status


class Following(SubscriptionListener):
    """An asynchronous context manager, and inside it an asynchronous iterator of `Change`s.

    `view` is the session's state as of now; it may be ahead of the changes that were taken. `cursor` belongs to the
    last change taken: save it together with what you made of that change, and `follow(cursor=…)` goes on right after.
    Order and loss: every event once and in order, through any number of reconnects. What is not taken yet is merged as
    a gateway merges it for a slow viewer, so it never holds more than the session's own text and data.
    Cancelling a step loses nothing. Entering waits for the subscription. Entering and iterating raise Disconnected,
    RequestRefused (the session may not be followed) or SessionDeleted, after everything that came before.
    """

    def __init__(
        self, acquire: Callable[[Following], Subscription], release: Callable[[SubscriptionListener], None]
    ) -> None:
        self._acquire = acquire
        self._release = release
        self._subscription: Subscription | None = None
        self._backlog = PendingChanges()
        self._cursor: Cursor | None = None
        self._told = Status("following")
        self._closed = False
        self._news = asyncio.Event()

    @property
    def view(self) -> SessionView:
        return self._entered().view

    @property
    def cursor(self) -> Cursor | None:
        return self._cursor

    @property
    def state(self) -> str:
        """`following`, `reconnecting`, `refused` or `degraded`."""
        return self.status.state

    @property
    def status(self) -> Status:
        """The state, with its detail."""
        subscription = self._entered()
        return Status(subscription.blocked_by or "following", subscription.detail)

    async def __aenter__(self) -> Following:
        subscription = self._subscription = self._acquire(self)
        self._cursor = subscription.view.cursor
        try:
            await subscription.ready.wait()
            if subscription.failure is not None:
                raise subscription.failure
        except BaseException:
            self._release(self)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self._news.set()
        self._release(self)

    def __aiter__(self) -> Following:
        return self

    async def __anext__(self) -> Change:
        subscription = self._entered()
        while not self._closed:
            if (change := self._backlog.take()) is not None:
                self._move(change)
                return change
            if subscription.failure is not None:
                raise subscription.failure
            if self.status != self._told:
                self._told = self.status
                return self._told
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration

    def applied(self, frame: FrameDict) -> None:
        self._backlog.add(frame)

    def rebuilding(self, frame: FrameDict) -> None:
        rebuilt = Rebuilt(frame["epoch"], frame["at"], frame["head"])
        if self._cursor is None:
            self._move(rebuilt)  # the beginning: nothing to forget
        else:
            self._backlog.restart(rebuilt, {known["generation"] for known in frame["active"]})

    def lost(self, names: list[str]) -> None:
        self._backlog.lose(names)

    def changed(self) -> None:
        self._news.set()

    def _move(self, change: Applied | Rebuilt | Lost) -> None:
        match change:
            case Rebuilt():
                self._cursor = Cursor(change.epoch, change.at)
            case Applied():
                if self._cursor is not None:
                    self._cursor = Cursor(self._cursor.epoch, change.seq)
            case Lost():
                pass
            case _:
                assert_never(change)

    def _entered(self) -> Subscription:
        if self._subscription is None:
            raise RuntimeError("enter it first: async with relay.follow(…) as following")
        return self._subscription


class PendingChanges:
    """What was applied and not taken yet: as it came while it is little, beyond that merged into one change.

    Losses are taken before applied events: no event that came before a loss can be of the same answer.
    """

    def __init__(self) -> None:
        self._rebuilt: Rebuilt | None = None
        self._lost: dict[str, None] = {}
        self._changes: deque[Applied] = deque()
        self._events = 0
        self._merge_above = _MERGE_ABOVE

    def restart(self, rebuilt: Rebuilt, active: Set[str] = frozenset()) -> None:
        """Begin again with `rebuilt`. What was lost stays lost, except what is `active`."""
        self._rebuilt = rebuilt
        self._lost = {name: None for name in self._lost if name not in active}
        self._changes.clear()
        self._events, self._merge_above = 0, _MERGE_ABOVE

    def lose(self, names: list[str]) -> None:
        self._lost |= dict.fromkeys(names)
        while len(self._lost) > KEEP_GENERATIONS:
            del self._lost[next(iter(self._lost))]

    def add(self, frame: FrameDict) -> None:
        if frame["type"] == "catchup":
            change = Applied(frame["from"], frame["seq"], frame["events"])
        else:
            change = Applied(frame["seq"], frame["seq"], [bare(frame)])
        self._changes.append(change)
        self._events += _weight(change)
        if self._events > self._merge_above:
            self._merge()

    def take(self) -> Rebuilt | Lost | Applied | None:
        rebuilt, self._rebuilt = self._rebuilt, None
        if rebuilt is not None:
            return rebuilt
        lost, self._lost = tuple(self._lost), {}
        if lost:
            return Lost(lost)
        if not self._changes:
            return None
        change = self._changes.popleft()
        self._events -= _weight(change)
        if not self._changes:
            self._merge_above = _MERGE_ABOVE
        return change

    def _merge(self) -> None:
        events = compacted([event for change in self._changes for event in change.events])
        merged = Applied(self._changes[0].first, self._changes[-1].seq, events)
        self._changes = deque([merged])
        self._events = _weight(merged)
        self._merge_above = max(_MERGE_ABOVE, 2 * self._events)  # so that merging stays cheap


def _weight(change: Applied) -> int:
    return 1 + len(change.events)


def bare(frame: FrameDict) -> FrameDict:
    """A live event without its position in the log."""
    return {name: value for name, value in frame.items() if name not in ("session", "seq")}


def compacted(events: list[FrameDict]) -> list[FrameDict]:
    compactor = Compactor()
    for event in events:
        compactor.add(msgspec.json.encode(event))
    decoded: list[Any] = [msgspec.json.decode(raw) for raw in compactor.events()]
    return decoded
