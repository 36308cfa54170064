"""Reading an answer from the bytes of a response: what the readers of all model APIs share.

    response → event_stream.py → an event's JSON → the API's reader (openai_reading.py …) → parts

Readers know no I/O. Servers send whatever they like: what cannot be read is left out, counted and logged once, and
costs the answer only if it may have been text.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Literal

import httpx2
import msgspec

from relay import logging, metrics, timeouts
from relay.protocol.words import Finish
from relay_workers.providers.base import (
    Finished,
    Part,
    ProviderError,
    Reasoning,
    Text,
    TextComplete,
    checked_data,
    checked_usage,
)
from relay_workers.providers.event_stream import MAX_EVENT_BYTES, STRAY, EventStreamParser, EventTooBig, ServerEvent
from relay_workers.providers.failures import ErrorClassifier, classify_body, find_error

SHARED_TAIL_S = 15.0  # how long to wait behind a finish that came with text, in case more does
DRAIN_S = 0.25  # how long an answer whose last event has come waits for the end of its body, to reuse the connection
_MAX_CITATIONS = 256
PIECE_BYTES = 16 * 1024  # read without a turn for others; some 100 events of a model
_MAX_LINES = 1000  # that are read as an event each, where they are none together
_BOM = b"\xef\xbb\xbf"

Field = Literal["reasoning", "content", "tool_call", "citation", "finish", "usage"]

# By these finish reasons a server says that the model behind it has failed.
FAILURES = frozenset(
    {
        "error", "network_error", "server_error", "internal_error",
        "engine_overloaded", "engine_overloaded_error", "overloaded", "overloaded_error",
        "insufficient_system_resource", "malformed_function_call", "timeout", "abort", "failed",
    }
)  # fmt: skip

# Theirs → ours, the one that counts most last.
USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
}

logger = logging.get_logger("providers")

_ERRORS = ErrorClassifier()
_decode = msgspec.json.Decoder().decode


class Malformed(Exception):
    """An event that cannot be read, and may have held text."""


class IgnoredFields:
    """One provider's fields that could not be read."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._logged: set[Field] = set()

    def add(self, field: Field) -> None:
        metrics.provider_fields_ignored.labels(self._provider, field).inc()
        if field not in self._logged:
            self._logged.add(field)
            logger.warning("field_ignored", provider=self._provider, field=field)


class Citations:
    """An answer's citations, each shown once: some servers repeat all of them in each event."""

    def __init__(self, ignored: IgnoredFields) -> None:
        self._ignored = ignored
        self._seen: set[int] = set()

    def parts(self, found: object) -> list[Part]:
        """Of one citation or a list of them; objects, and URLs by themselves."""
        parts: list[Part] = []
        for citation in (found if isinstance(found, list) else [found])[:_MAX_CITATIONS]:
            parts += self._parts({"url": citation} if isinstance(citation, str) and citation else citation)
        return parts

    def _parts(self, citation: object) -> list[Part]:
        if not isinstance(citation, dict) or len(self._seen) >= _MAX_CITATIONS:
            self._ignored.add("citation")
            return []
        if not (parts := data_parts("citation", citation, self._ignored)):
            return []
        seen = hash(msgspec.json.encode(citation))
        if seen in self._seen:
            return []
        self._seen.add(seen)
        return parts


