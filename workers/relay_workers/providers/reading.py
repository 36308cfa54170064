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
    Text,
    TextComplete,
    checked_data,
    checked_usage,
)
from relay_workers.providers.event_stream import MAX_EVENT_BYTES, STRAY, EventStreamParser, EventTooBig, ServerEvent
from relay_workers.providers.failures import ErrorClassifier, classify_body, find_error

DRAIN_S = 0.25  # how long an answer whose last event has come waits for the end of its body, to reuse the connection
_MAX_CITATIONS = 256
MAX_CHUNK_BYTES = 64 * 1024  # as far as one read from the connection goes
_MAX_HEAD_BYTES = 1024  # of blanks before a body shows what it is
_BOM = b"\xef\xbb\xbf"

Field = Literal["reasoning", "content", "tool_call", "citation", "finish", "usage"]

# By these finish reasons a server says that the model behind it has failed.
FAILURES = frozenset(
    {
        "error", "network_error", "server_error", "internal_error", "internal_server_error", "upstream_error",
        "engine_overloaded", "engine_overloaded_error", "overloaded", "overloaded_error",
        "insufficient_system_resource", "malformed_function_call", "timeout", "abort", "aborted", "failed",
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


class StreamReader:
    """One answer, as far as its events have come. A subclass knows one API.

    `finish`: the model's own, while no text has followed it; `last_finish`: also when some has. `early`: text has
    followed a finish, so the next one may be early as well. `is_done`: the API's last event has come. `model`: the one
    that was asked for, until one is named.
    """

    def __init__(self, model: str, ignored: IgnoredFields) -> None:
        self.model = model
        self.finish: Finish | None = None
        self.early = False
        self.is_done = False
        self._ignored = ignored
        self._usage: dict[str, int] = {}
        self.last_finish: Finish = "other"
        self._cited: list[dict[str, Any]] = []
        self._events = 0

    def read(self, event: ServerEvent, *, pending: bool = False) -> list[Part]:
        """The event's parts. Raises ProviderError if it is malformed, or says that the model failed.

        `pending`: the stream ended before the event did, so it may be half an event.
        """
        if self.is_done:
            return []
        self._events += 1
        before = self.finish
        self.finish = None
        try:
            parts = self._event_parts(event)
        except (Malformed, ProviderError) as error:
            if isinstance(error, Malformed) and b"\n" in event.data:  # several events without a blank line between
                self.finish = before
                return [part for line in event.data.split(b"\n") for part in self.read(event._replace(data=line))]
            if before is not None:  # complete already: nothing that follows can spoil it
                self.finish = before
                return []
            if isinstance(error, ProviderError):
                raise
            if pending:
                return []
            raise ProviderError("provider_error", f"a malformed event: {error}", retryable=True) from error
        if before is not None:
            self._follow_finish(before, parts)
        self.last_finish = self.finish or self.last_finish
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
        parts += self._flush()
        if parts and self.finish is None:  # all of it is there, whatever it says
            self.finish = "other"
        self.is_done = True
        return parts

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

    def _done(self) -> list[Part]:
        """`[DONE]` has come."""
        self.is_done = True
        return []

    def _flush(self) -> list[Part]:
        """What is complete only now that nothing follows."""
        return []

    def _count_usage(self, usage: object, names: Mapping[str, str]) -> None:
        """Keep its numbers; the last of each name counts. `names`: theirs → ours, the one that counts most last."""
        if isinstance(usage, dict):
            self._usage |= counts(usage, names)
        elif usage is not None:
            self._ignored.add("usage")

    def _citation(self, citation: dict[str, Any] | None) -> list[Part]:
        """None where it has come before: some servers repeat all of them in each event."""
        if citation in self._cited:
            return []
        if citation is None or len(self._cited) >= _MAX_CITATIONS:
            self._ignored.add("citation")
            return []
        self._cited.append(citation)
        return data_parts("citation", citation, self._ignored)

    # The steps

    def _event_parts(self, event: ServerEvent) -> list[Part]:
        data = event.data.strip()
        if data.startswith(b"[DONE]"):
            return self._done()
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

    def _follow_finish(self, before: Finish, parts: list[Part]) -> None:
        """After an event that came behind the finish `before`."""
        if any(isinstance(part, Text) for part in parts):
            self.early = True
        elif self.finish is None:
            self.finish = before


def decode(data: bytes) -> object:
    """JSON as Python's own reader takes it, with halves of surrogate pairs, NaN and infinities.

    Raises ValueError; RecursionError if it nests too deep.
    """
    try:
        return _decode(data)
    except msgspec.DecodeError:
        value: object = json.loads(data)
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


async def read_answer(
    response: httpx2.Response, reader: StreamReader, tail_s: float, setting: str
) -> AsyncGenerator[Part, None]:
    """The answer's parts, Finished last. A failure after the finish loses what follows it, not the answer.

    `tail_s`: how long a complete answer waits for what follows it, its usage. `setting`: names the base URL in the log.
    Raises ProviderError.
    """
    try:
        async with aclosing(response.aiter_bytes()) as chunks:
            head = await head_of(chunks)
            match kind_of(head):
                case "page":
                    raise web_page(response, setting)
                case "json":
                    for part in _whole_parts(await body_of(head, chunks), reader):
                        yield part
                case "events":
                    async with aclosing(_stream(head, chunks, reader, tail_s)) as parts:
                        async for part in parts:
                            yield part
    except _ERRORS.errors as error:
        if reader.finish is None and not reader.is_done:
            raise _ERRORS.classify(error, streaming=True) from error
    yield reader.finished()


async def _stream(
    chunk: bytes, chunks: AsyncIterator[bytes], reader: StreamReader, tail_s: float
) -> AsyncGenerator[Part, None]:
    parser, until = EventStreamParser(), None
    while chunk:
        for event in feed(parser, chunk):
            for part in reader.read(event):
                yield part
        if len(chunk) > MAX_CHUNK_BYTES:  # unpacked: without a wait a thousand times as much may follow
            await asyncio.sleep(0)
        if reader.finish is None or reader.early:
            until = None
        elif until is None:
            yield TextComplete()
            until = timeouts.now() + tail_s
        if reader.is_done:
            until = min(until or math.inf, timeouts.now() + DRAIN_S)
        async with timeouts.timeout_at(until):
            chunk = await anext(chunks, b"")
    for event in parser.close():
        for part in reader.read(event, pending=True):
            yield part


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


async def head_of(chunks: AsyncIterator[bytes]) -> bytes:
    """The beginning of a body, up to the first byte that shows what it is; empty if there is none."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if (head.strip() and not _BOM.startswith(head)) or len(head) > _MAX_HEAD_BYTES:
            break
    return head


async def body_of(head: bytes, chunks: AsyncIterator[bytes]) -> bytes:
    """All of it."""
    body = bytearray(head)
    async for chunk in chunks:
        body += chunk
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
