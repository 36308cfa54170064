"""An answer from the body of a response, piece by piece, for the reader of its API (reading.py)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Literal

import httpx2

from relay import timeouts
from relay_workers.providers.base import Part, ProviderError, TextComplete
from relay_workers.providers.event_stream import MAX_EVENT_BYTES, EventStreamParser, EventTooBig, ServerEvent
from relay_workers.providers.failures import ErrorClassifier
from relay_workers.providers.reading import StreamReader, decode

PIECE_BYTES = 16 * 1024  # read without a turn for others; some 100 events of a model
DRAIN_S = 0.25  # how long an answer whose last event has come waits for the end of its body, to reuse the connection

_BOM = b"\xef\xbb\xbf"
_ERRORS = ErrorClassifier()


class Answer:
    """A response's answer, read from its body. Not a generator: each token would pass through one more of them.

    `tail_s`: how long a complete answer waits for what follows it, its usage. `setting`: names the base URL in the log.
    """

    def __init__(self, response: httpx2.Response, reader: StreamReader, tail_s: float, setting: str) -> None:
        self._response = response
        self._reader = reader
        self._tail_s = tail_s
        self._setting = setting
        self._pieces = Pieces(response)
        self._parser: EventStreamParser | None = None  # until the body has begun
        self._until = self._drained = math.inf  # by timeouts.now; see `_piece`
        self._failure: ProviderError | None = None  # to be raised once what came before it was handed on
        self._at_end = self._is_over = False

    async def next(self) -> list[Part]:
        """The next parts; none after Finished, which is the last. A failure after the finish does not harm the answer.

        Raises ProviderError, after whatever came before it.
        """
        parts: list[Part] = []
        while not parts and not self._is_over:
            if self._failure is not None:
                raise self._failure
            if self._at_end:
                self._is_over = True
                finished = self._reader.finished()
                return [*self._reader.rest(), finished]
            try:
                await self._read(parts)
            except ProviderError as error:
                self._failure = error
            except _ERRORS.errors as error:
                if not self._reader.is_settled and not self._reader.is_done:
                    self._failure = _ERRORS.classify(error, streaming=True)
                    self._failure.__cause__ = error
                self._at_end = True
        return parts

    async def aclose(self) -> None:
        await self._pieces.aclose()

    async def _read(self, parts: list[Part]) -> None:
        """Read one piece of the body, and add its parts."""
        reader = self._reader
        if self._parser is None:
            self._parser = EventStreamParser()
            piece = await head_of(self._pieces)
            match kind_of(piece):
                case "page":
                    raise web_page(self._response, self._setting)
                case "json":
                    parts += _whole_parts(await body_of(piece, self._pieces), reader)
                    self._at_end = True
                    return
                case "events":
                    pass
        else:
            piece = await self._piece()
        for event in feed(self._parser, piece) if piece else self._parser.close():
            parts += reader.read(event, pending=not piece)
        if not piece:
            self._at_end = True
            return
        if (wait_s := reader.tail_s(self._tail_s)) is None:
            self._until = math.inf
        elif self._until == math.inf:
            parts.append(TextComplete())
            self._until = timeouts.now() + wait_s
        if reader.is_done and self._drained == math.inf:
            self._drained = timeouts.now() + DRAIN_S

    def _piece(self) -> Awaitable[bytes]:
        """The next one; empty at the end. Raises TimeoutError if a whole answer has waited long enough."""
        ends = min(self._until, self._drained)
        return self._pieces.next() if ends == math.inf else self._piece_before(ends)

    async def _piece_before(self, ends: float) -> bytes:
        async with timeouts.timeout_at(ends):
            return await self._pieces.next()


class Pieces:
    """A body, decoded, in pieces that leave the event loop its turns: a few bytes may unpack to megabytes."""

    def __init__(self, response: httpx2.Response) -> None:
        plain = "content-encoding" not in response.headers
        self._chunks = response.aiter_raw() if plain else response.aiter_bytes()
        self._chunk = b""  # one that is bigger than a piece
        self._taken = 0  # of it

    async def next(self) -> bytes:
        """The next piece; empty at the end. Raises what httpx2 raises."""
        if self._chunk:
            await asyncio.sleep(0)
        if self._taken >= len(self._chunk):
            self._chunk = b""
            try:
                chunk = await self._chunks.__anext__()
            except StopAsyncIteration:
                return b""
            if len(chunk) <= PIECE_BYTES:
                return chunk
            self._chunk, self._taken = chunk, 0
        piece = self._chunk[self._taken : self._taken + PIECE_BYTES]
        self._taken += PIECE_BYTES
        return piece

    async def aclose(self) -> None:
        await self._chunks.aclose()


def feed(parser: EventStreamParser, chunk: bytes) -> list[ServerEvent]:
    """The events that this chunk completes. Raises ProviderError if one is too big."""
    try:
        return parser.feed(chunk)
    except EventTooBig as error:
        raise ProviderError("provider_error", str(error), retryable=True) from error


def kind_of(head: bytes) -> Literal["page", "json", "events"]:
    """What a body is, by its first byte: content types lie."""
    match head.removeprefix(_BOM).lstrip()[:1]:
        case b"<":
            return "page"
        case b"{" | b"[":
            return "json"
        case _:
            return "events"


async def head_of(pieces: Pieces) -> bytes:
    """The beginning of a body, up to the first byte that shows what it is; empty if there is none."""
    head = b""
    while piece := await pieces.next():
        head += piece
        if not head.strip():
            head = head[-1:]  # blank lines mean nothing; the last may be half a line end
        elif not _BOM.startswith(head):
            return head
    return head


async def body_of(head: bytes, pieces: Pieces) -> bytes:
    """All of it."""
    body = bytearray(head)
    while piece := await pieces.next():
        body += piece
        if len(body) > MAX_EVENT_BYTES:
            raise ProviderError("provider_error", f"an answer of more than {MAX_EVENT_BYTES} bytes", retryable=True)
    return bytes(body.removeprefix(_BOM))


def _whole_parts(body: bytes, reader: StreamReader) -> list[Part]:
    """Of one JSON value, or of bare objects line by line, perhaps with events after them."""
    try:
        return reader.whole(decode(body))
    except (ValueError, RecursionError):
        parser = EventStreamParser()
        return [part for event in [*feed(parser, body), *parser.close()] for part in reader.read(event)]


def web_page(response: httpx2.Response, setting: str) -> ProviderError:
    detail = f"{setting}: HTTP {response.status_code} with a web page instead of an answer; does its path fit?"
    return ProviderError("provider_error", detail, retryable=False, misconfigured=True)
