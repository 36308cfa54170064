"""Compaction: turns many events into few, with the same text for every viewer. Pure.

Used for replay, for late joiners, and for what a slow reader has not taken yet. The rules are in docs/protocol.md,
section 4: tokens (and reasoning) of one generation and attempt merge into the first of them, but never across its
`data`, so that this keeps its position. Overtaken statuses are dropped, and a `restart` drops what it voids. Everything
else passes unchanged, also events of a type that this release does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from relay.protocol import events, frames
from relay.protocol.events import Header

# Of one catch-up frame around its events: type, session (128), two seqs, punctuation.
_FRAME_OVERHEAD_BYTES = 280
# Of a merged event around its text, beyond that of its first part: the digits by which index and count may grow.
_GROWTH_BYTES = 24
_COMMA_BYTES = 1
# Server-Sent Events escape these, and a frame's bound is the same on every transport.
_ESCAPED = [(char.encode(), 6 - len(char.encode())) for char in "\x85\u2028\u2029"]  # none of them is ASCII
_TEXT = {"tokens": events.Tokens, "reasoning": events.Reasoning}


def _size(body: bytes) -> int:
    """Bytes of an event on the transport where it is largest."""
    if body.isascii():
        return len(body)
    return len(body) + sum(body.count(raw) * more for raw, more in _ESCAPED)


class _MergedEvent:
    """One event of the frame being built; `texts` holds the parts of a merged one."""

    __slots__ = ("body", "count", "header", "size", "texts")

    def __init__(self, header: Header, body: bytes) -> None:
        self.header = header
        self.body = body
        self.size = _size(body) + _COMMA_BYTES
        self.texts: list[str] = []
        self.count = header.count

    def merge(self, header: Header) -> int:
        """Add the next part; returns the bytes by which the event grew."""
        if not self.texts:
            self.texts.append(self.header.text)
            self.size += _GROWTH_BYTES
        self.texts.append(header.text)
        self.count += header.count
        grown = _size(events.encode(header.text)) - 2  # without its quotes
        self.size += grown
        return grown

    def encoded(self) -> bytes:
        if not self.texts:
            return self.body
        header = self.header
        merged = _TEXT[header.type](
            header.generation or "", header.attempt, header.index, self.count, "".join(self.texts)
        )
        return events.encode(merged)


class Compactor:
    """Builds one catch-up at a time from events in order; `size` is an upper bound of its encoded bytes."""

    def __init__(self) -> None:
        self.size = _FRAME_OVERHEAD_BYTES
        self._slots: dict[int, _MergedEvent] = {}  # by a running number: ordered, and cheap to delete from
        self._next = 0
        # (type, generation, attempt) → the slot that its next part joins
        self._open: dict[tuple[str, str, int], int] = {}
        self._status: dict[str, int] = {}  # generation → its status, not overtaken yet
        self._restart: dict[str, int] = {}  # generation → its last restart
        self._of: dict[str, list[int]] = {}  # generation → its slots that a restart would void

    def __bool__(self) -> bool:
        return bool(self._slots)

    def fits(self, body: bytes, max_bytes: int) -> bool:
        """Whether one more event surely stays within `max_bytes`."""
        return self.size + _size(body) + _GROWTH_BYTES + _COMMA_BYTES <= max_bytes

    def all_fit(self, bodies: list[bytes], max_bytes: int) -> bool:
        """Whether all of these surely do."""
        more = sum(_size(body) + _GROWTH_BYTES + _COMMA_BYTES for body in bodies)
        return self.size + more <= max_bytes

    def add(self, body: bytes) -> None:
        header = events.read_header(body)
        generation = header.generation
        if generation is None or header.type == "message":
            self._put(header, body)
            return
        if header.type in ("status", "tokens", "restart", "end"):
            self._drop(self._status.pop(generation, None))
        if header.type == "restart":
            self._void(generation)
        key = (header.type, generation, header.attempt)
        if header.type in _TEXT and key in self._open:
            slot = self._slots[self._open[key]]
            before = slot.size
            slot.merge(header)
            self.size += slot.size - before
            return
        number = self._put(header, body)
        if header.type in _TEXT:
            self._open[key] = number
        elif header.type == "data":
            for kind in _TEXT:
                self._open.pop((kind, generation, header.attempt), None)
        if header.type == "status":
            self._status[generation] = number
        elif header.type == "restart":
            self._restart[generation] = number
        else:
            self._of.setdefault(generation, []).append(number)

    def events(self) -> list[msgspec.Raw]:
        return [msgspec.Raw(slot.encoded()) for slot in self._slots.values()]

    def _put(self, header: Header, body: bytes) -> int:
        number = self._next
        self._next += 1
        slot = self._slots[number] = _MergedEvent(header, body)
        self.size += slot.size
        return number

    def _drop(self, number: int | None) -> None:
        slot = self._slots.pop(number, None) if number is not None else None
        if slot is not None:
            self.size -= slot.size

    def _void(self, generation: str) -> None:
        self._drop(self._restart.pop(generation, None))
        for number in self._of.pop(generation, []):
            self._drop(number)
        self._open = {key: number for key, number in self._open.items() if key[1] != generation}


def compacted(bodies: Iterable[bytes]) -> list[bytes]:
    """Events in order, compacted. Compacting the result again with others gives the same as compacting all at once."""
    compactor = Compactor()
    for body in bodies:
        compactor.add(body)
    return [bytes(body) for body in compactor.events()]


def catchups(
    session: str, after: int, entries: Iterable[tuple[int, bytes]], upto: int, max_bytes: int
) -> Iterator[frames.Catchup]:
    """The events after `after`, up to `upto`, as consecutive frames of at most `max_bytes`.

    `entries` are (seq, body) in order. Missing seqs were trimmed; the frame around them covers them.
    """
    packer = Packer(session, after, max_bytes)
    for seq, body in entries:
        if (frame := packer.add(seq, body)) is not None:
            yield frame
    if (frame := packer.close(upto)) is not None:
        yield frame


class Packer:
    """Feeds a Compactor, and cuts a frame where the next event would not fit; for entries that come in pages."""

    def __init__(self, session: str, after: int, max_bytes: int) -> None:
        self._session = session
        self._max_bytes = max_bytes
        self._from = after + 1
        self._last = after
        self._compactor = Compactor()

    def add(self, seq: int, body: bytes) -> frames.Catchup | None:
        """Add one event; returns the frame before it if that is full."""
        full = None
        if self._compactor and not self._compactor.fits(body, self._max_bytes):
            full = self._cut(self._last)
        self._compactor.add(body)
        self._last = seq
        return full

    def take(self, seq: int, bodies: list[bytes]) -> bool:
        """Add what several events up to `seq` were compacted to, if all of it fits; returns whether it did."""
        if not self._compactor.all_fit(bodies, self._max_bytes):
            return False
        for body in bodies:
            self._compactor.add(body)
        self._last = seq
        return True

    def close(self, upto: int) -> frames.Catchup | None:
        """The last frame, which covers everything up to `upto`; None if there is nothing to cover."""
        return self._cut(upto) if upto >= self._from else None

    def _cut(self, seq: int) -> frames.Catchup:
        frame = frames.Catchup(session=self._session, from_seq=self._from, seq=seq, events=self._compactor.events())
        self._compactor = Compactor()
        self._from = seq + 1
        return frame
