"""Commands: every good form is understood, every bad one refused with its code and the field's name."""

from __future__ import annotations

import json
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import ClientError
from relay.protocol import commands
from relay.protocol.commands import Command, Hello, Ping, Stop, Submit, Subscribe, Turn, Unsubscribe
from relay.protocol.words import MAX_SEQ, Cursor

LIMITS: dict[str, float] = {"max_command_bytes": 1048576, "max_content_bytes": 131072}

SUBMIT = {"type": "submit", "session": "s", "request_id": "r", "content": "Hello"}


def understood(fields: dict[str, Any]) -> Command:
    return commands.check(commands.read(json.dumps(fields)), LIMITS)


def submit(**fields: Any) -> Submit:
    command = understood({**SUBMIT, **fields})
    assert isinstance(command, Submit)
    return command


def refusal(fields: dict[str, Any]) -> ClientError:
    with pytest.raises(ClientError) as raised:
        understood(fields)
    return raised.value


# Good forms


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, []),
        ({"id": "1", "queue": "q", "metadata": {"temperature": 1}, "temperature": None}, []),
        ({"temperature": 0.5, "stream": True}, ["temperature", "stream"]),
        ({"content": None, "messages": [{"role": "user", "content": "?", "name": "Ann"}]}, []),
        ({"Content": "?", " content": "?", "": 0}, ["Content", " content", ""]),
        ({"é👍": 1, "a\x1b[2J\nb": 1, "\u202egpj": 1}, ["é👍", "a\ufffd[2J\ufffdb", "\ufffdgpj"]),
        ({"x" * 64: 1, "x" * 65: 1, "y" * 100_000: 1}, ["x" * 64, "y" * 64]),
        ({f"f{number}": number for number in range(10_000)}, [f"f{number}" for number in range(20)]),
    ],
)
def test_the_fields_of_a_submit_that_were_not_understood_are_named(fields: dict[str, Any], names: list[str]) -> None:
    read = commands.read(json.dumps({**SUBMIT, **fields}))
    assert isinstance(commands.check(read, LIMITS), Submit)
    assert commands.ignored(read) == names


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({"type": "hello"}, Hello()),
        ({"type": "hello", "token": "abc"}, Hello("abc")),
        ({"type": "ping"}, Ping()),
        ({"type": "ping", "t": 17.5}, Ping(17.5)),
        ({"type": "ping", "t": {"any": ["thing", None]}}, Ping({"any": ["thing", None]})),
        ({"type": "subscribe", "session": "s"}, Subscribe("s")),
        ({"type": "subscribe", "session": "s", "from": "start"}, Subscribe("s")),
        ({"type": "subscribe", "session": "s", "from": "live"}, Subscribe("s", start="live")),
        (
            {"type": "subscribe", "session": "s", "cursor": {"epoch": "e", "seq": 7}, "from": "live"},
            Subscribe("s", Cursor("e", 7), "live"),
        ),
        ({"type": "unsubscribe", "session": "s"}, Unsubscribe("s")),
        ({"type": "stop", "session": "s", "generation": "g_1"}, Stop("s", "g_1")),
        (SUBMIT, Submit("s", "r", "Hello")),
        (
            {
                "type": "submit", "session": "s", "request_id": "r", "queue": "fast", "mode": "chat",
                "schema": {"type": "object"}, "priority": "high", "provider": "openai", "model": "m-1",
                "max_tokens": 100, "system": "Be brief.", "metadata": {"k": [1, None]},
                "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "Hello"}],
            },
            Submit(
                "s", "r", messages=[Turn("system", ""), Turn("user", "Hello")], queue="fast",
                schema={"type": "object"}, priority="high", provider="openai", model="m-1", max_tokens=100,
                system="Be brief.", metadata={"k": [1, None]},
            ),
        ),
        ({"type": "submit", "session": "s", "request_id": "r", "retry_of": "g"}, Submit("s", "r", retry_of="g")),
    ],
)  # fmt: skip
def test_a_good_command_is_understood(fields: dict[str, Any], command: Command) -> None:
    assert understood(fields) == command


