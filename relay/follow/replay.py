"""What follows a cursor, as few compact frames: from the window as far as that reaches back, below it from the log.

Between two frames nothing is held but the cursor: a reader that takes its time costs a number, not what it lacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from relay.errors import StorageError
from relay.follow.broadcast import Broadcast
from relay.follow.page_cache import Block, EntriesMissing, EpochChanged, SessionPages
from relay.follow.window import Window
from relay.protocol import events, frames
from relay.protocol.compact import Packer
from relay.store.session.versions import UNTRIMMED, LogVersion

NumberedFrame = tuple[int, bytes]  # last seq, encoded frame


class Trimmed(Exception):
    """What follows this cursor was forgotten in part; only everything anew is still true."""


class ReplaySource(Protocol):
    """What a replay asks of the follower whose session it reads."""

    session: str
    epoch: str
    window: Window
    broadcast: Broadcast

    def report_newer_log(self) -> None:
        """A replay has met a later state of the log than is followed: another life, or more of this one."""

    def report_missing_entries(self, epoch: str) -> None:
        """A replay has found that entries are missing in this life; another may have begun meanwhile."""


class Replay:
    """One reader's way from a cursor to `upto`, in one life of a log: `async for seq, frame in replay`.

    Each step gives (last seq, frame): a live event if only one is lacking, else catchups that follow on. Stops early
    when the log begins a new life. Raises Trimmed, StorageError.
    `version`: of the log in which the reader has everything up to its cursor, after each step too.
    """

    def __init__(
        self,
        followed: ReplaySource,
        pages: SessionPages,
        after: int,
        upto: int,
        *,
        max_frame_bytes: int,
        version: LogVersion = UNTRIMMED,
    ) -> None:
        self._followed = followed
        self._epoch = followed.epoch
        self._pages = pages
        self._after = after
        self._upto = upto
        self._max_frame_bytes = max_frame_bytes
        self.version = version

    def __aiter__(self) -> Replay:
        return self

    async def __anext__(self) -> NumberedFrame:
        if self._after >= self._upto or self._followed.epoch != self._epoch:
            raise StopAsyncIteration
        frame = await self._frame()
        if self._followed.epoch != self._epoch:
            raise StopAsyncIteration
        self._after = frame[0]
        return frame

    async def _frame(self) -> NumberedFrame:
        packer = Packer(self._followed.session, self._after, self._max_frame_bytes)
        at = self._after
        while at < self._upto:
            at, blocks = await self._blocks(at)
            for entries, compacted in blocks:
                if at == self._after + 1 == self._upto:
                    return at, events.live_frame(self._followed.session, *entries[0])
                if compacted is not None and packer.take(entries[-1][0], compacted):
                    continue
                for seq, body in entries:
                    if (full := packer.add(seq, body)) is not None:
                        return full.seq, frames.encode(full)
        rest = packer.close(self._upto)
        if rest is None:  # the last entry would have been packed twice, or one beyond `upto`
            raise RuntimeError(f"nothing is left to pack up to {self._upto}")
        return self._upto, frames.encode(rest)

    async def _blocks(self, after: int) -> tuple[int, Iterable[Block]]:
        """(up to where, entries) of the next stretch: as far as the window or one page goes."""
        window = self._followed.window
        # A page that was trimmed may hold, in one piece, text that the window has in batches.
        if window.holds(after) and (after == 0 or self.version.floor <= after):
            return self._upto, [Block(window.between(after, self._upto))]
        try:
            stretch = await self._pages.segment_after(self._epoch, after, self._upto, self.version.trims)
        except EpochChanged:
            self._followed.report_newer_log()
            raise StorageError("range: the log began a new life while it was read") from None
        except EntriesMissing:
            self._followed.report_missing_entries(self._epoch)
            raise StorageError(f"range: entries behind {after} are missing") from None
        if not stretch.version.continues(self.version, after):
            raise Trimmed  # of what was sent already, or of what lies between, something is forgotten
        self._extend_to_floor(stretch.version.floor)
        self.version = stretch.version
        upto = min(stretch.last, self._upto)
        return upto, stretch.blocks(after, upto)

    def _extend_to_floor(self, floor: int) -> None:
        """Go on to the floor at least: what was merged below it is whole only there. Raises StorageError."""
        if floor > self._upto:
            self._upto = max(self._upto, self._followed.broadcast.flushed)
        if floor > self._upto:
            self._followed.report_newer_log()
            raise StorageError(f"range: entries up to {floor} were merged, which are not shown here yet")
