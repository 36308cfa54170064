"""The page cache: each page of a log that several readers want is read once, and kept as long as it is asked for.

After a restart every viewer of a session comes back at the same moment, with a cursor that the window does not reach.
They share one reader: one read at a time, from the lowest cursor that waits. Each page serves all who ask within
KEEP_S. The bytes in the cache are bounded for the whole process: beyond that the least recently used page is dropped,
and a reader that still wants it reads it again.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from relay import metrics
from relay.follow.loss_detection import entries_missing
from relay.follow.window import Entry
from relay.protocol.compact import compacted
from relay.store.session.session_log import PAGE_BYTES, SessionLog
from relay.store.session.versions import UNTRIMMED, LogVersion

KEEP_S = 5.0
_BLOCK_ENTRIES = 64
_ENTRY_BYTES = 150  # of an entry in memory, around its body


class EpochChanged(Exception):
    """The log is in another epoch than the one that was asked for."""


class EntriesMissing(Exception):
    """Entries are missing where nothing was trimmed: Redis has lost them."""


class Block(NamedTuple):
    """Consecutive entries, and what they compact to, where that is known."""

    entries: list[Entry]
    compacted: list[bytes] | None = None


class LogSegment:
    """All entries of a log from `first` to `last`, in one version of it.

    They are compacted in blocks, once for all readers: otherwise each reader of a long answer costs 2 µs per batch.
    """

    def __init__(self, first: int, last: int, version: LogVersion, entries: list[Entry]) -> None:
        self.first = first
        self.last = last
        self.version = version
        self._entries = entries
        self._compacted: dict[int, list[bytes]] = {}  # by the index of a block's first entry

    def blocks(self, after: int, upto: int) -> Iterator[Block]:
        """The entries after `after`, up to `upto`."""
        at, stop = (bisect_right(self._entries, seq, key=_seq) for seq in (after, upto))
        while at < stop:
            end = min(at - at % _BLOCK_ENTRIES + _BLOCK_ENTRIES, stop)
            whole = end - at == _BLOCK_ENTRIES
            yield Block(self._entries[at:end], self._block(at) if whole else None)
            at = end

    @property
    def size_bytes(self) -> int:
        """In memory, counting the compacted form of all of it."""
        return sum(2 * len(body) + _ENTRY_BYTES for _, body in self._entries) + _ENTRY_BYTES

    def _block(self, at: int) -> list[bytes]:
        if at not in self._compacted:
            self._compacted[at] = compacted(body for _, body in self._entries[at : at + _BLOCK_ENTRIES])
        return self._compacted[at]


def _seq(entry: Entry) -> int:
    return entry[0]


class PageCache:
    """Which pages of all sessions this process holds: at most `max_bytes`, and none unused for longer than KEEP_S."""

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        # (pages, first seq) → (size, last use), least recently used first
        self._kept: dict[tuple[SessionPages, int], tuple[int, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def has_room(self, more_bytes: int) -> bool:
        return self.bytes + more_bytes <= self._max_bytes

    def put(self, pages: SessionPages, first: int, size: int) -> None:
        """Keep a segment; others are dropped to make room, or this one itself if it is too large."""
        loop = asyncio.get_running_loop()
        self._kept[pages, first] = size, loop.time()
        self.bytes += size
        while self.bytes > self._max_bytes:
            self._drop_oldest()
        if self._timer is None:
            self._timer = loop.call_later(KEEP_S, self._sweep)

    def touch(self, pages: SessionPages, first: int) -> None:
        size, _ = self._kept.pop((pages, first))
        self._kept[pages, first] = size, asyncio.get_running_loop().time()

    def forget(self, pages: SessionPages, first: int) -> None:
        size, _ = self._kept.pop((pages, first))
        self.bytes -= size

    def _drop_oldest(self) -> None:
        pages, first = next(iter(self._kept))
        pages.drop(first)

    def _sweep(self) -> None:
        """Drop what was not used lately; nothing is kept for readers that are gone or stalled."""
        loop = asyncio.get_running_loop()
        while self._kept and next(iter(self._kept.values()))[1] <= loop.time() - KEEP_S:
            self._drop_oldest()
        self._timer = loop.call_later(KEEP_S, self._sweep) if self._kept else None


class SessionPages:
    """The log of one session, read by all who catch up with it."""

    def __init__(self, session: str, session_log: SessionLog, page_cache: PageCache) -> None:
        self._session = session
        self._session_log = session_log
        self._page_cache = page_cache
        self._epoch = ""
        self._version = UNTRIMMED  # of all segments held
        self._segments: dict[int, LogSegment] = {}  # by first seq
        self._firsts: list[int] = []  # the same, in order
        self._waiting: Counter[int] = Counter()  # cursors
        self._read_lock = asyncio.Lock()

    async def segment_after(self, epoch: str, after: int, upto: int, trims: int = 0) -> LogSegment:
        """A segment that has what follows `after`, and perhaps more on both sides; `upto` is already in the log.

        `trims`: how many the reader knows of; what was read before them is read again.
        Raises StorageError; EpochChanged if the log is in another epoch than `epoch`; EntriesMissing.
        """
        if (found := self._found(epoch, after, trims)) is not None:
            return found
        self._waiting[after] += 1
        try:
            while True:
                async with self._read_lock:
                    if (found := self._found(epoch, after, trims)) is not None:
                        return found
                    if self._version.trims < trims:
                        self.clear()
                    read = await self._read(epoch, self._lowest(epoch, after), upto)
                    if read.first <= after + 1 <= read.last:
                        return read
        finally:
            self._waiting[after] -= 1
            if not self._waiting[after]:
                del self._waiting[after]

    def clear(self) -> None:
        for first in tuple(self._firsts):
            self.drop(first)

    def drop(self, first: int) -> None:
        del self._segments[first]
        self._firsts.remove(first)
        self._page_cache.forget(self, first)

    def _found(self, epoch: str, after: int, trims: int) -> LogSegment | None:
        known = epoch == self._epoch and self._version.trims >= trims
        segment = self._at(after + 1) if known else None
        if segment is not None:
            metrics.replay_pages.labels("shared").inc()
            self._page_cache.touch(self, segment.first)
        return segment

    def _at(self, seq: int) -> LogSegment | None:
        index = bisect_right(self._firsts, seq) - 1
        segment = self._segments[self._firsts[index]] if index >= 0 else None
        return segment if segment is not None and seq <= segment.last else None

    def _lowest(self, epoch: str, after: int) -> int:
        """Where to read from: the lowest cursor that waits, so that one read serves all readers.

        If pages might be dropped before all readers have had their turn, each reads for itself.
        """
        if epoch != self._epoch or not self._page_cache.has_room(PAGE_BYTES):
            return after
        return min(cursor for cursor in self._waiting if self._at(cursor + 1) is None)

    async def _read(self, epoch: str, after: int, upto: int) -> LogSegment:
        """Read from `after` to the next segment held, or as far as one page goes."""
        index = bisect_right(self._firsts, after)
        if epoch == self._epoch and index < len(self._firsts):
            upto = min(upto, self._firsts[index] - 1)
        metrics.replay_pages.labels("read").inc()
        page = await self._session_log.range(self._session, after + 1, upto)
        if page is None or page.epoch != epoch:
            raise EpochChanged
        if entries_missing(page, after, upto):
            raise EntriesMissing
        if page.epoch != self._epoch or not page.version.is_same(self._version):
            self.clear()  # segments of different versions do not fit together
            self._epoch = page.epoch
        self._version = page.version
        last = page.entries[-1][0] if page.entries else upto
        read = self._segments[after + 1] = LogSegment(after + 1, last, page.version, page.entries)
        self._firsts.insert(bisect_right(self._firsts, after), after + 1)
        self._page_cache.put(self, read.first, read.size_bytes)
        return read
