"""relay.v1.msgpack: the same maps as JSON, in MessagePack, without extension types. Pure.

Inside, every frame is JSON: the log holds JSON bodies, and each is encoded once. This module translates at the edge, so
that nothing behind it knows of two codecs. Input that JSON cannot express is refused.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from relay.errors import ClientError
from relay.protocol import envelope
from relay.protocol.commands import Fields

_INTEGERS = range(-(2**63), 2**64)  # what MessagePack can hold; JSON has no such bound
_GROWTH = 6  # one byte of MessagePack becomes at most this many of JSON: a control character is \u0001

_decode = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode
_lenient = msgspec.json.Encoder(enc_hook=lambda _: "").encode  # only to measure: `read` refuses the same by name


class _Envelope(msgspec.Struct):
    id: Any = None
    session: Any = None


_peeker = msgspec.msgpack.Decoder(_Envelope)


def pack(frame: bytes) -> bytes:
    """A frame's JSON as MessagePack."""
    value = msgspec.json.decode(frame)
    try:
        return _encode(value)
    except OverflowError:
        return _encode(_bounded(value))


def read(raw: bytes) -> Fields:
    """Decode one message into a map without its nulls. Raises ClientError `bad_message`."""
    fields = _unpack(_decode, raw)
    if not isinstance(fields, dict):
        raise ClientError("bad_message", "A command is a map with a type.")
    try:
        _check(fields)
    except RecursionError:
        raise ClientError("bad_message", "The message is nested too deeply.") from None
    return {name: value for name, value in fields.items() if value is not None}


def peek(raw: bytes) -> Fields:
    """`id` and `session` of a message that is not read (too large, or refused), as far as they can be found."""
    try:
        found = _unpack(_peeker.decode, raw)
    except ClientError:
        return envelope.of_msgpack(raw)
    return {"id": found.id, "session": found.session}


def json_bytes(raw: bytes, enough: float) -> int:
    """The message's size as JSON, which is what limits count; an upper bound if that does not exceed `enough`."""
    if len(raw) * _GROWTH <= enough:
        return len(raw) * _GROWTH
    return len(_unpack(lambda whole: _lenient(_decode(whole)), raw))


def _unpack(decode: Any, raw: bytes) -> Any:
    try:
        return decode(raw)
    except RecursionError:
        raise ClientError("bad_message", "The message is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeError):
        raise ClientError("bad_message", "The message is not valid MessagePack.") from None
    except (TypeError, ValueError, OverflowError):  # a map with a map for a key; a timestamp out of range
        raise ClientError("bad_message", "The message contains a value that JSON cannot express.") from None


def _check(value: Any) -> None:
    """Raises ClientError for what JSON cannot express."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ClientError("bad_message", "JSON cannot express this message: it has a key that is not a string.")
            _check(inner)
    elif isinstance(value, list):
        for inner in value:
            _check(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ClientError("bad_message", "JSON cannot express this message: it has a number that is not finite.")
    elif value is not None and not isinstance(value, str | int | float | bool):
        raise ClientError("bad_message", "JSON cannot express this message: it has binary data or an extension type.")


def _bounded(value: Any) -> Any:
    """Integers beyond 64 bits become what a JavaScript client would read: floats, or otherwise their digits."""
    if isinstance(value, dict):
        return {name: _bounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_bounded(inner) for inner in value]
    if isinstance(value, int) and value not in _INTEGERS:
        return float(value) if value.bit_length() < 1024 else str(value)
    return value