class StreamReader:
    """One answer, as far as its events have come. A subclass knows one API.

    `finish`: the model's own, while no text has followed it; `last_finish`: also when some has. `early`: something has
    followed a finish, so the next one may be early as well. `is_done`: the API's last event has come. `model`: the one
    that was asked for, until one is named.
    """

    def __init__(self, model: str, ignored: IgnoredFields) -> None:
        self.model = model
        self.finish: Finish | None = None
        self.last_finish: Finish = "other"
        self.early = False
        self.is_done = False
        self._stands_alone = False  # the finish: no text came in its event
        self._has_said = False
        self._grew = self._counted = False  # a tool call; the usage: by the event that is being read
        self._ignored = ignored
        self._usage: dict[str, int] = {}
        self._cited = Citations(ignored)
        self._events = 0

    @property
    def is_settled(self) -> bool:
        """Whether the answer is whole, whatever fails from now on.

        Where finishes come early, one that shares its event with text proves nothing, until the usage follows it.
        """
        return self.finish is not None and (self._stands_alone or not self.early)

    def tail_s(self, alone_s: float) -> float | None:
        """How long to wait for what follows; None: until the body ends, by the deadlines of tokens.

        `alone_s`: behind a finish that stands alone. One that does not may be the first of many, as may one before
        anything was said.
        """
        if self.finish is None or self.early or (self.finish == "stop" and not self._has_said):
            return None
        return alone_s if self._stands_alone else max(alone_s, SHARED_TAIL_S)

    def read(self, event: ServerEvent, *, pending: bool = False) -> list[Part]:
        """The event's parts. Raises ProviderError if it is malformed, or says that the model failed.

        `pending`: the stream ended before the event did, so it may be half an event.
        """
        if self.is_done:
            return []
        self._events += 1
        before, was_settled = self.finish, self.is_settled
        self.finish, self._grew, self._counted = None, False, False
        try:
            parts = self._event_parts(event)
        except (Malformed, ProviderError) as error:
            self.finish = before
            if isinstance(error, Malformed) and 0 < event.data.count(b"\n") < _MAX_LINES:
                return self._line_parts(event, pending=pending)
            if was_settled or (pending and isinstance(error, Malformed)):
                return []  # nothing can spoil a whole answer
            if isinstance(error, ProviderError):
                raise
            raise ProviderError("provider_error", f"a malformed event: {error}", retryable=True) from error
        self._note_finish(before, parts)
        return parts

    def whole(self, answer: object) -> list[Part]:
        """The parts of an answer that came as one JSON value, where a stream was asked for. Raises ProviderError."""
        parts: list[Part] = []
        for value in answer if isinstance(answer, list) else [answer]:
            self._events += 1
            try:
                parts += self._value_parts(value, "message")
            except Malformed as error:
                raise ProviderError("provider_error", f"a malformed answer: {error}", retryable=True) from error
        if (parts or self._grew) and self.finish is None:  # all of it is there, whatever it says
            self.finish = "other"
        self.is_done = True
        return parts

    def rest(self) -> list[Part]:
        """What is known to be whole only once the answer is: tool calls that nothing has followed."""
        return []

    def finished(self) -> Finished:
        """The last part. Raises ProviderError("truncated") if no finish came."""
        if self.finish is None:
            what = f"the stream ended without a finish, after {self._events} events"
            raise ProviderError("truncated", what, retryable=True)
        return Finished(self.finish, self.model, checked_usage(self._usage))

    # For subclasses

    def _parts(self, value: dict[str, Any], event: str) -> list[Part]:
        """What one JSON object says. Raises Malformed, ProviderError."""
        raise NotImplementedError

    def _done(self) -> None:
        """`[DONE]` has come."""
        self.is_done = True

    def _count_usage(self, usage: object, names: Mapping[str, str]) -> None:
        """Keep its numbers; the last of each name counts. `names`: theirs → ours, the one that counts most last."""
        if isinstance(usage, dict):
            self._usage |= counts(usage, names)
            self._counted = True
        elif usage is not None:
            self._ignored.add("usage")

    # The steps

    def _event_parts(self, event: ServerEvent) -> list[Part]:
        data = event.data.strip()
        if data.startswith(b"[DONE]"):
            self._done()
            return []
        if not data:
            return []
        try:
            value = decode(data)
        except (ValueError, RecursionError) as error:
            if event.type in ("error", STRAY):
                raise classify_body("error event", None) from error
            raise Malformed(type(error).__name__) from error
        return self._value_parts(value, event.type)

    def _value_parts(self, value: object, event: str) -> list[Part]:
        if (error := find_error(value, event)) is not None:
            raise classify_body("error event", error)
        if not isinstance(value, dict):
            raise Malformed(f"an object expected, got {type(value).__name__}")
        return self._parts(value, event)

    def _line_parts(self, event: ServerEvent, *, pending: bool) -> list[Part]:
        """Of several events without a blank line between them."""
        *lines, last = [event._replace(data=line) for line in event.data.split(b"\n")]
        parts = [part for line in lines for part in self.read(line)]
        return parts + self.read(last, pending=pending)

    def _note_finish(self, before: Finish | None, parts: list[Part]) -> None:
        """What an event means for the finish that came with it, and for the one before."""
        has_text = any(isinstance(part, Text) for part in parts)
        has_content = has_text or self._grew or any(isinstance(part, Reasoning) for part in parts)
        self._has_said = self._has_said or has_content
        if before is not None and has_content:
            self.early, self._stands_alone = True, False
        if self.finish is not None:
            self.last_finish, self._stands_alone = self.finish, not has_content
        elif not has_text:
            self.finish = before
            self._stands_alone = self._stands_alone or (self._counted and not has_content)


