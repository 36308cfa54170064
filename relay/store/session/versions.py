"""Versions of a log: entries at and below its floor are merged and removed while readers are under way. Pure.

Seqs and epoch stay as they are then, so neither tells whether two reads of one log fit together.
"""

from __future__ import annotations

from typing import NamedTuple


class Trim(NamedTuple):
    """What the count of trims came to with it, and between which seqs entries were merged or removed."""

    trims: int
    first: int
    last: int


class LogVersion(NamedTuple):
    """Of one epoch's entries. `floor`: at and below it they may have changed; `trims`: how often some have.

    `changes`: the newest of them; what was long ago is told in one. An earlier release raises the floor alone.
    """

    floor: int = 0
    trims: int = 0
    changes: tuple[Trim, ...] = ()

    def is_same(self, other: LogVersion) -> bool:
        return (self.floor, self.trims) == (other.floor, other.trims)

    def continues(self, earlier: LogVersion, after: int) -> bool:
        """Whether what follows `after` in this version is what is lacking behind what `earlier` had up to there.

        It is not where `after` lies inside a change: a part of a text may have moved from behind it to before it.
        """
        if after == 0 or self.is_same(earlier) or after >= max(self.floor, earlier.floor):
            return True
        if self.trims <= earlier.trims:
            return False
        since = [change for change in self.changes if change.trims > earlier.trims]
        return not any(change.first <= after < change.last for change in since)


UNTRIMMED = LogVersion()