@pytest.mark.parametrize("kind", ["hello", "ping", "subscribe", "unsubscribe", "stop", "submit"])
def test_unknown_fields_are_ignored(kind: str) -> None:
    fields = {**SUBMIT, "type": kind, "generation": "g", "future": {"a": 1}, "event": None}
    assert understood(fields) == understood({**SUBMIT, "type": kind, "generation": "g"})


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "hello", "token": None},
        {"type": "ping", "t": None},
        {"type": "subscribe", "session": "s", "cursor": None, "from": None},
        {
            **SUBMIT, "messages": None, "retry_of": None, "queue": None, "mode": None, "schema": None, "priority": None,
            "provider": None, "model": None, "max_tokens": None, "system": None, "metadata": None,
        },
    ],
)  # fmt: skip
def test_a_null_field_means_the_same_as_an_absent_one(fields: dict[str, Any]) -> None:
    absent = {name: value for name, value in fields.items() if value is not None}
    assert understood({**fields, "id": None}) == understood(absent)


@pytest.mark.parametrize("field", ["request_id", "content"])
def test_a_required_field_that_is_null_is_missing(field: str) -> None:
    error = refusal({**SUBMIT, field: None})
    assert error.code == "bad_message"
    assert field in error.message


# Ids


@pytest.mark.parametrize("value", ["", "1", "x" * 64, "ö " * 32])
def test_an_id_of_up_to_64_characters_is_carried_back(value: str) -> None:
    assert commands.reply_id(commands.read(json.dumps({"type": "nonsense", "id": value}))) == value


@pytest.mark.parametrize("value", ["x" * 65, 7, 0, True, [], {}, ["x"]])
def test_an_id_that_cannot_be_read_is_refused_and_not_carried_back(value: Any) -> None:
    fields = {"type": "ping", "id": value}
    error = refusal(fields)
    assert (error.code, error.message.split()[0]) == ("bad_message", "id")
    assert commands.reply_id(fields) is None


def test_no_id_is_none() -> None:
    assert commands.reply_id(commands.read('{"type":"ping","id":null}')) is None
    assert commands.reply_id(commands.read('{"type":"ping"}')) is None


# Bad forms


@pytest.mark.parametrize("kind", ["", "Ping", "ping ", "subscribed", "heartbeat", "turn", "x" * 1000])
def test_a_command_that_does_not_exist_is_unknown_and_the_answer_names_what_does(kind: str) -> None:
    error = refusal({"type": kind, "id": "1"})
    assert error.code == "unknown_type"
    assert "hello, refresh, ping, subscribe, unsubscribe, stop, submit" in error.message


@pytest.mark.parametrize("fields", [{}, {"type": None}, {"type": 1}, {"type": ["ping"]}, {"id": "1"}])
def test_a_type_that_is_no_string_is_a_bad_message(fields: dict[str, Any]) -> None:
    error = refusal(fields)
    assert (error.code, error.message.split()[0]) == ("bad_message", "type")


BAD_SESSIONS = ["", ".", "..", "x" * 129, "a b", "a/b", "ä", "a\n", "\na", "a\x00", "{a}", "a*", 5, True, [], {}, None]


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe", "stop", "submit"])
@pytest.mark.parametrize("session", BAD_SESSIONS)
def test_a_session_that_is_no_id_is_a_bad_session(kind: str, session: Any) -> None:
    error = refusal({**SUBMIT, "type": kind, "generation": "g", "session": session})
    assert (error.code, error.message.split()[0]) == ("bad_session", "session")


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe", "stop", "submit"])
def test_a_command_without_its_session_is_a_bad_session(kind: str) -> None:
    assert refusal({"type": kind, "request_id": "r", "content": "x", "generation": "g"}).code == "bad_session"


@pytest.mark.parametrize(
    "session", ["a", "...", ".a", "a.", "x" * 128, string.ascii_letters + string.digits + "_.:-", "user:1", "-", "__"]
)
def test_a_session_of_the_allowed_characters_is_taken(session: str) -> None:
    assert understood({"type": "subscribe", "session": session}) == Subscribe(session)