def decode(data: bytes) -> object:
    """JSON as Python's own reader takes it, with halves of surrogate pairs, NaN and infinities.

    Raises ValueError; RecursionError if it nests too deep.
    """
    try:
        return _decode(data)
    except msgspec.DecodeError:
        pass
    try:
        value: object = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:  # a number with more digits than Python reads
        raise json.JSONDecodeError(type(error).__name__, "", 0) from None
    return value


def data_parts(name: Literal["tool_call", "citation"], value: object, ignored: IgnoredFields) -> list[Part]:
    """One data part; none if no client could take it."""
    try:
        return [checked_data(name, value)]
    except ProviderError:
        ignored.add(name)
        return []


def normal_reason(said: object) -> str:
    """A finish reason in lower case; the last word where a gateway puts its own before it; empty if it is no text."""
    return said.lower().replace("-", "_").rpartition(": ")[2] if isinstance(said, str) else ""


def counts(usage: dict[str, Any], names: Mapping[str, str]) -> dict[str, int]:
    """The numbers that can be read. `names`: theirs → ours, the one that counts most last."""
    found = ((ours, whole_number(usage.get(theirs))) for theirs, ours in names.items())
    return {ours: count for ours, count in found if count is not None}


def whole_number(value: object) -> int | None:
    """A count as servers write it: a number, or its digits as a string."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 17:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**53 else None


class Answer:
    """A response's answer, read from its body. Not a generator: each token would pass through one more of them.

    `tail_s`: how long a complete answer waits for what follows it, its usage. `setting`: names the base URL in the log.
    """

    def __init__(self, response: httpx2.Response, reader: StreamReader, tail_s: float, setting: str) -> None:
        self._response = response
        self._reader = reader
        self._tail_s = tail_s
        self._setting = setting
        self._pieces = pieces_of(response)
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

    async def _piece(self) -> bytes:
        """The next one; empty at the end. Raises TimeoutError if a whole answer has waited long enough."""
        ends = min(self._until, self._drained)
        if ends == math.inf:
            return await anext(self._pieces, b"")
        async with timeouts.timeout_at(ends):
            return await anext(self._pieces, b"")


async def pieces_of(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The body, decoded, in pieces that leave the event loop its turns: a few bytes may unpack to megabytes.

    Raises what httpx2 raises.
    """
    async with aclosing(response.aiter_bytes()) as chunks:
        async for chunk in chunks:
            if len(chunk) <= PIECE_BYTES:
                yield chunk
                continue
            for start in range(0, len(chunk), PIECE_BYTES):
                yield chunk[start : start + PIECE_BYTES]
                await asyncio.sleep(0)


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


async def head_of(pieces: AsyncIterator[bytes]) -> bytes:
    """The beginning of a body, up to the first byte that shows what it is; empty if there is none."""
    head = b""
    async for piece in pieces:
        head += piece
        if not head.strip():
            head = head[-1:]  # blank lines mean nothing; the last may be half a line end
        elif not _BOM.startswith(head):
            return head
    return head


async def body_of(head: bytes, pieces: AsyncIterator[bytes]) -> bytes:
    """All of it."""
    body = bytearray(head)
    async for piece in pieces:
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
