"""A followed session's viewers in this process, and how live events reach them: joined once, written once to each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from relay.follow.window import OutOfOrder

Encode = Callable[[bytes], bytes]


class Burst:
    """Live events `first` … `last`, encoded once per framing and written once per viewer."""

    def __init__(self, first: int, payloads: list[bytes]) -> None:
        self.first = first
        self.last = first + len(payloads) - 1
        self.payloads = payloads
        self.size_bytes = sum(map(len, payloads))
        self._joined: dict[Encode, bytes] = {}

    def joined(self, framing: Encode) -> bytes:
        """All payloads in this framing, as one byte string."""
        if framing not in self._joined:
            self._joined[framing] = b"".join(map(framing, self.payloads))
        return self._joined[framing]


class BroadcastListener(Protocol):
    """What a follower asks of a viewer."""

    def feed(self, burst: Burst) -> None:
        """Take live events; this viewer has everything before them. Must not block or raise."""

    def restart(self) -> None:
        """The log is shown again from its beginning: everything this viewer has is void."""

    def degraded(self) -> None:
        """The log cannot be read, or answers are missing; nothing may come for a while."""

    def restored(self) -> None:
        """That is over; what is still on its way to this viewer goes first."""

    def unsubscribed(self) -> None:
        """The session was deleted; nothing follows."""


class Broadcast:
    """`viewers`: all of them; `keeping_up`: those that have everything up to `flushed` and get what follows."""

    def __init__(self) -> None:
        self.viewers: set[BroadcastListener] = set()
        self.keeping_up: set[BroadcastListener] = set()
        self.flushed = 0
        self._pending: list[bytes] = []

    def reset(self, head: int) -> None:
        """The log was reloaded up to `head`: no viewer has that yet."""
        self.flushed = head
        self._pending.clear()
        self.keeping_up.clear()

    def add(self, seq: int, payload: bytes) -> None:
        """Add the next live event; those of one turn of the event loop go out as one burst. Raises OutOfOrder."""
        due = self.flushed + len(self._pending) + 1
        if seq != due:
            raise OutOfOrder(seq, due)
        if not self._pending:
            asyncio.get_running_loop().call_soon(self.flush)
        self._pending.append(payload)

    def flush(self) -> None:
        """Hand everything pending to those that keep up."""
        if not self._pending:
            return  # reset meanwhile
        burst = Burst(self.flushed + 1, self._pending)
        self._pending = []
        self.flushed = burst.last
        for viewer in tuple(self.keeping_up):
            viewer.feed(burst)

    # Notices to all viewers

    def restart(self) -> None:
        for viewer in tuple(self.viewers):
            viewer.restart()

    def degraded(self) -> None:
        for viewer in tuple(self.viewers):
            viewer.degraded()

    def restored(self) -> None:
        self.flush()  # what was found while it came back goes first
        for viewer in tuple(self.viewers):
            viewer.restored()

    def unsubscribed(self) -> None:
        self.flush()
        for viewer in tuple(self.viewers):
            viewer.unsubscribed()