@pytest.mark.parametrize(
    "cursor",
    [
        "e:1", 5, True, [], ["e", 1], {}, {"epoch": "e"}, {"seq": 1}, {"epoch": "e", "seq": -1},
        {"epoch": "e", "seq": MAX_SEQ + 1}, {"epoch": "e", "seq": 2**70}, {"epoch": "e", "seq": True},
        {"epoch": "e", "seq": "1"}, {"epoch": "e", "seq": 1.5}, {"epoch": "e", "seq": None},
        {"epoch": None, "seq": 1}, {"epoch": "", "seq": 1}, {"epoch": "x" * 65, "seq": 1},
        {"epoch": "a b", "seq": 1}, {"epoch": "a\n", "seq": 1}, {"epoch": 1, "seq": 1},
    ],
)  # fmt: skip
def test_a_cursor_that_is_none_is_a_bad_cursor(cursor: Any) -> None:
    error = refusal({"type": "subscribe", "session": "s", "cursor": cursor})
    assert (error.code, error.message.split()[0]) == ("bad_cursor", "cursor")


@pytest.mark.parametrize(
    "cursor",
    [
        {"epoch": "e", "seq": 0},
        {"epoch": "x" * 64, "seq": MAX_SEQ},
        {"epoch": "aZ09_-", "seq": 1, "future": "field"},
    ],
)
def test_a_cursor_reaches_from_nothing_to_the_largest_safe_integer(cursor: dict[str, Any]) -> None:
    command = understood({"type": "subscribe", "session": "s", "cursor": cursor})
    assert command == Subscribe("s", Cursor(cursor["epoch"], cursor["seq"]))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"type": "hello", "token": 5}, "token"),
        ({"type": "subscribe", "session": "s", "from": "middle"}, "from"),
        ({"type": "subscribe", "session": "s", "from": 5}, "from"),
        ({"type": "stop", "session": "s"}, "generation"),
        ({"type": "stop", "session": "s", "generation": 5}, "generation"),
        ({**SUBMIT, "content": 5}, "content"),
        ({**SUBMIT, "content": ["x"]}, "content"),
        ({**SUBMIT, "content": ""}, "content"),
        ({"type": "submit", "session": "s", "content": "x"}, "request_id"),
        ({**SUBMIT, "request_id": ""}, "request_id"),
        ({**SUBMIT, "request_id": "x" * 129}, "request_id"),
        ({**SUBMIT, "request_id": "a\tb"}, "request_id"),
        ({**SUBMIT, "request_id": "a\n"}, "request_id"),
        ({**SUBMIT, "request_id": "a\x7f"}, "request_id"),
        ({**SUBMIT, "request_id": "a\x85"}, "request_id"),
        ({**SUBMIT, "request_id": 5}, "request_id"),
        ({"type": "submit", "session": "s", "request_id": "r"}, "content, messages and retry_of"),
        ({**SUBMIT, "retry_of": "g"}, "content, messages and retry_of"),
        ({**SUBMIT, "messages": [{"role": "user", "content": "x"}]}, "content, messages and retry_of"),
        ({**SUBMIT, "content": None, "messages": []}, "messages"),
        ({**SUBMIT, "content": None, "messages": {}}, "messages"),
        ({**SUBMIT, "content": None, "messages": ["x"]}, "messages[0]"),
        ({**SUBMIT, "content": None, "messages": [{"role": "user"}]}, "messages[0]"),
        ({**SUBMIT, "content": None, "messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({**SUBMIT, "content": None, "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({**SUBMIT, "content": None, "messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({**SUBMIT, "content": None, "messages": [{"role": "user", "content": ""}]}, "content"),
        ({**SUBMIT, "content": None, "retry_of": 5}, "retry_of"),
        ({**SUBMIT, "queue": ""}, "queue"),
        ({**SUBMIT, "queue": "a b"}, "queue"),
        ({**SUBMIT, "queue": "a\n"}, "queue"),
        ({**SUBMIT, "queue": "x" * 65}, "queue"),
        ({**SUBMIT, "queue": 5}, "queue"),
        ({**SUBMIT, "mode": "poem"}, "mode"),
        ({**SUBMIT, "schema": []}, "schema"),
        ({**SUBMIT, "priority": "urgent"}, "priority"),
        ({**SUBMIT, "priority": 1}, "priority"),
        ({**SUBMIT, "provider": 5}, "provider"),
        ({**SUBMIT, "provider": "x" * 129}, "provider"),
        ({**SUBMIT, "model": ["x"]}, "model"),
        ({**SUBMIT, "model": "x" * 129}, "model"),
        ({**SUBMIT, "max_tokens": 0}, "max_tokens"),
        ({**SUBMIT, "max_tokens": -1}, "max_tokens"),
        ({**SUBMIT, "max_tokens": 1.5}, "max_tokens"),
        ({**SUBMIT, "max_tokens": "5"}, "max_tokens"),
        ({**SUBMIT, "max_tokens": True}, "max_tokens"),
        ({**SUBMIT, "system": 5}, "system"),
        ({**SUBMIT, "metadata": []}, "metadata"),
        ({**SUBMIT, "metadata": "x"}, "metadata"),
    ],
)
def test_a_bad_field_is_a_bad_message_that_names_it(fields: dict[str, Any], named: str) -> None:
    error = refusal(fields)
    assert error.code == "bad_message"
    assert named in error.message


@pytest.mark.parametrize("generation", ["", "a b", "a/b", "x" * 65, "ä", "a\n"])
def test_a_generation_that_cannot_exist_is_not_found(generation: str) -> None:
    assert refusal({"type": "stop", "session": "s", "generation": generation}).code == "not_found"
    assert refusal({**SUBMIT, "content": None, "retry_of": generation}).code == "not_found"


@pytest.mark.parametrize("request_id", ["x", "x" * 128, "späße 😀", "a b", "{}"])
def test_a_request_id_is_any_printable_text(request_id: str) -> None:
    assert submit(request_id=request_id).request_id == request_id


# Bounds in bytes of encoded JSON


@pytest.mark.parametrize(("letter", "size"), [("a", 1), ("é", 2), ("😀", 4), ('"', 2), ("\n", 2), ("\x00", 6)])
def test_the_user_turn_is_bounded_by_its_encoded_bytes(letter: str, size: int) -> None:
    room = 131072 - 2
    fits = letter * (room // size)
    assert submit(content=fits).user_turn == fits
    error = refusal({**SUBMIT, "content": fits + letter * (room % size + 1)})
    assert error.code == "too_large"
    assert "content" in error.message


def test_of_messages_only_the_last_turn_is_bounded_as_content() -> None:
    long, turn = "x" * 200_000, {"role": "user", "content": "short"}
    assert submit(content=None, messages=[{"role": "user", "content": long}, turn]).user_turn == "short"
    error = refusal({**SUBMIT, "content": None, "messages": [turn, {"role": "user", "content": long}]})
    assert error.code == "too_large"


def test_metadata_is_bounded_at_4_kib_encoded() -> None:
    fits = {"k": "x" * (4096 - len('{"k":""}'))}
    assert submit(metadata=fits).metadata == fits
    error = refusal({**SUBMIT, "metadata": {"k": fits["k"] + "x"}})
    assert error.code == "bad_message"
    assert "metadata" in error.message


# Equal bodies


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({}, {"messages": None, "metadata": None}, id="null and absent"),
        pytest.param({}, {"queue": "default", "mode": "chat", "priority": "normal"}, id="defaults filled in"),
        pytest.param({}, {"future": 1, "temperature": 0.5}, id="unknown fields"),
        pytest.param({}, {"id": "77", "request_id": "another", "session": "t"}, id="addressing fields"),
        pytest.param({"metadata": {"a": 1, "b": 2}}, {"metadata": {"b": 2, "a": 1}}, id="order inside"),
        pytest.param({"metadata": {"a": 1}}, {"metadata": {"a": 1.0}}, id="1 and 1.0"),
        pytest.param({"metadata": {"a": [0]}}, {"metadata": {"a": [-0.0]}}, id="0 and -0.0"),
        pytest.param({"schema": {"x": [{"y": 3}]}}, {"schema": {"x": [{"y": 3.0}]}}, id="3 and 3.0 deep inside"),
    ],
)
def test_equal_bodies_have_equal_hashes(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert submit(**one).body_hash() == submit(**other).body_hash()


def test_the_order_of_fields_and_the_way_of_writing_them_do_not_count() -> None:
    one = '{"type":"submit","session":"s","request_id":"r","content":"é😀/","metadata":{"n":100}}'
    other = (
        '{ "metadata" : {"n": 1e2},\n "content": "\\u00e9\\ud83d\\ude00\\/", "request_id": "r", "session": "s",'
        ' "type": "submit" }'
    )
    hashes = []
    for raw in (one, other):
        command = commands.check(commands.read(raw), LIMITS)
        assert isinstance(command, Submit)
        hashes.append(command.body_hash())
    assert hashes[0] == hashes[1]


VARIANTS: list[dict[str, Any]] = [
    {},
    {"content": "Hello "},
    {"content": "hello"},
    {"content": None, "messages": [{"role": "user", "content": "Hello"}]},
    {"content": None, "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "Hello"}]},
    {"content": None, "retry_of": "Hello"},
    {"queue": "fast"},
    {"schema": {}},
    {"schema": {"a": 1}},
    {"priority": "high"},
    {"priority": "low"},
    {"provider": "p"},
    {"model": "p"},
    {"system": "p"},
    {"system": ""},
    {"max_tokens": 1},
    {"metadata": {}},
    {"metadata": {"a": 1}},
    {"metadata": {"a": "1"}},
    {"metadata": {"a": 1.5}},
    {"metadata": {"a": True}},
    {"metadata": {"a": False}},
    {"metadata": {"a": 0}},
    {"metadata": {"a": [1, 2]}},
    {"metadata": {"a": [2, 1]}},
    {"metadata": {"a": "e\u0301"}},
    {"metadata": {"a": "é"}},
    {"metadata": {"a": 2**60}},
    {"metadata": {"a": 2**60 + 1}},
]


def test_bodies_that_differ_anywhere_have_different_hashes() -> None:
    hashes = {submit(**fields).body_hash(): fields for fields in VARIANTS}
    assert len(hashes) == len(VARIANTS)


# Both as literals: hashes lie in Redis, and gateways of two releases read them during a deploy.
PINNED: list[tuple[dict[str, Any], str, str]] = [
    ({"content": "Hello"}, "4463b468c94d399dd6e540df3c055c88", "5255d61e41e7d5363cbb323a9a4b1f7b"),
    (
        {
            "content": "Grüße 🙂", "queue": "fast", "priority": "high", "provider": "p", "model": "m",
            "max_tokens": 100, "system": "Be brief.", "metadata": {"b": [1.0, None], "a": {}},
            "schema": {"type": "object"},
        },
        "c831023dd7056c7b1e97328688db2bd2",
        "fb543e35957e0f0e51973ecc633da168",
    ),
    (
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "Hello"}]},
        "90e23f63b4742aadef7705375483398a",
        "ec2ff199d89d7bb93d8efe630ba71fe5",
    ),
    ({"retry_of": "g_1"}, "00fe8f14c0dd761ac7a539096c280534", "a84f9db16a80e3fcb3d3d5cf530a3a51"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "own", "earlier"), PINNED)
