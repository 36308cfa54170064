"""Options of a submit: each at both ends of its bounds, what is refused and how that is named, and what is the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import ClientError
from relay.protocol import commands
from relay.protocol.commands import Submit
from relay.protocol.options import MAX_SEED, NAMES, Options, check_options, with_defaults

LIMITS: dict[str, float] = {"max_command_bytes": 1048576, "max_content_bytes": 131072}
SUBMIT: dict[str, Any] = {"type": "submit", "session": "s", "request_id": "r", "content": "Hello"}


def submit(**fields: Any) -> Submit:
    command = commands.check(commands.read(json.dumps({**SUBMIT, **fields})), LIMITS)
    assert isinstance(command, Submit)
    return command


def refusal(options: Any) -> ClientError:
    with pytest.raises(ClientError) as raised:
        submit(options=options)
    return raised.value


def ignored(options: Any, **fields: Any) -> list[str]:
    return commands.ignored(commands.read(json.dumps({**SUBMIT, **fields, "options": options})))


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"temperature": 0}, Options(temperature=0.0)),
        ({"temperature": 2}, Options(temperature=2.0)),
        ({"temperature": 0.7}, Options(temperature=0.7)),
        ({"top_p": 5e-324}, Options(top_p=5e-324)),
        ({"top_p": 1}, Options(top_p=1.0)),
        ({"stop": "\n"}, Options(stop=["\n"])),
        ({"stop": "é" * 64}, Options(stop=["é" * 64])),
        ({"stop": ["a"]}, Options(stop=["a"])),
        ({"stop": ["a", " ", "c", "d" * 64]}, Options(stop=["a", " ", "c", "d" * 64])),
        ({"seed": 0}, Options(seed=0)),
        ({"seed": 7.0}, Options(seed=7)),
        ({"seed": 2**53 - 1}, Options(seed=2**53 - 1)),
        ({"seed": -(2**53 - 1)}, Options(seed=-(2**53 - 1))),
        ({"effort": "low"}, Options(effort="low")),
        ({"effort": "medium"}, Options(effort="medium")),
        ({"effort": "high"}, Options(effort="high")),
        ({"temperature": 1, "top_p": 0.5, "stop": "x", "seed": 1, "effort": "low"}, Options(1.0, 0.5, ["x"], 1, "low")),
        ({"temperature": None, "seed": 3, "stop": None}, Options(seed=3)),
        ({"top_k": 40, "seed": 3}, Options(seed=3)),
        ({}, None),
        ({"temperature": None}, None),
        ({"top_k": 40}, None),
        (None, None),
    ],
)
def test_options_within_their_bounds_are_taken(given: Any, options: Options | None) -> None:
    assert submit(options=given).options == options


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"temperature": -0.1}, "options.temperature:"),
        ({"temperature": 2.01}, "options.temperature:"),
        ({"temperature": True}, "options.temperature:"),
        ({"temperature": "1"}, "options.temperature:"),
        ({"temperature": [1]}, "options.temperature:"),
        ({"temperature": 10**400}, "options.temperature:"),
        ({"top_p": 0}, "options.top_p:"),
        ({"top_p": -0.0}, "options.top_p:"),
        ({"top_p": 1.01}, "options.top_p:"),
        ({"top_p": False}, "options.top_p:"),
        ({"stop": ""}, "options.stop"),
        ({"stop": "x" * 65}, "options.stop"),
        ({"stop": []}, "options.stop:"),
        ({"stop": ["a"] * 5}, "options.stop:"),
        ({"stop": ["a", ""]}, "options.stop[1]:"),
        ({"stop": ["a", "x" * 65]}, "options.stop[1]:"),
        ({"stop": ["a", None]}, "options.stop[1]:"),
        ({"stop": [1]}, "options.stop[0]:"),
        ({"stop": 1}, "options.stop:"),
        ({"stop": {"a": 1}}, "options.stop:"),
        ({"seed": 1.5}, "options.seed:"),
        ({"seed": True}, "options.seed:"),
        ({"seed": "1"}, "options.seed:"),
        ({"seed": 2**53}, "options.seed:"),
        ({"seed": -(2**53)}, "options.seed:"),
        ({"seed": 1e300}, "options.seed:"),
        ({"effort": "max"}, "options.effort"),
        ({"effort": "LOW"}, "options.effort"),
        ({"effort": ""}, "options.effort"),
        ({"effort": 1}, "options.effort"),
        ({"top_k": 1, "seed": "x"}, "options.seed:"),
        ([], "options "),
        ("", "options "),
        (0, "options "),
        (False, "options "),
    ],
)
def test_options_beyond_them_are_a_bad_message_that_names_the_member(given: Any, named: str) -> None:
    error = refusal(given)
    assert error.code == "bad_message"
    assert error.message.startswith(named)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["temperature", "top_p", "seed"])
def test_what_is_no_number_is_refused_where_no_json_decoder_has_done_so(name: str, number: float) -> None:
    with pytest.raises(ClientError) as raised:
        check_options({name: number}, "openai")
    assert raised.value.message.startswith(f"openai.{name}: ")


def test_unknown_options_are_named_among_what_was_ignored() -> None:
    assert ignored({"seed": 1}) == []
    assert ignored({"top_k": 1, "seed": 1, "n": 2, "logprobs": None}) == ["options.top_k", "options.n"]
    assert ignored({"top_k": 1}, temperature=1) == ["temperature", "options.top_k"]
    assert ignored({"\x1b": 1, "x" * 70: 1}) == ["options.\ufffd", "options." + "x" * 56]
    assert ignored({f"n{number}": 1 for number in range(30)}) == [f"options.n{number}" for number in range(20)]
    assert ignored([{"top_k": 1}]) == []  # refused anyway


def test_a_body_without_options_keeps_its_hash() -> None:
    bare = submit()
    for nothing in ({}, {"temperature": None}, {"top_k": 1}, None):
        asked = submit(options=nothing)
        assert asked.body_hash() == bare.body_hash()
        assert asked.kept_hash() == bare.kept_hash() == "5255d61e41e7d5363cbb323a9a4b1f7b"


def test_the_hash_of_a_body_with_options_is_this() -> None:
    """A literal, as hashes lie in Redis; earlier gateways know only the hash without options."""
    asked = submit(options={"temperature": 1, "stop": "END", "seed": 7})
    assert asked.body_hash() == asked.kept_hash() == "162f402513a824e4985b7c3596e478cd"
    assert asked.earlier_hash() == submit().earlier_hash()


GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.integers(0, 2) | st.floats(0, 2),
        "top_p": st.just(1) | st.floats(0, 1, exclude_min=True),
        "stop": st.text(min_size=1, max_size=3, alphabet="ab") | st.lists(st.just("a"), min_size=1, max_size=2),
        "seed": st.integers(-MAX_SEED, MAX_SEED) | st.integers(-9, 9).map(float),
        "effort": st.sampled_from(["low", "medium", "high"]),
    },
)


def meaning(given: dict[str, Any]) -> dict[str, Any]:
    """What it asks for; Python's 1 and 1.0 are equal, as JSON's are."""
    return {name: [value] if name == "stop" and isinstance(value, str) else value for name, value in given.items()}


@given(GIVEN, GIVEN)
@settings(max_examples=200, deadline=None)
def test_hashes_are_equal_where_the_same_is_asked_for_and_nowhere_else(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    again = dict(reversed(meaning(one).items()))
    assert submit(options=one).body_hash() == submit(options=again).body_hash()
    same = submit(options=one).body_hash() == submit(options=other).body_hash()
    assert same == (meaning(one) == meaning(other))


@given(GIVEN, GIVEN)
@settings(max_examples=100, deadline=None)
def test_what_is_asked_for_goes_before_the_defaults_member_by_member(
    asked: dict[str, Any], defaults: dict[str, Any]
) -> None:
    merged = with_defaults(check_options(asked, "o"), check_options(defaults, "o"))
    assert merged == check_options({**defaults, **asked}, "o")


def test_every_option_has_a_name_and_may_be_absent() -> None:
    assert NAMES == ("temperature", "top_p", "stop", "seed", "effort")
    assert Options() == Options(None, None, None, None, None)
