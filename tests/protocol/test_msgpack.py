"""MessagePack at the edge: the same maps, and nothing that JSON has no word for."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ClientError
from relay.protocol import commands, msgpack

_LIMITS = {"max_content_bytes": 1000.0}
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.text(), _JSON, max_size=5))
def test_a_frame_is_the_same_map_in_both_codecs(frame: dict[str, object]) -> None:
    assert msgspec.msgpack.decode(msgpack.pack(msgspec.json.encode(frame))) == frame


@given(st.dictionaries(st.text(), _JSON, max_size=5))
def test_a_command_reads_the_same_in_both_codecs(fields: dict[str, object]) -> None:
    assert msgpack.read(msgspec.msgpack.encode(fields)) == commands.read(msgspec.json.encode(fields))


@given(_JSON, st.sampled_from([0, 10, 1000]))
def test_the_size_that_limits_count_is_that_of_its_json(value: object, enough: int) -> None:
    size = len(msgspec.json.encode(value))
    measured = msgpack.json_bytes(msgspec.msgpack.encode(value), enough)
    assert measured == size or size <= measured <= enough


def test_a_number_beyond_64_bits_goes_out_as_a_browser_would_read_it() -> None:
    assert msgspec.msgpack.decode(msgpack.pack(b'{"t":[18446744073709551616,1]}')) == {"t": [2.0**64, 1]}
    digits = b"1" * 400
    assert msgspec.msgpack.decode(msgpack.pack(b'{"t":%s}' % digits)) == {"t": digits.decode()}


@pytest.mark.parametrize(
    "value",
    [{"type": b"ping"}, {"type": "ping", "t": [{"x": b"y"}]}, {1: 2}, {"t": float("nan")}, {"t": float("inf")},
     {"t": datetime.datetime.now(datetime.UTC)}, {"t": msgspec.msgpack.Ext(5, b"x")}, [1], "ping", 7],
)  # fmt: skip
def test_what_json_cannot_say_is_refused(value: object) -> None:
    raw = msgspec.msgpack.encode(value)
    with pytest.raises(ClientError) as refused:
        commands.check(msgpack.read(raw), _LIMITS)
    assert refused.value.code == "bad_message"
    msgpack.json_bytes(raw, 0)  # measuring comes first, and must bear all of it


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xc1", b"\x80\x80", b"\x81\xa1a", b"\x81\xa1a\xa2\xff\xff", b"\x81\x81\xa1a\x01\x01",
     b"\x91" * 5000 + b"\x01",
     b"\x81\xa1t" + b"\x91" * 3000 + b"\x01", b"\x81\xa1a\xc7\x0c\xff" + b"\xff" * 12],
)  # fmt: skip
def test_what_is_no_message_is_refused_with_a_sentence(raw: bytes) -> None:
    with pytest.raises(ClientError) as refused:
        msgpack.read(raw)
    assert refused.value.code == "bad_message"


def test_a_message_too_large_to_be_read_still_tells_its_id() -> None:
    raw = msgspec.msgpack.encode({"type": "submit", "id": "7", "session": "s", "content": "x" * 1000})
    assert msgpack.peek(raw) == {"id": "7", "session": "s"}
