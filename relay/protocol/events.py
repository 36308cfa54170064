"""Events: what a session's log holds. Written by workers and scripts, forwarded by gateways, applied by clients.

An event's body is JSON without `session` and `seq`. The log knows both, and `live_frame` splices them in front, so that
the bytes that a worker encoded reach every viewer unchanged.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from relay.protocol.words import FailureCode, Finish, RestartReason
from relay.protocol.words import State as State

# The names of the events below. An event of a later release may have another `type`.
EventType = Literal["message", "status", "tokens", "reasoning", "data", "restart", "end"]
_TYPES: dict[str, EventType] = {name: name for name in get_args(EventType)}


class Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    pass


class Message(Event, frozen=True, tag="message"):
    message_id: str
    role: str
    content: str
    generation: str


class Status(Event, frozen=True, tag="status"):
    generation: str
    attempt: int
    state: State
    detail: str | None = None


class Tokens(Event, frozen=True, tag="tokens"):
    generation: str
    attempt: int
    index: int
    count: int
    text: str


class Reasoning(Event, frozen=True, tag="reasoning"):
    generation: str
    attempt: int
    index: int
    count: int
    text: str


class Data(Event, frozen=True, tag="data"):
    generation: str
    attempt: int
    name: str
    value: Any
    at: int | None = None


class Restart(Event, frozen=True, tag="restart"):
    generation: str
    attempt: int
    reason: RestartReason


class Timings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Milliseconds since the answer was accepted, by Redis' clock; None: that was never reached."""

    total: int
    queued: int | None = None
    first_token: int | None = None


class Usage(msgspec.Struct, frozen=True):
    input_tokens: int
    output_tokens: int


class Failure(msgspec.Struct, frozen=True):
    """Why an answer failed; `code` is a FailureCode, or a code of a later release."""

    code: str
    message: str
    retryable: bool


class EndMembers(msgspec.Struct, frozen=True, omit_defaults=True):
    """The members of an `end` that only its writer knows. The log adds the rest (`end_generation` in Lua)."""

    finish: Finish | None = None
    provider: str | None = None
    model: str | None = None
    usage: Usage | None = None
    message_id: str | None = None
    error: Failure | None = None


class End(Event, frozen=True, tag="end"):
    """The last event of its generation, as scripts write it; after `timings_ms` come the EndMembers.

    Its words may come from a later release, so they are plain strings here.
    """

    generation: str
    attempt: int
    reason: str  # a Reason
    count: int
    text_bytes: int
    crc32: int
    timings_ms: Timings
    finish: str | None = None  # a Finish
    provider: str | None = None
    model: str | None = None
    usage: Usage | None = None
    message_id: str | None = None
    error: Failure | None = None

    @property
    def why(self) -> str:
        """Why the answer is not complete, in words; with the code, for looking it up."""
        return f"{self.error.message} ({self.error.code})" if self.error is not None else self.reason


AnyEvent = Message | Status | Tokens | Reasoning | Data | Restart | End


class Header(msgspec.Struct, frozen=True):
    """The fields of an event that a reader needs to follow, merge or drop it. Unknown types decode, too."""

    type: str
    generation: str | None = None
    attempt: int = 1
    index: int = 0
    count: int = 0
    text: str = ""
    state: str = ""


encode = msgspec.json.Encoder().encode
read_header = msgspec.json.Decoder(Header).decode


def known(event_type: str) -> EventType | None:
    """The type itself, if this release knows it."""
    return _TYPES.get(event_type)


def end_of(frame: dict[str, Any]) -> End:
    """An `end` that came as a frame, or inside one."""
    return msgspec.convert(frame, End)


def completed(provider: str | None, finish: Finish, model: str | None, usage: Usage | None, message_id: str) -> bytes:
    """The members of an `end` with `complete`."""
    return encode(EndMembers(finish, provider, model, usage, message_id))


def failed(code: FailureCode, message: str, *, retryable: bool, provider: str | None = None) -> bytes:
    """The members of an `end` with `failed`; `provider`: the one asked last."""
    return encode(EndMembers(provider=provider, error=Failure(code, message, retryable)))


STOPPED = encode(EndMembers())  # the members of an `end` with `stopped`


def live_frame(session: str, seq: int, body: bytes) -> bytes:
    """The frame of a live event: its body with `session` and `seq` spliced in front."""
    return b'{"session":"%s","seq":%d,' % (session.encode(), seq) + body[1:]
