"""What follows a cursor, as few compact frames: from the window as far as that reaches back, below it from the log.

Between two frames only the cursor is held: a slow reader costs one number, not the events that it lacks.
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
    """A part of what follows this cursor was trimmed; only the whole log is still true."""


class ReplaySource(Protocol):
    """What a replay asks of its follower."""

    session: str
    epoch: str
    window: Window
    broadcast: Broadcast

    def report_newer_log(self) -> None:
        """A replay has met a newer log than the follower knows: another epoch, or more of this one."""

    def report_missing_entries(self, epoch: str) -> None:
        """A replay has found that entries are missing in `epoch`; another may have begun meanwhile."""


class Replay:
    """Takes one reader from a cursor to `upto`, in one epoch of a log: `async for seq, frame in replay`.

    Each step gives (last seq, frame): a live event if only one is lacking, otherwise consecutive catch-ups. Stops early
    when the epoch changes. Raises Trimmed, StorageError.
    `version`: the log version of everything up to the reader's cursor; kept up to date at each step.
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
        if rest is None:  # our bug: an entry was packed twice, or one beyond `upto`
            raise RuntimeError(f"nothing is left to pack up to {self._upto}")
        return self._upto, frames.encode(rest)

    async def _blocks(self, after: int) -> tuple[int, Iterable[Block]]:
        """The next entries, as far as the window or one page goes: (last seq, blocks)."""
        window = self._followed.window
        # A trimmed page may hold in one entry the text that the window has in batches.
        if window.holds(after) and (after == 0 or self.version.floor <= after):
            return self._upto, [Block(window.between(after, self._upto))]
        try:
            segment = await self._pages.segment_after(self._epoch, after, self._upto, self.version.trims)
        except EpochChanged:
            self._followed.report_newer_log()
            raise StorageError("range: the epoch of the log changed while it was read") from None
        except EntriesMissing:
            self._followed.report_missing_entries(self._epoch)
            raise StorageError(f"range: entries after {after} are missing") from None
        if not segment.version.continues(self.version, after):
            raise Trimmed  # a part of what was sent already, or of what comes next, is gone
        self._extend_to_floor(segment.version.floor)
        self.version = segment.version
        upto = min(segment.last, self._upto)
        return upto, segment.blocks(after, upto)

    def _extend_to_floor(self, floor: int) -> None:
        """Read at least to the floor: what was merged below it is complete only there. Raises StorageError."""
        if floor > self._upto:
            self._upto = max(self._upto, self._followed.broadcast.flushed)
        if floor > self._upto:
            self._followed.report_newer_log()
            raise StorageError(f"range: entries up to {floor} were merged, but are not all shown here yet")
