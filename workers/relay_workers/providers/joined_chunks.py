"""A response's chunked body: all chunks that came with one read are handed on together.

Models send a chunk per token. Each costs more in the layers of the HTTP client than in everything of ours; and a busy
worker finds several in one read.
"""

from __future__ import annotations

from typing import Any

import h11
import httpx2

# From a response of httpx2 (2.16) to h11's connection (0.16).
_WAY = ("stream", "_stream", "_httpcore_stream", "_stream", "_connection", "_h11_state")


def install(response: httpx2.Response) -> None:
    """For a response whose body has not been read. Where the way is another, as over HTTP/2, nothing is changed."""
    found: Any = response
    for name in _WAY:
        found = getattr(found, name, None)
    reader = getattr(found, "_reader", None)
    if type(reader).__name__ == "ChunkedReader":
        found._reader = JoinedChunks(reader)


class JoinedChunks:
    """As h11's reader of a chunked body, which it uses; but it reads on while there are chunks."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.read_eof = reader.read_eof
        self._next: Any = None  # what came behind the data: an event, or an error to raise

    def __call__(self, buffer: Any) -> Any:
        event, self._next = self._next or self._one(buffer), None
        pieces: list[Any] = []
        while isinstance(event, h11.Data):
            pieces.append(event.data)
            event = self._one(buffer)
        if pieces:
            self._next = event
            return h11.Data(data=b"".join(pieces))
        if isinstance(event, Exception):
            raise event
        return event

    def _one(self, buffer: Any) -> Any:
        try:
            return self._reader(buffer)
        except h11.LocalProtocolError as error:
            return error
