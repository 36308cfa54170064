"""Batching: tokens in, batches out. Pure; `now_ms` is an argument.

A batch leaves when it has `size` tokens, when its oldest token is `linger_ms` old, or at once: the first token of an
attempt, and whatever is left at the end. Tokens that waited longer than that waited for Redis; then the batch takes
all of them, up to a byte cap: batches grow under a slow Redis, they do not queue up one by one.
"""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from relay.protocol.words import MAX_BATCH_BYTES

Kind = Literal["tokens", "reasoning"]

# Of a batch's event around its text: type, generation, attempt, index, count, session, seq.
_AROUND_BYTES = 512


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens that one flush appends together. `text_bytes` and `crc32` are the attempt's, with this batch."""

    kind: Kind
    index: int
    texts: list[str]
    text_bytes: int
    crc32: int

    @property
    def text(self) -> str:
        return "".join(self.texts)


class _Token(NamedTuple):
    kind: Kind
    text: str
    encoded_bytes: int
    at_ms: float


class Batcher:
    """One attempt's tokens, in order. Reasoning counts by itself, and is in no checksum."""

    def __init__(self, size: int, linger_ms: float) -> None:
        self._size = size
        self._linger_ms = linger_ms
        self._pending: deque[_Token] = deque()
        self._taken: dict[Kind, int] = {"tokens": 0, "reasoning": 0}
        self._text_bytes = 0
        self._crc32 = 0
        self._closed = False

    @property
    def count(self) -> int:
        """Text tokens taken into batches so far."""
        return self._taken["tokens"]

    @property
    def pending(self) -> int:
        return len(self._pending)

    def add(self, kind: Kind, text: str, now_ms: float) -> None:
        plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
        encoded = len(text) if plain else len(msgspec.json.encode(text))
        self._pending.append(_Token(kind, text, encoded + 2, now_ms))

    def close(self) -> None:
        """No more tokens will come: what is left leaves at once."""
        self._closed = True

    def due_ms(self) -> float | None:
        """When the next batch may leave; None while there is nothing. In the past: now."""
        if not self._pending:
            return None
        first = self._taken[self._pending[0].kind] == 0
        if first or self._closed or len(self._pending) >= self._size:
            return self._pending[0].at_ms
        return self._pending[0].at_ms + self._linger_ms

    def take(self, now_ms: float) -> Batch | None:
        """The next batch if it may leave now. Tokens of two kinds never share one."""
        due_ms = self.due_ms()
        if due_ms is None or now_ms < due_ms:
            return None
        late = now_ms - self._pending[0].at_ms >= self._linger_ms
        kind, room = self._pending[0].kind, MAX_BATCH_BYTES - _AROUND_BYTES
        texts: list[str] = []
        while self._pending and self._pending[0].kind == kind and (late or len(texts) < self._size):
            room -= self._pending[0].encoded_bytes
            if texts and room < 0:
                break
            texts.append(self._pending.popleft().text)
        index = self._taken[kind]
        self._taken[kind] += len(texts)
        if kind == "tokens":
            encoded = "".join(texts).encode()
            self._text_bytes += len(encoded)
            self._crc32 = zlib.crc32(encoded, self._crc32)
        return Batch(kind, index, texts, self._text_bytes, self._crc32)
