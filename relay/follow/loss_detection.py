"""What a read of a log shows that Redis has lost. Pure."""

from __future__ import annotations

from typing import Literal

from relay.follow.window import Entry
from relay.store.session.replies import Page

LossKind = Literal["newest", "missing"]  # events at the end of the log; entries in the middle


def detect_loss(page: Page, frontier: int, newest: Entry | None) -> LossKind | None:
    """What Redis has lost of a log that was shown up to `frontier`; `newest` is the entry there, if we have it."""
    if page.head < frontier:
        return "newest"
    if newest is not None and page.floor < frontier:
        if not page.entries or page.entries[0][0] != frontier:
            return "missing"
        if page.entries[0] != newest:
            return "newest"  # a replica that was behind became the master, and was written to since
    return "missing" if entries_missing(page, frontier, page.head) else None


def entries_missing(page: Page, after: int, upto: int) -> bool:
    """Whether a read from `after` to `upto` found too little; at and below the floor entries may be missing."""
    expected = max(after, page.floor) + 1
    for seq, _ in page.entries:
        if seq > expected:
            return True
        expected = max(expected, seq + 1)
    progress = bool(page.entries) and page.entries[-1][0] > after
    return not progress and max(after, page.floor) < upto