def test_the_hashes_of_a_body_are_these(fields: dict[str, Any], own: str, earlier: str) -> None:
    command = submit(**{"content": None, **fields})
    assert (command.body_hash(), command.earlier_hash(), command.kept_hash()) == (own, earlier, earlier)


class Later(Submit, frozen=True, tag="submit"):
    """A submit as a later release may have it."""

    speak: dict[str, Any] | None = None
    when: str = "now"


@pytest.mark.parametrize(("fields", "own", "earlier"), PINNED)
def test_a_field_that_is_added_changes_no_hash_of_a_body_that_does_without_it(
    fields: dict[str, Any], own: str, earlier: str
) -> None:
    body = {"session": "s", "request_id": "r", **fields}
    later = msgspec.convert({"type": "submit", **body, "when": "now"}, Later)
    assert (later.body_hash(), later.earlier_hash(), later.kept_hash()) == (own, earlier, earlier)
    with_it = [msgspec.convert({"type": "submit", **body, "speak": {"rate": rate}}, Later) for rate in (1, 2)]
    assert len({own, *(one.body_hash() for one in with_it)}) == 3
    assert all(one.kept_hash() == one.body_hash() for one in with_it)
    assert all(one.earlier_hash() == earlier for one in with_it)


def test_every_field_that_is_compared_has_a_plain_default() -> None:
    compared = [field for field in msgspec.structs.fields(Submit) if field.name not in ("session", "request_id")]
    assert all(field.default is not msgspec.NODEFAULT for field in compared)


