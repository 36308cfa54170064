"""The job: everything a worker needs to make one generation, as it lies in the queue.

Fields that a later release has added are kept when this release requeues or retries a job (shapes.py).
"""

from __future__ import annotations

from typing import Any

import msgspec

from relay.errors import LaterJob, UnreadableJob
from relay.protocol import events
from relay.protocol.commands import Options, Turn
from relay.protocol.options import known_options
from relay.protocol.words import Priority
from relay.store import shapes


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """One submit, resolved: `content` is the user's turn also for `messages` and `retry_of`.

    `sub`: the session's owner, "" if nobody. `v`: the lowest version of shapes.JOB whose readers can make it.
    `as_it_came`: the whole body, if that holds more than the fields; it is not stored as a field.
    """

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
    options: Options | None = None
    language: str | None = None  # of the reader, for failure messages; not part of the body hash
    sub: str = ""  # not part of the body hash either
    v: int = 1
    as_it_came: bytes = b""

    @property
    def name(self) -> str:
        return job_name(self.session, self.generation)

    def message_event(self) -> bytes:
        """The user's turn as an event. A retry's is in the log already, unless Redis has lost it."""
        return events.encode(events.Message(self.message_id, "user", self.content, self.generation))

    def queued_event(self) -> bytes:
        return events.encode(events.Status(self.generation, 1, "queued"))


def job_name(session: str, generation: str) -> str:
    """A job's name in its queue; neither part can contain a space."""
    return f"{session} {generation}"


def read(body: bytes) -> Job:
    """Raises UnreadableJob, or LaterJob if only a later release can make it."""
    try:
        version = _read_version(body).v
        job = _decode(body) if version <= shapes.JOB else None
    except msgspec.MsgspecError as error:
        raise UnreadableJob(f"a job cannot be read: {str(error)[:200]}") from None
    if job is None:
        raise LaterJob(f"a job of version {version} cannot be read: this release knows versions up to {shapes.JOB}")
    return job if _encode(job) == body else msgspec.structs.replace(job, as_it_came=body)


def encode(job: Job) -> bytes:
    """The body to store. Unknown members go on unchanged, at any depth."""
    if not job.as_it_came:
        return _encode(job)
    known = _members(_encode(_decode(job.as_it_came)))
    changed = _members(_encode(msgspec.structs.replace(job, as_it_came=b"")))
    members = _members(job.as_it_came)
    for name in known.keys() | changed.keys():
        if name not in changed:
            members.pop(name, None)
        elif changed[name] != known.get(name):
            members[name] = changed[name]
    return msgspec.json.encode({name: msgspec.Raw(value) for name, value in members.items()})


class _Version(msgspec.Struct):
    v: int = 1


def _members(body: bytes) -> dict[str, bytes]:
    return {name: bytes(value) for name, value in _decode_members(body).items()}


def _decode(body: bytes) -> Job:
    """Options with values of a later release do not make a job unreadable: they may be ignored."""
    try:
        return _decode_strictly(body)
    except msgspec.ValidationError:
        members = _members(body)
        known = known_options(msgspec.json.decode(members.pop("options", b"null")))
        job = _decode_strictly(msgspec.json.encode({name: msgspec.Raw(value) for name, value in members.items()}))
        return msgspec.structs.replace(job, options=known)


_encode = msgspec.json.Encoder().encode
_decode_strictly = msgspec.json.Decoder(Job).decode
_read_version = msgspec.json.Decoder(_Version).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
