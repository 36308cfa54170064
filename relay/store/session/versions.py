"""Versions of a log: entries at and below its floor are merged and removed while it is read. Pure.

Seqs and epoch do not change then, so they cannot tell whether two reads of one log fit together.
"""

from __future__ import annotations

from typing import NamedTuple


class Trim(NamedTuple):
    """`trims`: the count including this one. `first`, `last`: the seqs between which entries were merged or removed."""

    trims: int
    first: int
    last: int


class LogVersion(NamedTuple):
    """Of one epoch's entries. `floor`: at and below it they may have changed; `trims`: how often some have.

    `changes`: the newest trims; old ones are joined into one. An earlier release raises only the floor.
    """

    floor: int = 0
    trims: int = 0
    changes: tuple[Trim, ...] = ()

    def is_same(self, other: LogVersion) -> bool:
        return (self.floor, self.trims) == (other.floor, other.trims)

    def continues(self, earlier: LogVersion, after: int) -> bool:
        """Whether a reader that has `earlier` up to `after` can go on with what follows in this version.

        It cannot if `after` lies inside a change: text may have moved from after it to before it.
        """
        if after == 0 or self.is_same(earlier) or after >= max(self.floor, earlier.floor):
            return True
        if self.trims <= earlier.trims:
            return False
        since = [change for change in self.changes if change.trims > earlier.trims]
        return not any(change.first <= after < change.last for change in since)


UNTRIMMED = LogVersion()
