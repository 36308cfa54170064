"""What OpenAI's two APIs are asked with: bodies as literals, by what is known and what was refused."""

from __future__ import annotations

from typing import Any

import pytest

from relay.protocol.options import Options
from relay_workers.providers.base import Prompt, Turn
from relay_workers.providers.known_servers import Known
from relay_workers.providers.openai_request import MIN_TOKENS, background_request, chat_request
from relay_workers.providers.request import Parameter

UNKNOWN = Known(frozenset(), "max_tokens")
ALL = Options(temperature=1.5, top_p=0.5, stop=["END", "\n"], seed=7, effort="low")
ASKED = Prompt([Turn("user", "Hello?")], max_tokens=5, options=ALL)
CONTEXT = Prompt(
    [
        Turn("system", "Be brief."),
        Turn("user", "Hello?"),
        Turn("assistant", "\n"),
        Turn("user", "Are you there?"),
        Turn("system", "Be kind."),
        Turn("user", "Go on."),
    ]
)


def chat(prompt: Prompt, *refused: Parameter, known: Known = UNKNOWN, **more: Any) -> tuple[dict[str, Any], set[str]]:
    request = chat_request(prompt, "m", known, frozenset(refused), **more)
    return request.arguments, {*request.optional}


def background(prompt: Prompt, *refused: Parameter, min_tokens: int = 0, summary: bool = True) -> dict[str, Any]:
    request = background_request(prompt, "m", UNKNOWN, frozenset(refused), summary=summary, min_tokens=min_tokens)
    return request.arguments


def test_every_option_has_its_parameter() -> None:
    assert chat(ASKED)[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1.5,
        "top_p": 0.5,
        "stop": ["END", "\n"],
        "seed": 7,
        "reasoning_effort": "low",
        "max_tokens": 5,
    }


def test_what_nobody_asked_for_is_not_sent() -> None:
    assert {*chat(Prompt([Turn("user", "?")]))[0]} == {"model", "messages", "stream", "stream_options"}


@pytest.mark.parametrize(
    "refused", ["stream_options", "temperature", "top_p", "stop", "seed", "reasoning_effort", "max_tokens"]
)
def test_what_is_refused_is_left_out_or_has_its_other_name(refused: Parameter) -> None:
    before, _ = chat(ASKED)
    after, optional = chat(ASKED, refused)
    missing = before.pop(refused)
    if refused == "max_tokens":
        before["max_completion_tokens"] = missing
    assert after == before
    assert refused not in optional
    assert chat(ASKED, known=Known(frozenset({refused}), "max_tokens"))[0] == (
        before if refused != "max_tokens" else chat(ASKED)[0]
    )


def test_the_limit_has_the_name_that_is_known_until_that_is_refused() -> None:
    new = Known(frozenset(), "max_completion_tokens")
    assert chat(ASKED, known=new)[0]["max_completion_tokens"] == 5
    assert "max_tokens" not in chat(ASKED, known=new)[0]
    assert chat(ASKED, "max_completion_tokens", known=new)[0]["max_tokens"] == 5


def test_usage_is_not_asked_for_where_a_setting_says_so() -> None:
    assert "stream_options" not in chat(ASKED, stream_usage=False)[0]


def test_options_that_are_left_out_are_named() -> None:
    assert chat_request(ASKED, "m", UNKNOWN).ignored == ()
    known = Known(frozenset({"stop", "seed"}), "max_tokens")
    assert chat_request(ASKED, "m", known, frozenset({"reasoning_effort"})).ignored == ("stop", "seed", "effort")
    half = Prompt(ASKED.turns, options=Options(seed=0))
    assert chat_request(half, "m", known).ignored == ("seed",)


SPOKEN = ["Be brief.", "Hello?", "Are you there?", "Be kind.", "Go on."]


@pytest.mark.parametrize(
    ("refused", "sent", "open_to"),
    [
        ([], ["s", "u", "u", "s", "u"], {"roles", "system"}),
        (["roles"], ["s", "u"], {"system"}),
        (["system"], ["u"], set()),
        (["roles", "system"], ["u"], set()),
    ],
)
def test_turns_come_as_the_server_takes_them_without_blank_ones(
    refused: list[Parameter], sent: list[str], open_to: set[str]
) -> None:
    arguments, optional = chat(CONTEXT, *refused)
    assert [message["role"][0] for message in arguments["messages"]] == sent
    assert sorted("\n\n".join(message["content"] for message in arguments["messages"]).split("\n\n")) == sorted(SPOKEN)
    assert optional - {"stream_options"} == open_to
    assert background(CONTEXT, *refused)["input"] == arguments["messages"]


def test_a_context_in_order_leaves_nothing_to_complain_about_but_its_system_turn() -> None:
    plain = Prompt([Turn("user", "1"), Turn("assistant", "x"), Turn("user", "2")])
    assert chat(plain)[1] == {"stream_options"}
    assert chat(Prompt([Turn("system", "A"), *plain.turns]))[1] == {"stream_options", "system"}


def test_a_background_response_is_asked_for_with_the_options_that_it_has() -> None:
    assert background(ASKED, min_tokens=MIN_TOKENS) == {
        "model": "m",
        "input": [{"role": "user", "content": "Hello?"}],
        "background": True,
        "store": True,
        "stream": True,
        "temperature": 1.5,
        "top_p": 0.5,
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": MIN_TOKENS,
    }
    request = background_request(ASKED, "m", UNKNOWN, summary=True, min_tokens=0)
    assert request.ignored == ("stop", "seed")
    assert request.arguments["max_output_tokens"] == 5
    assert "max_output_tokens" not in request.optional


def test_a_background_response_without_what_was_refused() -> None:
    assert background(ASKED, "reasoning.summary")["reasoning"] == {"effort": "low"}
    assert background(ASKED, "reasoning.effort")["reasoning"] == {"summary": "auto"}
    assert "reasoning" not in background(ASKED, "reasoning.summary", "reasoning.effort")
    assert "reasoning" not in background(Prompt(ASKED.turns), summary=False)
    assert "temperature" not in background(ASKED, "temperature")
