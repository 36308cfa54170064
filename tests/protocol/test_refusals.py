"""Refusals of a command: they name the field, and are short whatever was given."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from relay.errors import ClientError
from relay.protocol import commands, refusals

SUBMIT = {"type": "submit", "session": "s", "request_id": "r", "content": "q"}
LONG = "x" * 300_000


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"priority": LONG}, "priority: Invalid enum value 'xxx"),
        ({"mode": LONG}, "mode: Invalid enum value 'xxx"),
        ({"options": {"effort": LONG}}, "options.effort must be low, medium, high."),
        ({"content": None, "messages": [{"role": LONG, "content": ""}]}, "messages[0].role: Invalid enum value 'xxx"),
        ({"type": "subscribe", "from": LONG}, "from: Invalid enum value 'xxx"),
    ],
)
def test_a_value_that_cannot_be_is_quoted_in_part(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ClientError) as raised:
        commands.check(commands.read(json.dumps({**SUBMIT, **fields})), {})
    assert raised.value.code == "bad_message"
    assert raised.value.message.startswith(named)
    assert len(raised.value.message) < 300


@pytest.mark.parametrize(
    ("value", "kind", "where", "message"),
    [
        ({"a": [1, "x"]}, dict[str, list[int]], "", "[...][1]: Expected `int`, got `str`"),
        ([1, "x"], list[int], "openai", "openai[1]: Expected `int`, got `str`"),
        ("x", int, "", "Expected `int`, got `str`"),
        ("x", int, "openai", "openai: Expected `int`, got `str`"),
    ],
)
def test_the_place_goes_first(value: Any, kind: Any, where: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(value, kind)
    assert refusals.refusal(raised.value, where).message == message
