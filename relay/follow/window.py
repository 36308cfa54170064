"""The newest events of a followed session, in memory for readers that have missed only a few. Pure."""

from __future__ import annotations

from collections import deque
from itertools import islice

WINDOW_EVENTS = 512

Entry = tuple[int, bytes]


class OutOfOrder(Exception):
    """An event does not follow the one before it: a bug of ours. It must never be shown."""

    def __init__(self, seq: int, expected: int) -> None:
        super().__init__(f"got event {seq} instead of {expected}")


class Window:
    """Consecutive entries (seq, body): at most `max_bytes` of bodies, and at most WINDOW_EVENTS entries.

    An entry is found by its index, so one out of order would shift all after it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def add(self, seq: int, body: bytes) -> None:
        """Add the next entry; the oldest ones are dropped to make room. Raises OutOfOrder."""
        if self._entries and seq != self._entries[-1][0] + 1:
            raise OutOfOrder(seq, self._entries[-1][0] + 1)
        self._entries.append((seq, body))
        self._bytes += len(body)
        while self._bytes > self._max_bytes or len(self._entries) > WINDOW_EVENTS:
            self._bytes -= len(self._entries.popleft()[1])

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def newest(self) -> Entry | None:
        return self._entries[-1] if self._entries else None

    def holds(self, after: int) -> bool:
        """Whether everything after `after`, up to the newest entry, is here."""
        return bool(self._entries) and self._entries[0][0] <= after + 1

    def between(self, after: int, upto: int) -> list[Entry]:
        """The entries after `after`, up to `upto`. Only where `holds(after)`."""
        first = self._entries[0][0]
        return list(islice(self._entries, after + 1 - first, max(0, upto + 1 - first)))