@pytest.mark.parametrize("field", ["metadata", "schema"])
@pytest.mark.parametrize(("opening", "closing"), ["[]", ('{"a":', "}")])
def test_what_a_submit_says_is_nested_in_at_most_a_hundred_levels(field: str, opening: str, closing: str) -> None:
    head = json.dumps(SUBMIT)[:-1]
    for depth, fits in ((98, True), (99, False), (400, False)):
        raw = f'{head},"{field}":{{"x":{nested(depth, opening, closing)}}}}}'
        assert (taken_or_refused(raw) is not None) == fits, depth


# Hostile input


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" + closing * depth


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("", id="nothing"),
        pytest.param(" ", id="a blank"),
        pytest.param("\ufeff" + json.dumps(SUBMIT), id="a byte order mark"),
        pytest.param(b"\xff\xfe{}", id="not UTF-8"),
        pytest.param(b'{"type":"ping","t":"\xc3"}', id="half a UTF-8 sequence"),
        pytest.param(b'{"type":"ping","t":"\xed\xa0\xbd"}', id="a surrogate in UTF-8"),
        pytest.param('{"type":"ping","t":"\ud83d"}', id="a lone surrogate as it is"),
        pytest.param('{"type":"ping","t":"\\ud83d"}', id="a lone high surrogate, escaped"),
        pytest.param('{"type":"ping","t":"\\ude00\\ud83d"}', id="surrogates the wrong way round"),
        pytest.param('{"type":"ping","t":NaN}', id="NaN"),
        pytest.param('{"type":"ping","t":-Infinity}', id="Infinity"),
        pytest.param('{"type":"ping","t":1e400}', id="a number too large for a double"),
        pytest.param('{"type":"ping","t":01}', id="a number with a leading zero"),
        pytest.param('{"type":"ping","t":' + "1" * 100_000 + "}", id="an int of 100,000 digits"),
        pytest.param('{"type":"ping"', id="cut off"),
        pytest.param('{"type":"ping"}{}', id="two values"),
        pytest.param("{'type':'ping'}", id="single quotes"),
        pytest.param('{"type":"ping",}', id="a trailing comma"),
        pytest.param('{type:"ping"}', id="a bare key"),
        pytest.param('["ping"]', id="an array"),
        pytest.param('"ping"', id="a string"),
        pytest.param("5", id="a number"),
        pytest.param("null", id="null"),
        pytest.param("true", id="true"),
        pytest.param(nested(100_000), id="an array 100,000 deep"),
        pytest.param('{"type":"ping","t":' + nested(100_000, '{"a":', "}") + "}", id="a map 100,000 deep"),
        pytest.param("[" * 1_000_000, id="a million brackets"),
    ],
)
def test_what_is_no_json_object_is_a_bad_message(raw: str | bytes) -> None:
    with pytest.raises(ClientError) as raised:
        commands.check(commands.read(raw), LIMITS)
    assert raised.value.code == "bad_message"


