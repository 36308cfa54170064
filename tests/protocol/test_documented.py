"""docs/protocol.md against the structs: each command, event, frame, field, code and default, in both directions."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from starlette.routing import Route, WebSocketRoute

from relay.errors import HTTP_STATUS, RETRYABLE, Code
from relay.gateway.app import app
from relay.gateway.gateway import Gateway
from relay.gateway.greeting import CLOSE_CODES
from relay.protocol import commands, events, frames, options
from relay.protocol.commands import Command, Submit
from relay.protocol.events import AnyEvent
from relay.protocol.words import FEATURES, FailureCode, Finish, Reason
from relay.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "protocol.md").read_text()
EVERY_EVENT = {"generation", "attempt"}  # "All but `message` carry …"

Rows = dict[str, list[str]]


def section(title: str) -> str:
    """From this heading to the next one of its level or above."""
    level = title.partition(" ")[0]
    _, found, rest = DOCS.partition(f"\n{title}")
    assert found, title
    return re.split(rf"\n#{{2,{len(level)}}} ", rest, maxsplit=1)[0]


def table(text: str, head: str) -> Rows:
    """The rows below the head that begins so: all that the first cell names → the cells."""
    _, found, rest = text.partition(f"\n| {head} |")
    assert found, head
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    return {name: row for row in cells for name in names_in(row[0])}


def names_in(text: str) -> list[str]:
    return re.findall(r"`([a-z]\w*)`", text)


def name_of(kind: Any) -> str:
    return str(kind.__struct_config__.tag)


def fields_of(kind: Any) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def words_of(kind: Any, field: str) -> set[str]:
    """The closed set of words that this field may have; empty if it has none."""

    def words(hint: Any) -> Iterator[str]:
        if get_origin(hint) is Literal:
            yield from get_args(hint)
        elif get_origin(hint) in (Union, types.UnionType):
            for part in get_args(hint):
                yield from words(part)

    name = next(known.name for known in msgspec.structs.fields(kind) if known.encode_name == field)
    return set(words(get_type_hints(kind)[name]))


def example(text: str, kind: str) -> dict[str, Any]:
    """The first block that shows one, as JSON."""
    for block in re.findall(r"```\n(.*?)```", text, re.DOTALL):
        if block.startswith(f'{{"type":"{kind}"'):
            found: dict[str, Any] = msgspec.json.decode(block)
            return found
    raise AssertionError(f"no example of {kind}")


def words_in(literal: Any) -> set[str]:
    return set(get_args(literal))


NOT_YET = set(names_in(section("## 11. Not yet"))) | {"report"}
COMMANDS = table(section("## 3. Commands"), "command")
SUBMIT = table(section("### submit"), "field")
EVENTS = table(section("## 5. Events"), "event")
END = table(section("## 5. Events"), "field of `end`")
# `accepted {session, generation}`: a frame and its fields, `id` aside.
SIGNATURES = {
    name: set(re.findall(r"\w+", fields))
    for text in (*(row[2] for row in COMMANDS.values()), section("### welcome and the unasked ones"))
    for name, fields in re.findall(r"`([a-z_]+) \{(.*?)\}`", text)
}
EXAMPLES = {
    "welcome": (section("### welcome and the unasked ones"), "welcome"),
    "subscribed": (section("### subscribed"), "subscribed"),
    "catchup": (section("### Live events and catchups"), "catchup"),
    "error": (section("## 7. Errors and closes"), "error"),
}

OPTIONAL = {
    frames.ErrorFrame: {"retry_after_s"},
    frames.Subscribed: {"ignored"},
    frames.Welcome: {"expires_at"},
}  # told beside their examples


# Commands


def test_the_commands_are_these() -> None:
    structs = [kind for kind in vars(commands).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    tagged = {kind for kind in structs if kind.__struct_config__.tag}
    assert tagged == set(get_args(Command)), "what a gateway does not know, it does not answer"
    assert COMMANDS.keys() == {name_of(kind) for kind in tagged}


@pytest.mark.parametrize("kind", [kind for kind in get_args(Command) if kind is not Submit], ids=name_of)
def test_a_command_has_these_fields(kind: Any) -> None:
    told = COMMANDS[name_of(kind)][1]
    assert set(names_in(told)) == fields_of(kind)
    assert set(re.findall(r'"(\w+)"', told)) == {word for field in fields_of(kind) for word in words_of(kind, field)}
    defaults = {field.default for field in msgspec.structs.fields(kind)} - {None, msgspec.NODEFAULT}
    assert set(re.findall(r'"(\w+)"` \(default\)', told)) == defaults


def test_a_submit_has_these_fields() -> None:
    assert SUBMIT.keys() <= fields_of(Submit)
    assert fields_of(Submit) - SUBMIT.keys() <= NOT_YET
    turn = fields_of(commands.Turn) | words_of(commands.Turn, "role")
    assert set(re.findall(r'"(\w+)"', SUBMIT["messages"][1])) == turn


@pytest.mark.parametrize("field", msgspec.structs.fields(Submit), ids=lambda field: field.encode_name)
def test_a_field_of_a_submit_has_these_words_and_this_default(field: msgspec.structs.FieldInfo) -> None:
    told = SUBMIT.get(field.encode_name, ["", ""])[1]
    if words := words_of(Submit, field.encode_name):
        assert words >= set(names_in(told)) >= words - NOT_YET
    defaults = re.findall(r"`(\w+)` \(default\)|default `(\w+)`", told)
    expected = [field.default] if isinstance(field.default, str) else []
    assert [one or other for one, other in defaults] == expected


def test_the_options_of_a_submit_are_these_with_these_bounds() -> None:
    told = {name: row[1] for name, row in table(section("### submit"), "option").items()}
    assert set(told) == set(options.NAMES) == set(names_in(SUBMIT["options"][1]))
    assert f"a number of 0 to {options.MAX_TEMPERATURE:g}" == told["temperature"]
    assert f"list of 1 to {options.MAX_STOPS}; each of 1 to {options.MAX_STOP_LENGTH} characters" in told["stop"]
    assert f"an integer of -{options.MAX_SEED} to {options.MAX_SEED}" == told["seed"]
    assert names_in(told["effort"]) == list(get_args(options.Effort))


def test_what_commands_may_hold_is_told() -> None:
    told = section("## 3. Commands")
    assert f"`id`: a string of at most {commands.MAX_ID_LENGTH} characters" in told
    assert f"any value of at most {commands.MAX_ECHO_BYTES // 1024} KiB" in COMMANDS["ping"][1]
    assert f"at most {commands.MAX_METADATA_BYTES // 1024} KiB" in SUBMIT["metadata"][1]
    assert f"the first {commands.MAX_IGNORED}, each cut\n  to {commands.MAX_IGNORED_LENGTH} characters" in told
    assert f"nested in at most {commands.MAX_NESTING} levels" in told


# Frames


def test_the_frames_are_these() -> None:
    shown = set(re.findall(r'^(?:< )?\{"type":"(\w+)"', DOCS, re.MULTILINE)) - COMMANDS.keys()
    assert SIGNATURES.keys() | shown == {name_of(kind) for kind in frames.Frame.__subclasses__()}


@pytest.mark.parametrize("kind", frames.Frame.__subclasses__(), ids=name_of)
def test_a_frame_has_these_fields(kind: Any) -> None:
    """In its row, or in the example of its section; the `id` of a reply is told of all at once."""
    shown = EXAMPLES.get(name_of(kind))
    told = SIGNATURES[name_of(kind)] if shown is None else example(*shown).keys() - {"type"}
    optional = OPTIONAL.get(kind, set())
    assert all(f"`{field}`" in shown[0] for field in optional if shown is not None)
    assert fields_of(kind) - {"id"} == told - {"id"} | optional


def test_welcome_shows_the_limits_and_their_defaults() -> None:
    welcome = example(*EXAMPLES["welcome"])
    assert welcome["limits"] == Settings.model_construct().limits
    assert welcome["heartbeat_s"] == Settings.model_construct().heartbeat_s


def test_welcome_shows_the_features_and_each_is_told() -> None:
    assert example(*EXAMPLES["welcome"])["features"] == list(FEATURES)
    told = section("### welcome and the unasked ones").partition("`features`: ")[2]
    assert set(FEATURES) <= set(names_in(told.partition("\n\n")[0]))


def test_an_active_generation_has_these_fields() -> None:
    [active] = example(*EXAMPLES["subscribed"])["active"]
    assert set(active) == fields_of(frames.Active)


# Events


def test_the_events_are_these() -> None:
    assert EVENTS.keys() == {name_of(kind) for kind in get_args(AnyEvent)}


@pytest.mark.parametrize("kind", [kind for kind in get_args(AnyEvent) if kind is not events.End], ids=name_of)
def test_an_event_has_these_fields_and_words(kind: Any) -> None:
    told, meaning = EVENTS[name_of(kind)][1:]
    field, colon, words = told.partition(":")  # either its fields, or its field and the words that this may have
    named = set(names_in(field if colon else told))
    beside = set(names_in(meaning)) & fields_of(kind)
    assert named | beside == fields_of(kind) - (set() if kind is events.Message else EVERY_EVENT)
    assert set(names_in(words)) == {word for name in fields_of(kind) for word in words_of(kind, name)}


def test_an_end_has_these_fields() -> None:
    assert END.keys() == fields_of(events.End) - EVERY_EVENT


def test_what_an_end_says_has_these_words() -> None:
    said, reserved = END["reason"][1].split("Reserved:")
    assert {*names_in(said), *names_in(reserved)} == set(get_args(Reason))
    assert set(names_in(END["finish"][1])) - words_in(Reason) == words_in(Finish)
    for field, kind in {"timings_ms": events.Timings, "usage": events.Usage, "error": events.Failure}.items():
        told = set(names_in(END[field][1])) | set(re.findall(r"\w+", "".join(re.findall(r"\{(.*?)\}", END[field][1]))))
        assert told - words_in(Reason) == fields_of(kind)


def test_the_codes_of_a_failed_answer_are_these() -> None:
    assert table(section("## 5. Events"), "`error.code`").keys() == words_in(FailureCode)


# Errors, closes, addresses


def test_the_codes_of_errors_are_these_with_their_status() -> None:
    assert HTTP_STATUS.keys() == words_in(Code)
    assert words_in(Code) >= RETRYABLE
    told = table(section("## 7. Errors and closes"), "code")
    assert told.keys() <= HTTP_STATUS.keys()
    assert HTTP_STATUS.keys() - told.keys() <= NOT_YET
    for code, row in told.items():
        assert row[1] in (str(HTTP_STATUS[code]), "–"), code  # type: ignore[index]


def test_the_closes_are_these() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "relay" / "gateway").glob("*.py"))
    given = set(re.findall(r"(?:close|fail)\((\d{4}),", sources)) - {"1000"}
    given |= {str(code) for code in CLOSE_CODES.values()}
    told = set(re.findall(r"^\| (\d{4}) \|", section("## 7. Errors and closes"), re.MULTILINE))
    assert told == given


def test_the_addresses_are_these() -> None:
    routes = [
        route for route in app(Gateway(Settings.model_construct())).routes if isinstance(route, Route | WebSocketRoute)
    ]
    told = set(re.findall(r"`(?:GET |POST |DELETE )?(/[^`\s]*)`", section("## 2. Endpoints").partition("**Host")[0]))
    assert told == {route.path for route in routes} - {"/{path:path}"}
