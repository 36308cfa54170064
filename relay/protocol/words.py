"""The words of the wire, each with one meaning (docs/glossary.md has all words of the project).

session     one conversation, with one append-only log of events
generation  one model answer inside a session, made by one job; ends in exactly one `end` event
attempt     counts from 1; rises only with a `restart`, which voids the text of the lower attempts
token       one text delta as the provider sent it; batches and indexes count tokens
batch       the tokens that one flush appended together, in one `tokens` or `reasoning` event
seq         the place of an event in its log: 1, 2, 3 … without gaps; lets a client prove order
epoch       names one history of a log. When Redis has lost data, seqs may be given twice; then a new epoch begins
head        the last seq of a log
cursor      {epoch, seq}: the last event that a client has applied; all that it needs to resume
frame       one message from gateway to client: a live event, a catch-up, or a reply
catch-up    a frame that carries all events from one seq to another at once, compacted
gap         a frame does not start where the last one ended: the client subscribes again with its cursor
"""

from __future__ import annotations

import re
import secrets
from typing import Literal, get_args

import msgspec

MAX_SEQ = 2**53 - 1  # JavaScript's largest safe integer: browsers count seqs as numbers

MAX_TOKEN_BYTES = 16 * 1024
MAX_BATCH_BYTES = 128 * 1024  # encoded; so that no single event exceeds a frame
MAX_FRAME_BYTES = 256 * 1024
MAX_DATA_BYTES = 128 * 1024

SESSION = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.:-]{1,128}\Z")
QUEUE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
EPOCH = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
GENERATION = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
REQUEST_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,128}\Z")

# Each closed set of words, once. Code that lists one derives it from here; code that branches on one ends in
# assert_never, so that mypy finds each place that a new member concerns.
FEATURES = ("options",)  # what a gateway has beyond the first release of relay.v1, as `welcome` names it
Priority = Literal["high", "normal", "low"]  # in the order in which workers take jobs
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
Role = Literal["system", "user", "assistant"]
Start = Literal["start", "live"]
State = Literal["queued", "preparing", "thinking", "retrying"]
RestartReason = Literal["worker_lost", "provider_failed"]
Reason = Literal["complete", "stopped", "failed", "invalid"]
Finish = Literal["stop", "length", "filter", "other"]
FailureCode = Literal[
    "provider_error", "provider_timeout", "provider_rate_limited", "provider_refused", "truncated", "too_long",
    "no_worker", "worker_lost", "storage", "internal",
]  # fmt: skip


class Cursor(msgspec.Struct, frozen=True):
    """The last event that a client has applied; `seq` 0: none yet."""

    epoch: str
    seq: int


def new_id(kind: str) -> str:
    """A new id that cannot be guessed: `g_…` for a generation, `m_…` a message, `c_…` a connection."""
    return f"{kind}_{secrets.token_hex(10)}"


def new_epoch() -> str:
    return secrets.token_hex(6)
