"""The job: everything a worker needs to make one generation, as it travels through the queue."""

from __future__ import annotations

from typing import Any

import msgspec

from relay.errors import UnreadableJob
from relay.protocol import events
from relay.protocol.commands import Turn
from relay.protocol.words import Priority


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """One submit, resolved: `content` is the user's turn also for `messages` and `retry_of`."""

    session: str
    generation: str
    request_id: str
    body_hash: str
    queue: str
    message_id: str
    content: str
    priority: Priority = "normal"
    messages: list[Turn] | None = None
    retry_of: str | None = None
    provider: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    system: str | None = None
    metadata: dict[str, Any] | None = None
    language: str | None = None  # of the reader, as relay.sentences has them; no part of the body hash
    v: int = 1

    @property
    def name(self) -> str:
        return job_name(self.session, self.generation)

    def message_event(self) -> bytes:
        """The user's turn as an event. That of a retry stands in the log already, unless Redis has lost it."""
        return events.encode(events.Message(self.message_id, "user", self.content, self.generation))

    def queued_event(self) -> bytes:
        return events.encode(events.Status(self.generation, 1, "queued"))


def job_name(session: str, generation: str) -> str:
    """How a queue calls a job; neither part can hold a space."""
    return f"{session} {generation}"


def read(body: bytes) -> Job:
    """Raises UnreadableJob."""
    try:
        return decode(body)
    except msgspec.MsgspecError as error:
        raise UnreadableJob(f"a job cannot be read: {str(error)[:200]}") from None


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Job).decode
