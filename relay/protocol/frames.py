"""Frames, server → client: all except live events, whose bytes come from the log (see events.py)."""

from __future__ import annotations

from typing import Any

import msgspec


class Frame(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", kw_only=True):
    pass


class Welcome(Frame, frozen=True, kw_only=True, tag="welcome"):
    id: str | None = None
    connection: str
    protocol: str
    heartbeat_s: float
    limits: dict[str, float]
    features: list[str] = []
    expires_at: float | None = None


class Refreshed(Frame, frozen=True, kw_only=True, tag="refreshed"):
    id: str | None = None
    expires_at: float | None = None


class TokenExpiring(Frame, frozen=True, kw_only=True, tag="token_expiring"):
    expires_in_s: float


class Active(msgspec.Struct, frozen=True):
    """A generation that has not ended; `state` is its last status, or `streaming` after the first token."""

    generation: str
    attempt: int
    state: str


class Subscribed(Frame, frozen=True, kw_only=True, tag="subscribed"):
    id: str | None = None
    session: str
    epoch: str
    at: int
    head: int
    recovered: bool
    active: list[Active]
    ignored: list[str] | None = None  # of the submit that this event stream answers


class Unsubscribed(Frame, frozen=True, kw_only=True, tag="unsubscribed"):
    id: str | None = None
    session: str


class Accepted(Frame, frozen=True, kw_only=True, tag="accepted"):
    id: str | None = None
    session: str
    generation: str
    duplicate: bool
    ignored: list[str] | None = None


class Stopping(Frame, frozen=True, kw_only=True, tag="stopping"):
    id: str | None = None
    session: str
    generation: str
    already_ended: bool


class Pong(Frame, frozen=True, kw_only=True, tag="pong"):
    id: str | None = None
    t: Any = None


class Heartbeat(Frame, frozen=True, kw_only=True, tag="heartbeat"):
    pass


class Draining(Frame, frozen=True, kw_only=True, tag="draining"):
    reconnect_in_ms: int


class Degraded(Frame, frozen=True, kw_only=True, tag="degraded"):
    session: str


class Restored(Frame, frozen=True, kw_only=True, tag="restored"):
    session: str


class ErrorFrame(Frame, frozen=True, kw_only=True, tag="error"):
    id: str | None = None
    code: str
    message: str
    retryable: bool
    retry_after_s: float | None = None
    session: str | None = None


class Catchup(Frame, frozen=True, kw_only=True, tag="catchup", rename={"from_seq": "from"}):
    """All events from `from` to `seq`, compacted; each is the JSON body of an event."""

    session: str
    from_seq: int
    seq: int
    events: list[msgspec.Raw]


encode = msgspec.json.Encoder().encode
