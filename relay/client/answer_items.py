"""What one reader has been given of one answer, and what is new since. Pure.

The answer's state is in the view; a reader is a cursor into it, never a queue. However late it reads, it gets each
part of the text once, in order. When the text begins again, it gets a `Restart` before the new text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relay.protocol.view import FrameDict, Generation


@dataclass(frozen=True, slots=True)
class Text:
    """The next part of the text: show it after all parts since the last `Restart`."""

    text: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Text and data so far are void; what follows is the answer from its beginning."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is going on now. Of the answer: `queued`, `preparing`, `thinking`, `retrying`, `streaming`, `interrupted`.
    Of the connection: `following`, `reconnecting`, `degraded`, `refused` (a subscription or command is tried again).
    `detail`: from the `status` event (`no_worker` with `queued`: no living worker serves its queue); for `refused`,
    the gateway's code and message. Only the latest status is given; those in between may be missed."""

    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Data:
    """A `data` event: what a hook or generator shows beside the text; `at`: the index of the token that it precedes."""

    name: str
    value: Any
    at: int | None


@dataclass(frozen=True, slots=True)
class End:
    """The `end` event, as in PROTOCOL section 4: `reason`, `usage`, `error` … Nothing follows it."""

    frame: FrameDict

    @property
    def reason(self) -> str:
        return str(self.frame["reason"])


Item = Text | Restart | Status | Data | End


class Reader:
    """The cursor. Its invariant: the texts given since the last `Restart`, joined, are those of `_parts[:_taken]`, and
    `_owed`."""

    def __init__(self) -> None:
        self.ended = False
        self._attempt = 0  # none seen yet
        self._parts: list[str | FrameDict] = []
        self._taken = 0
        self._owed = ""  # text given from an earlier copy; the rebuilt copy must bring it again first
        self._seen = 0  # data events in this copy
        self._data = 0  # data events given; a rebuilt copy may have fewer, and then none of them is new
        self._told: Status | None = None

    def news(self, shown: Generation | None, blocked_by: str = "", detail: str = "") -> list[Item]:
        """What is new in `shown` (None: not seen yet, or not back yet after a rebuild), oldest first.

        `blocked_by`: why the answer cannot move at the moment; given as its status, with `detail`.
        """
        if self.ended:
            return []
        items: list[Item] = []
        if shown is not None and shown.parts is not self._parts:
            self._turn(shown, items)
        if shown is None or shown.end is None:
            self._status(_status(shown, blocked_by, detail) or self._told or Status("queued"), items)
        if shown is not None:
            if self._is_another(shown):
                self._restart(items)
                self._taken, self._owed = 0, ""
            self._new_parts(shown, items)
            if shown.end is not None:
                self.ended = True
                items.append(End(shown.end))
        return items

    def _turn(self, shown: Generation, items: list[Item]) -> None:
        """Change to another copy of the text: rebuilt, or of another attempt."""
        rebuilt = shown.attempt == self._attempt
        self._owed = _text(self._parts[: self._taken]) + self._owed if rebuilt else ""
        if self._attempt and not rebuilt:
            self._restart(items)
        self._parts, self._taken, self._seen, self._attempt = shown.parts, 0, 0, shown.attempt

    def _status(self, status: Status, items: list[Item]) -> None:
        if status != self._told:
            self._told = status
            items.append(status)

    def _is_another(self, shown: Generation) -> bool:
        """Whether the rebuilt text turns out not to begin with the text that was given."""
        if not self._owed:
            return False
        new = _text(shown.parts[self._taken :])
        known = min(len(new), len(self._owed))
        return new[:known] != self._owed[:known] or (shown.end is not None and known < len(self._owed))

    def _new_parts(self, shown: Generation, items: list[Item]) -> None:
        new = shown.parts[self._taken :]
        self._taken = len(shown.parts)
        repeated, text = 0, ""
        for part in new:
            if isinstance(part, str):
                known = min(len(part), len(self._owed) - repeated)
                repeated += known
                text += part[known:]
                continue
            self._seen += 1
            if self._seen > self._data:
                self._data = self._seen
                text = _flush_text(text, items)
                items.append(Data(part["name"], part["value"], part.get("at")))
        self._owed = self._owed[repeated:]
        _flush_text(text, items)

    def _restart(self, items: list[Item]) -> None:
        self._seen = self._data = 0
        items.append(Restart())


def _status(shown: Generation | None, blocked_by: str, detail: str) -> Status | None:
    if blocked_by:
        return Status(blocked_by, detail)
    return Status(shown.state, shown.detail) if shown is not None else None


def _text(parts: list[str | FrameDict]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def _flush_text(text: str, items: list[Item]) -> str:
    """Append the text, if there is any; returns the empty rest."""
    if text:
        items.append(Text(text))
    return ""
