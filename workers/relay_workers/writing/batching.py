"""Batching: tokens in, batches out. Pure; `now_ms` is an argument.

A batch leaves when it has `size` tokens or when its oldest token is `linger_ms` old. Some leave at once: the first
token of an attempt, a data event with the tokens before it, and the rest at the end. Tokens that waited longer than
that waited for Redis; then one batch takes all of them, up to a byte cap, so that a slow Redis makes batches grow
instead of queueing up.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from relay.protocol.words import MAX_BATCH_BYTES

Kind = Literal["tokens", "reasoning", "data"]  # a "token" of data is a whole encoded event, in a batch of its own

# The rest of a batch's event: type, generation, attempt, index, count, session, seq.
_EVENT_OVERHEAD_BYTES = 512
_ROOM_BYTES = MAX_BATCH_BYTES - _EVENT_OVERHEAD_BYTES  # for a batch's tokens as JSON
_MOST_JSON_BYTES = 6  # that a byte of text becomes as JSON


def utf8_bytes(text: str) -> int:
    """How many bytes of UTF-8 it has."""
    return len(text) if text.isascii() else len(text.encode())


class Totals(NamedTuple):
    """An attempt's text so far: UTF-8 bytes and running CRC. Other kinds change neither."""

    text_bytes: int = 0
    crc32: int = 0

    def extended(self, kind: Kind, text: str) -> Totals:
        if kind != "tokens":
            return self
        encoded = text.encode()
        return Totals(self.text_bytes + len(encoded), zlib.crc32(encoded, self.crc32))


class Batch(msgspec.Struct, frozen=True):
    """Tokens that one flush appends together; `before` and `after` are the attempt's totals without and with them.

    A batch whose fate is unknown may be divided again and again, but never joined with other tokens. So if an earlier
    try turns out to have landed, the log stands at a boundary of what is sent.
    """

    kind: Kind
    attempt: int
    index: int
    texts: list[str]
    before: Totals
    after: Totals

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def own_bytes(self) -> int:
        """UTF-8 bytes of these tokens alone."""
        return len(self.text.encode())

    def split(self, count: int) -> tuple[Batch, Batch]:
        """The first `count` tokens and the others. Raises ValueError if either part would be empty."""
        if not 0 < count < len(self.texts):
            raise ValueError(f"a batch of {len(self.texts)} tokens cannot be split at {count}")
        head, rest = self.texts[:count], self.texts[count:]
        between = self.before.extended(self.kind, "".join(head))
        return (
            Batch(self.kind, self.attempt, self.index, head, self.before, between),
            Batch(self.kind, self.attempt, self.index + count, rest, between, self.after),
        )

    def singles(self) -> Iterator[Batch]:
        """Each token as a batch of its own, in order."""
        before = self.before
        for position, text in enumerate(self.texts):
            after = before.extended(self.kind, text)
            yield Batch(self.kind, self.attempt, self.index + position, [text], before, after)
            before = after


class _Token(msgspec.Struct, frozen=True, gc=False):
    kind: Kind
    text: str
    text_bytes: int
    at_ms: float


class Batcher:
    """One attempt's tokens, in order. Each kind counts by itself; only text is in the checksum."""

    def __init__(self, size: int, linger_ms: float, attempt: int = 1) -> None:
        self._size = size
        self._linger_ms = linger_ms
        self.begin(attempt)

    def begin(self, attempt: int) -> None:
        """Forget everything, and begin this attempt from its first token."""
        self._attempt = attempt
        self._pending: deque[_Token] = deque()
        self._pending_bytes = 0
        self._taken: dict[Kind, int] = {"tokens": 0, "reasoning": 0, "data": 0}
        self._waiting_data = 0
        self._totals = Totals()
        self._closed = False

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """UTF-8 bytes of the text and reasoning not yet taken."""
        return self._pending_bytes

    @property
    def crc32(self) -> int:
        """The checksum of the text that was taken or skipped."""
        return self._totals.crc32

    def add(self, kind: Kind, text: str, now_ms: float) -> None:
        text_bytes = utf8_bytes(text)
        self._pending.append(_Token(kind, text, text_bytes, now_ms))
        self._pending_bytes += text_bytes
        if kind == "data":
            self._waiting_data += 1

    def skip(self, kind: Kind, texts: list[str]) -> None:
        """Go on after these tokens: the log has them already. Call it before any `add` of their kind."""
        self._taken[kind] += len(texts)
        self._totals = self._totals.extended(kind, "".join(texts))

    def close(self) -> None:
        """No more tokens will come: the rest leaves at once."""
        self._closed = True

    def due_ms(self) -> float | None:
        """When the next batch may leave (if in the past: now); None while there is nothing."""
        if not self._pending:
            return None
        oldest = self._pending[0]
        at_once = self._waiting_data or self._closed or self._taken[oldest.kind] == 0
        if at_once or len(self._pending) >= self._size:
            return oldest.at_ms
        return oldest.at_ms + self._linger_ms

    def take(self, now_ms: float) -> Batch | None:
        """The next batch, if it may leave now. Tokens of two kinds never share a batch, nor do two data events."""
        due_ms = self.due_ms()
        if due_ms is None or now_ms < due_ms:
            return None
        late = now_ms - self._pending[0].at_ms >= self._linger_ms
        kind = self._pending[0].kind
        most = 1 if kind == "data" else len(self._pending) if late else self._size
        texts = self._take_texts(kind, most)
        if kind == "data":
            self._waiting_data -= 1
        index, before = self._taken[kind], self._totals
        self._taken[kind] += len(texts)
        self._totals = before.extended(kind, "".join(texts))
        return Batch(kind, self._attempt, index, texts, before, self._totals)

    def _take_texts(self, kind: Kind, most: int) -> list[str]:
        """At least one."""
        pending, room = self._pending, _ROOM_BYTES
        texts: list[str] = []
        must_measure = _MOST_JSON_BYTES * self._pending_bytes + 2 * len(pending) > room  # hardly ever
        while pending and len(texts) < most:
            token = pending[0]
            if token.kind != kind:
                break
            if must_measure:
                room -= len(msgspec.json.encode(token.text))
                if texts and room < 0:
                    break
            pending.popleft()
            texts.append(token.text)
            self._pending_bytes -= token.text_bytes
        return texts
