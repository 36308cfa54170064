"""Reading an answer from the bytes of a response: what the readers of all model APIs share.

    response → event_stream.py → an event's JSON → the API's reader (openai_reading.py …) → parts

Readers know no I/O. Servers send whatever they like: what cannot be read is left out, counted and logged once, and
costs the answer only if it may have been text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from relay import logging, metrics
from relay.protocol.words import Finish
from relay_workers.providers.base import (
    Finished,
    Part,
    ProviderError,
    Reasoning,
    Text,
    checked_data,
    checked_usage,
)
from relay_workers.providers.event_stream import STRAY, ServerEvent
from relay_workers.providers.failures import classify_body, find_error

SHARED_TAIL_S = 15.0  # how long to wait behind a finish that came with text, in case more does
_MAX_CITATIONS = 256
_MAX_LINES = 1000  # that are read as an event each, where they are none together

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
        before = self.finish
        self.finish, self._grew, self._counted = None, False, False
        try:
            parts = self._event_parts(event)
        except (Malformed, ProviderError) as error:
            self.finish = before
            if isinstance(error, Malformed) and 0 < event.data.count(b"\n") < _MAX_LINES:
                return self._line_parts(event, pending=pending)
            if self.is_settled or (pending and isinstance(error, Malformed)):
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
        *lines, last = [ServerEvent(event.type, line) for line in event.data.split(b"\n")]
        parts = [part for line in lines for part in self.read(line)]
        return parts + self.read(last, pending=pending)

    def _note_finish(self, before: Finish | None, parts: list[Part]) -> None:
        """What an event means for the finish that came with it, and for the one before."""
        has_text, has_content = False, self._grew
        for part in parts:
            if isinstance(part, Text):
                has_text = has_content = True
            elif isinstance(part, Reasoning):
                has_content = True
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
