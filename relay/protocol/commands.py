"""Commands, client → server: decoded, checked and compared. Pure.

A command passes three steps, so that each kind of mistake gets its own code: bytes → `read` (is it a map?) →
`reply_id` (may the error carry the client's id?) → `check` (is it a command with valid fields?). For a message that
`read` refuses, `peek` finds the id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from itertools import chain, islice
from typing import Annotated, Any, Literal, assert_never, get_args

import msgspec
from msgspec.structs import FieldInfo

from relay.errors import ClientError
from relay.protocol import envelope
from relay.protocol.options import Options as Options
from relay.protocol.options import check_options, unknown_options
from relay.protocol.refusals import refusal
from relay.protocol.words import (
    EPOCH,
    GENERATION,
    MAX_SEQ,
    QUEUE,
    REQUEST_ID,
    SESSION,
    Cursor,
    Priority,
    Role,
    Start,
)

MAX_ID_LENGTH = 64
MAX_METADATA_BYTES = 4 * 1024
MAX_NESTING = 100  # of a submit, itself included: fewer levels than any of our code can handle
MAX_ECHO_BYTES = 64 * 1024  # what a ping may ask to be sent back; a frame must hold it
MAX_IGNORED = 20
MAX_IGNORED_LENGTH = 64

_ADDRESSING = ("session", "request_id")
# Fields of a submit. Never change this: stored hashes depend on it.
_KNOWN_EARLIER = (
    "content", "messages", "retry_of", "queue", "mode", "schema", "priority", "provider", "model", "max_tokens",
    "system", "metadata",
)  # fmt: skip

Fields = dict[str, Any]


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    token: str | None = None


class Refresh(msgspec.Struct, frozen=True, tag="refresh"):
    token: str


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    t: Any = None


class Subscribe(msgspec.Struct, frozen=True, tag="subscribe", rename={"start": "from"}):
    session: str
    cursor: Cursor | None = None
    start: Start = "start"


class Unsubscribe(msgspec.Struct, frozen=True, tag="unsubscribe"):
    session: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    session: str
    generation: str


class Turn(msgspec.Struct, frozen=True):
    role: Role
    content: str


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """One question. Exactly one of `content`, `messages` and `retry_of`; see docs/protocol.md, section 3."""

    session: str
    request_id: str
    content: str | None = None
    messages: list[Turn] | None = None
    retry_of: str | None = None
    queue: str = "default"
    mode: Literal["chat", "report"] = "chat"
    schema: dict[str, Any] | None = None
    priority: Priority = "normal"
    provider: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    model: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None
    system: str | None = None
    metadata: dict[str, Any] | None = None
    options: Options | None = None

    @property
    def user_turn(self) -> str:
        """The question itself; empty for `retry_of`, whose question is in the log already."""
        if self.messages:
            return self.messages[-1].content
        return self.content or ""

    def body_hash(self) -> str:
        """Equal for equal bodies. It covers the fields that differ from the wire's default, except the addressing ones.

        So a field that a later release adds does not change the hash of a body without it.
        """
        return _hash({field.encode_name: value for field, value in self._body() if value != field.default})

    def earlier_hash(self) -> str:
        """The hash of the release before: all fields that it knew, with defaults filled in."""
        return _hash({field.encode_name: value for field, value in self._body() if field.name in _KNOWN_EARLIER})

    def kept_hash(self) -> str:
        """The hash to store: gateways of the release before know only theirs, and must recognise what they can."""
        added = any(value != field.default for field, value in self._body() if field.name not in _KNOWN_EARLIER)
        return self.body_hash() if added else self.earlier_hash()

    def _body(self) -> Iterator[tuple[FieldInfo, Any]]:
        fields = msgspec.to_builtins(self)
        return ((field, fields[field.encode_name]) for field in _fields(type(self)) if field.name not in _ADDRESSING)


@cache
def _fields(kind: type[Submit]) -> tuple[FieldInfo, ...]:
    return msgspec.structs.fields(kind)


_UNDERSTOOD = frozenset(("type", "id", *Submit.__struct_encode_fields__))


Command = Hello | Refresh | Ping | Subscribe | Unsubscribe | Stop | Submit
_KINDS: dict[str, type[Command]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Command)}
_decoder = msgspec.json.Decoder()


class _Envelope(msgspec.Struct):
    id: Any = None
    session: Any = None


_peeker = msgspec.json.Decoder(_Envelope)


def read(raw: bytes | str) -> Fields:
    """Decode one message into a map without its nulls. Raises ClientError `bad_message`."""
    try:
        fields = _decoder.decode(raw)
    except RecursionError:
        raise ClientError("bad_message", "The message is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeError):  # a lone surrogate counts as malformed too
        raise ClientError("bad_message", "The message is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise ClientError("bad_message", "A command is a JSON object with a type.")
    return {name: value for name, value in fields.items() if value is not None}


def peek(raw: bytes | str) -> Fields:
    """`id` and `session` of a message that is not read (too large, or not JSON), as far as they can be found."""
    try:
        found = _peeker.decode(raw)
    except (RecursionError, msgspec.DecodeError, UnicodeError):
        return envelope.of_json(raw)
    return {"id": found.id, "session": found.session}


def reply_id(fields: Fields) -> str | None:
    """The id that the reply, or the error, carries back; None if there is no valid one."""
    value = fields.get("id")
    return value if isinstance(value, str) and len(value) <= MAX_ID_LENGTH else None


def check(fields: Fields, limits: dict[str, float]) -> Command:
    """Turn a map into the command it claims to be. Raises ClientError, which names the field."""
    try:
        return _check(fields, limits)
    except RecursionError:
        raise ClientError("bad_message", "The command is nested too deeply.") from None


def _check(fields: Fields, limits: dict[str, float]) -> Command:
    if "id" in fields and reply_id(fields) is None:
        raise ClientError("bad_message", f"id must be a string of at most {MAX_ID_LENGTH} characters.")
    kind = fields.get("type")
    if not isinstance(kind, str):
        raise ClientError("bad_message", "type must be a string.")
    if kind not in _KINDS:
        raise ClientError("unknown_type", f"There is no such command. The commands are {', '.join(_KINDS)}.")
    struct = _KINDS[kind]
    if "session" in struct.__struct_fields__:
        check_session(fields.get("session"))
    if struct is Subscribe and "cursor" in fields:
        fields = {**fields, "cursor": check_cursor(fields["cursor"])}
    if isinstance(fields.get("max_tokens"), float):
        fields = {**fields, "max_tokens": _integral(fields["max_tokens"])}
    if struct is Submit and "options" in fields:
        fields = {**fields, "options": check_options(fields["options"], "options")}
    try:
        command = msgspec.convert(fields, struct)
    except msgspec.ValidationError as error:
        raise refusal(error) from None
    check_values(command, limits)
    return command


def ignored(fields: Fields) -> list[str]:
    """The names of a submit's unknown fields, and of those in its options: the first of them, each shortened.

    They may be shown on a terminal, so characters that do not print are replaced.
    """
    own = (name for name in fields if name not in _UNDERSTOOD)
    unknown = chain(own, (f"options.{name}" for name in unknown_options(fields.get("options"))))
    shown = dict.fromkeys(_printable(name[:MAX_IGNORED_LENGTH]) for name in islice(unknown, MAX_IGNORED))
    return list(shown)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def check_session(value: Any) -> str:
    if not isinstance(value, str) or not SESSION.match(value):
        raise ClientError("bad_session", "session must be 1-128 characters of A-Z a-z 0-9 _ . : -")
    return value


def check_generation(value: str, field: str) -> str:
    if not GENERATION.match(value):
        raise ClientError("not_found", f"{field}: there is no such generation in this session.")
    return value


def check_cursor(value: Any) -> Cursor:
    if isinstance(value, dict):
        epoch, seq = value.get("epoch"), value.get("seq")
        if isinstance(seq, float) and seq.is_integer():
            seq = int(seq)  # JSON has one kind of number
        known_epoch = isinstance(epoch, str) and EPOCH.match(epoch) is not None
        if known_epoch and isinstance(seq, int) and not isinstance(seq, bool) and 0 <= seq <= MAX_SEQ:
            return Cursor(str(epoch), seq)
    raise ClientError("bad_cursor", "cursor must be {epoch, seq}: an epoch from the server, and a seq of 0 to 2^53-1.")


def check_values(command: Command, limits: dict[str, float]) -> None:
    """Check what the types alone cannot express."""
    match command:
        case Submit():
            check_submit(command, limits)
        case Ping(t=t):
            if len(msgspec.json.encode(t)) > MAX_ECHO_BYTES:
                raise ClientError("too_large", f"t is larger than {MAX_ECHO_BYTES} bytes.")
        case Stop():
            check_generation(command.generation, "generation")
        case Hello() | Refresh() | Subscribe() | Unsubscribe():
            pass
        case _:
            assert_never(command)


def check_submit(submit: Submit, limits: dict[str, float]) -> None:
    if not REQUEST_ID.match(submit.request_id):
        raise ClientError("bad_message", "request_id must be 1-128 characters without control characters.")
    if not QUEUE.match(submit.queue):
        raise ClientError("bad_message", "queue must be 1-64 characters of A-Z a-z 0-9 _ -")
    given = [submit.content is not None, submit.messages is not None, submit.retry_of is not None]
    if sum(given) != 1:
        raise ClientError("bad_message", "Exactly one of content, messages and retry_of must be given.")
    if submit.retry_of is not None:
        check_generation(submit.retry_of, "retry_of")
    elif submit.messages is not None and (not submit.messages or submit.messages[-1].role != "user"):
        raise ClientError("bad_message", "messages must end with a turn of role user.")
    elif not submit.user_turn:
        raise ClientError("bad_message", "The question is empty: content must have at least one character.")
    if submit.mode != "chat":
        raise ClientError("bad_message", "mode: only chat is supported here.")
    if len(msgspec.json.encode(submit.user_turn)) > limits["max_content_bytes"]:
        raise ClientError("too_large", f"content is larger than max_content_bytes ({limits['max_content_bytes']:.0f}).")
    submit.body_hash()  # refuses a body that is nested too deeply to be compared
    if submit.metadata is not None and len(msgspec.json.encode(submit.metadata)) > MAX_METADATA_BYTES:
        raise ClientError("bad_message", f"metadata is larger than {MAX_METADATA_BYTES} bytes.")


def _hash(body: Fields) -> str:
    return hashlib.sha256(msgspec.json.encode(_integral(body), order="deterministic")).hexdigest()[:32]


def _integral(value: Any, room: int = MAX_NESTING) -> Any:
    """JSON has one kind of number: 1.0 and 1 are the same value. Raises ClientError if it nests too deeply."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict | list) and not room:
        raise ClientError("bad_message", "The command is nested too deeply.")
    if isinstance(value, dict):
        return {name: _integral(inner, room - 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_integral(inner, room - 1) for inner in value]
    return value