def taken_or_refused(raw: str | bytes) -> Command | None:
    """The command, all that a gateway asks of it included; None if it was refused. Nothing else may come out."""
    try:
        fields = commands.read(raw)
        commands.reply_id(fields)
        command = commands.check(fields, LIMITS)
    except ClientError:
        return None
    if isinstance(command, Submit):
        assert len(command.body_hash()) == 32
        assert isinstance(command.user_turn, str)
    if isinstance(command, Ping):
        msgspec.json.encode(command.t)
    return command


NESTING: dict[str, dict[str, Any]] = {
    "t": {"type": "ping"},
    "id": {"type": "ping"},
    "type": {},
    "session": {"type": "unsubscribe"},
    "cursor": {"type": "subscribe", "session": "s"},
    "content": SUBMIT,
    "messages": {**SUBMIT, "content": None},
    "metadata": SUBMIT,
    "schema": SUBMIT,
    "unheard_of": SUBMIT,
}


@pytest.mark.parametrize("depth", [10, 100, 300, 450, 600, 800, 900, 950, 970, 985, 1000, 1900])
@pytest.mark.parametrize("field", NESTING)
def test_however_deep_a_field_nests_the_command_is_taken_or_refused(field: str, depth: int) -> None:
    head = json.dumps({"x": 1, **NESTING[field]})[:-1]
    maps = nested(depth // 5, '{"a":', "}")
    for value in (nested(depth), maps, f'{{"a":{nested(depth)}}}', f'{{"epoch":{maps},"seq":1}}', f"[{maps}]"):
        taken_or_refused(f'{head},"{field}":{value}}}')


@pytest.mark.parametrize("number", ["1" * 30, "-" + "9" * 300, "1e300", "-1e-300", "18446744073709551616", "0e0"])
def test_numbers_of_any_size_can_be_taken_compared_and_sent_back(number: str) -> None:
    assert isinstance(taken_or_refused(f'{{"type":"ping","t":{number}}}'), Ping)
    head = json.dumps(SUBMIT)[:-1]
    assert isinstance(taken_or_refused(f'{head},"metadata":{{"a":[{number}]}}}}'), Submit)


def test_of_a_doubled_key_the_last_counts() -> None:
    command = taken_or_refused('{"type":"ping","type":"hello","token":"a","token":"b"}')
    assert command == Hello("b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
NEARLY = st.sampled_from(
    [
        "s", "g_1", "", ".", "start", "live", "default", "user", "high", "x" * 65, 0, 1, -1, 2**53, True, None, [], {},
        {"epoch": "e", "seq": 1}, [{"role": "user", "content": "x"}], [{"role": "user"}], {"k": 1.5},
    ]
)  # fmt: skip
FIELDS = [*Submit.__struct_fields__, "id", "cursor", "from", "token", "t", "generation"]
KINDS = st.sampled_from(["hello", "ping", "subscribe", "unsubscribe", "submit", "stop"])


@given(JSON)
@settings(max_examples=150, deadline=None)
def test_any_json_value_is_a_command_or_refused(value: Any) -> None:
    taken_or_refused(json.dumps(value))


@given(
    KINDS,
    st.dictionaries(st.sampled_from(FIELDS), NEARLY | JSON, max_size=6),
    st.sampled_from([{}, {"session": "s"}, SUBMIT]),
)
@settings(max_examples=300, deadline=None)
def test_any_fields_of_a_known_command_are_a_command_or_refused(
    kind: str, fields: dict[str, Any], base: dict[str, Any]
) -> None:
    command = taken_or_refused(json.dumps({**base, **fields, "type": kind}))
    if command is not None:
        assert command.__struct_config__.tag == kind


@given(st.binary(max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_command_or_refused(raw: bytes) -> None:
    taken_or_refused(raw)
    taken_or_refused(b'{"type":"ping","t":"' + raw + b'"}')
