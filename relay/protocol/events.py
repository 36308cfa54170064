"""Events: what a session's log holds. Written by workers and scripts, forwarded by gateways, applied by clients.

An event's body is JSON without `session` and `seq`; the log knows both, and `live_frame` splices them in front, so
that the bytes a worker serialised travel to every viewer untouched.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

State = Literal["queued", "preparing", "thinking", "retrying"]


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
    reason: str


class Header(msgspec.Struct, frozen=True):
    """The fields of any event that a reader needs to follow, merge or drop it; unknown types decode too."""

    type: str
    generation: str | None = None
    attempt: int = 1
    index: int = 0
    count: int = 0
    text: str = ""
    state: str = ""


encode = msgspec.json.Encoder().encode
read_header = msgspec.json.Decoder(Header).decode


def live_frame(session: str, seq: int, body: bytes) -> bytes:
    """The frame of a live event: its body with `session` and `seq` spliced in front."""
    return b'{"session":"%s","seq":%d,' % (session.encode(), seq) + body[1:]
