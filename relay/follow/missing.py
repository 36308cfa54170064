"""Answers that the new epoch of a log lacks: Redis has lost them. Their workers bring them back, or nobody does.

Pure; `now_s` is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from relay.protocol import events
from relay.protocol.frames import Active

_WAIT_SHARE = 0.8  # of `lost_after_s`: the end has to be written and shown by then


@dataclass
class _Lost:
    known: Active
    overdue_s: float
    is_back: bool = False  # but its text is not
    tries: int = 0  # to end it


class MissingGenerations:
    """The generations that one follower has shown as running and cannot find any more."""

    def __init__(self, lost_after_s: float) -> None:
        self._wait_s = lost_after_s * _WAIT_SHARE
        self._lost: dict[str, _Lost] = {}

    def __bool__(self) -> bool:
        return bool(self._lost)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lost)

    def known(self, generation: str) -> Active | None:
        lost = self._lost.get(generation)
        return lost.known if lost is not None else None

    def __contains__(self, generation: str) -> bool:
        return generation in self._lost

    @property
    def look_every_s(self) -> float:
        """Often enough to be in time."""
        return min(2.0, self._wait_s / 8)

    def add(self, known: Iterable[Active], now_s: float) -> None:
        for one in known:
            lost = self._lost.get(one.generation)
            if lost is None or lost.is_back:  # it was back, and is lost once more
                shown = lost.known if lost else one  # of one that was back, the text is still to come
                self._lost[one.generation] = _Lost(shown, now_s + self._wait_s)

    def heard(self, header: events.Header) -> None:
        """Note an event of the new epoch. An answer that had shown text is back only when its text is."""
        lost = self._lost.get(header.generation or "")
        if lost is None or header.type == "message":
            return
        lost.is_back = True
        if lost.known.state != "streaming" or header.type in ("tokens", "end"):
            del self._lost[lost.known.generation]

    def found(self, generation: str, running: Active | None) -> None:
        """It came back, or ended (`running` is None), before this follower noticed."""
        if (lost := self._lost.get(generation)) is None:
            return
        lost.is_back = True
        if running is None or lost.known.state != "streaming" or running.state == "streaming":
            del self._lost[generation]

    def reloaded(self, active: Mapping[str, Active]) -> None:
        """The log was reloaded up to its head; what was back and does not run there has ended unheard."""
        for generation in [name for name, lost in self._lost.items() if lost.is_back]:
            self.found(generation, active.get(generation))

    def note_refused_end(self, generation: str) -> bool:
        """Note that Redis refused to end it, as if it were back. True from the second time on: then believe that."""
        if (lost := self._lost.get(generation)) is None:
            return False
        lost.tries += 1
        return lost.tries > 1

    def forget(self, generation: str) -> None:
        """No event of it will come any more."""
        self._lost.pop(generation, None)

    def unheard(self, now_s: float) -> list[tuple[Active, bool]]:
        """Those of which nothing was heard, and whether each is overdue."""
        return [(lost.known, now_s >= lost.overdue_s) for lost in self._lost.values() if not lost.is_back]
