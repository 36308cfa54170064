"""The id of what cannot be read: whatever stands beside it, a refusal finds its way back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import ClientError
from relay.protocol import commands, msgpack
from relay.protocol.envelope import of_json, of_msgpack

KNOWN = {"id": "7", "session": "s"}
HALVES = ["\ud83d", "\ude00", "\ude00\ud83d", "a\ud83db", "\ud83d\ud83d"]


def reads_no_json(raw: str | bytes) -> None:
    with pytest.raises(ClientError) as refused:
        commands.read(raw)
    assert refused.value.code == "bad_message"


def reads_no_msgpack(raw: bytes) -> None:
    with pytest.raises(ClientError) as refused:
        msgpack.read(raw)
    assert refused.value.code == "bad_message"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param('"\\ud83d"', id="half a pair"),
        pytest.param('"\\ude00\\ud83d"', id="halves the wrong way round"),
        pytest.param('"\ud83d"', id="half a pair as it is"),
        pytest.param('"\\x"', id="an escape that is none"),
        pytest.param('"a\nb"', id="a line break in a string"),
        pytest.param('{"\\ud83d":1}', id="half a pair in a key"),
        pytest.param('[{"a":["\\ud83d"]}]', id="half a pair deep inside"),
        pytest.param('{"id":"inner","x":"\\ud83d"}', id="an id that is not the message's"),
        pytest.param('"\\"id\\":\\"inner\\",\\ud83d"', id="an id inside a string"),
        pytest.param('["]}",{"}":"\\"]"},NaN]', id="brackets inside strings"),
        pytest.param("[" * 100_000 + "]" * 100_000, id="lists without end"),
        pytest.param('{"a":' * 50_000 + "1" + "}" * 50_000, id="maps without end"),
        pytest.param("NaN", id="NaN"),
        pytest.param("-Infinity", id="Infinity"),
        pytest.param("1e400", id="a number too large"),
        pytest.param("01", id="a leading zero"),
        pytest.param("1" * 100_000, id="100,000 digits"),
        pytest.param("'x'", id="single quotes"),
        pytest.param("", id="nothing"),
    ],
)
def test_json_that_cannot_be_read_tells_its_id_wherever_the_fault_stands(fault: str) -> None:
    before = f'{{"type":"ping","t":{fault},"session":"s","id":"7"}}'
    after = f'{{"session":"s","id":"7","type":"ping","t":{fault}}}'
    for raw in (before, after, "\ufeff" + after, f" {before}\n"):
        reads_no_json(raw)
        assert commands.peek(raw) == KNOWN


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        pytest.param('{"id":"7","t":"cut o', {"id": "7"}, id="cut in a string"),
        pytest.param('{"id":"7","t":[[1', {"id": "7"}, id="cut in a list"),
        pytest.param('{"id":"7"', {"id": "7"}, id="cut behind the id"),
        pytest.param('{"id":"7', {}, id="cut in the id"),
        pytest.param('{"id":"7"}{}', {"id": "7"}, id="two maps"),
        pytest.param('{"id":"7",}', {"id": "7"}, id="a trailing comma"),
        pytest.param('{type:"ping","id":"7"}', {"id": "7"}, id="a bare key"),
        pytest.param('{"id":"1","id":"2","t":NaN}', {"id": "2"}, id="the last of two"),
        pytest.param('{"id":"\\ud83d","session":"s"}', {"session": "s"}, id="half a pair in the id"),
        pytest.param('{"id":"\\u0037\\n","t":NaN}', {"id": "7\n"}, id="an id with escapes"),
        pytest.param('{"t":[1]],"id":"7"}', {}, id="a bracket too many"),
        pytest.param(b'{"t":"\xff","id":"7"}', {"id": "7"}, id="no UTF-8"),
        pytest.param('[{"id":"7"}', {}, id="a list"),
        pytest.param('"id":"7"', {}, id="no map"),
        pytest.param("", {}, id="nothing at all"),
    ],
)
def test_what_is_left_of_a_broken_message_tells_what_it_can(raw: str | bytes, found: dict[str, str]) -> None:
    assert {name: value for name, value in commands.peek(raw).items() if value is not None} == found


PACK = msgspec.msgpack.encode


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(b"\xa1\xff", id="no UTF-8"),
        pytest.param(b"\xa3\xed\xa0\xbd", id="half a pair"),
        pytest.param(b"\xd9\x01\xff", id="no UTF-8, one byte of length"),
        pytest.param(b"\x81\xa1\xff\x01", id="no UTF-8 in a key"),
        pytest.param(b"\x81\x01\x02", id="a key that is a number"),
        pytest.param(b"\x81\x81\xa1a\x01\x02", id="a key that is a map"),
        pytest.param(b"\x81\xc0\x01", id="a key that is nil"),
        pytest.param(b"\xc1", id="a byte of no meaning"),
        pytest.param(b"\xc4\x02ab", id="binary"),
        pytest.param(b"\xc5\x00\x02ab", id="binary, two bytes of length"),
        pytest.param(b"\xc6\x00\x00\x00\x02ab", id="binary, four bytes of length"),
        pytest.param(b"\xd4\x05a", id="an extension"),
        pytest.param(b"\xd8\x05" + b"a" * 16, id="an extension of sixteen bytes"),
        pytest.param(b"\xc7\x02\x05ab", id="an extension with its length"),
        pytest.param(b"\xc8\x00\x02\x05ab", id="an extension, two bytes of length"),
        pytest.param(b"\xc7\x0c\xff" + b"\xff" * 12, id="a time that is none"),
        pytest.param(b"\xcb\x7f\xf8" + b"\x00" * 6, id="not a number"),
        pytest.param(b"\xca\x7f\x80\x00\x00", id="infinity"),
        pytest.param(b"\x91" * 20_000 + b"\x01", id="lists without end"),
        pytest.param(b"\x81\xa1a" * 20_000 + b"\x01", id="maps without end"),
        pytest.param(b"\xdc\x00\x02\xdd\x00\x00\x00\x01\xd2\x00\x00\x00\x01\xde\x00\x01\xa1a\xc1", id="long heads"),
    ],
)
def test_msgpack_that_cannot_be_read_tells_its_id_wherever_the_fault_stands(fault: bytes) -> None:
    address, beside = PACK("session") + PACK("s") + PACK("id") + PACK("7"), PACK("type") + PACK("ping") + PACK("t")
    for raw in (
        b"\x84" + beside + fault + address,
        b"\x84" + address + beside + fault,
        b"\xde\x00\x04" + beside + fault + address,
    ):
        reads_no_msgpack(raw)
        assert msgpack.peek(raw) == KNOWN


@pytest.mark.parametrize("key", [b"\x01", b"\xc0", b"\x91\x01", b"\xa1\xff", b"\xc4\x01a"])
def test_a_key_that_is_none_costs_no_other(key: bytes) -> None:
    raw = b"\x82" + key + b"\x01" + PACK("id") + PACK("7")
    reads_no_msgpack(raw)
    assert msgpack.peek(raw)["id"] == "7"


def test_a_tail_that_is_missing_costs_what_it_held() -> None:
    whole = PACK({"id": "7", "session": "s", "t": ["x", {"y": 1.5}, 2**40]})
    for length in range(len(whole)):
        reads_no_msgpack(whole[:length])
        found = msgpack.peek(whole[:length])
        assert found.get("id") == ("7" if length >= len(b"\x83\xa2id\xa17") else None)
    text = '{"id":"7","session":"s","t":["x",{"y":1.5},2]}'
    for length in range(len(text)):
        assert commands.peek(text[:length]).get("id") == ("7" if length >= len('{"id":"7"') else None)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xc1", b"\x80", b"\x81", b"\x91\xa2id", b"\xdf\xff\xff\xff\xff", b"\xde\xff", b"\xde",
     b"\x8f\xdd\xff\xff\xff\xff\x01", b"\x82\xa2id\x07\xa7session\xc0", b"\x81\xa2id\xa1\xff"],
)  # fmt: skip
def test_msgpack_without_an_id_that_is_text_tells_none(raw: bytes) -> None:
    assert of_msgpack(raw).get("id") is None


@pytest.mark.parametrize("opening", ["[", '{"a":', "[[1]", '"",', "[],", "1,", '{"a":{"b":{', ":", "\\", '"'])
def test_a_message_of_nothing_but_trouble_is_given_up_in_bounded_steps(opening: str) -> None:
    """Were any of these quadratic, it would take hours."""
    million = 4 * 1024 * 1024 // len(opening)
    of_json('{"t":' + opening * million)
    of_json("{" + opening * million)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@given(
    st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.sampled_from(HALVES), st.booleans(), st.text(max_size=8)
)
@settings(max_examples=200, deadline=None)
def test_half_a_pair_anywhere_in_any_message_costs_no_id(
    fields: dict[str, Any], half: str, first: bool, name: str
) -> None:
    rest = {key: value for key, value in fields.items() if key not in ("id", "session")}
    broken = {**rest, "broken": [half, {half: 1}]}
    message = {"id": name, **broken} if first else {**broken, "id": name}
    for ascii_only in (True, False):
        raw = json.dumps(message, ensure_ascii=ascii_only)
        reads_no_json(raw)
        assert commands.peek(raw) == {"id": name}


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.text(max_size=8))
@settings(max_examples=200, deadline=None)
def test_of_what_can_be_read_both_walks_find_the_id_too(fields: dict[str, Any], name: str) -> None:
    message = {**{key: value for key, value in fields.items() if key not in ("id", "session")}, "id": name}
    assert of_msgpack(msgspec.msgpack.encode(message)) == {"id": name}
    assert of_json(json.dumps(message)) == {"id": name}
    assert of_json(json.dumps(message, indent=1, ensure_ascii=False)) == {"id": name}


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_bytes_whatever_raise(raw: bytes) -> None:
    for wrapped in (raw, b"\x82\xa2id" + raw, b"\x83\xa1t" + raw + b"\xa2id\xa17"):
        of_msgpack(wrapped)
        msgpack.peek(wrapped)
    for text in (raw, b'{"id":"7","t":' + raw):
        of_json(text)
        commands.peek(text)
