"""Provider deltas become tokens here: the one place that repairs broken text, before anything counts or encodes it.

Model servers send JSON's `"\\ud83d"` in one delta and its other half in the next, and readers pass both on. Python
holds it as a str that breaks at the first `.encode()`, long after the delta's origin is forgotten.
"""

from __future__ import annotations

from relay.protocol.words import MAX_TOKEN_BYTES


class TextRepair:
    """Turns one stream's deltas into tokens; text and reasoning need one each.

    Every token is non-empty, encodes to UTF-8 and has at most MAX_TOKEN_BYTES of it. Joined, the tokens of all `feed`s
    and the last `flush` are the joined deltas, with U+FFFD for each half whose other half never came.
    """

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""  # a high surrogate that waits for the next delta

    def feed(self, delta: str) -> list[str]:
        """The tokens that this delta completes: usually one, none if it has no text yet, several if it is too big."""
        if not delta:
            return []
        if not self._half and delta.isascii() and len(delta) <= MAX_TOKEN_BYTES:
            return [delta]
        text = self._half + delta
        self._half = ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return _cut(text)

    def flush(self) -> list[str]:
        """The rest when the stream has ended: U+FFFD for a half without its other half, otherwise nothing."""
        if not self._half:
            return []
        self._half = ""
        return ["\ufffd"]


def _cut(text: str) -> list[str]:
    """The text in pieces of at most MAX_TOKEN_BYTES, cut at code points."""
    if not text:
        return []
    data = _encode(text)
    if len(data) <= MAX_TOKEN_BYTES:
        return [data.decode()]
    pieces = []
    start = 0
    while start < len(data):
        end = start + MAX_TOKEN_BYTES
        while end < len(data) and data[end] & 0xC0 == 0x80:  # a continuation byte: not the start of a code point
            end -= 1
        pieces.append(data[start:end].decode())
        start = end
    return pieces


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Through UTF-16, where halves are ordinary: it joins the pairs, and "replace" is one U+FFFD per lone half.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
