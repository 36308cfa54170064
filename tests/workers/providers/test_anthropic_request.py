"""What Anthropic's API is asked with: bodies as literals, by what is known and what was refused."""

from __future__ import annotations

from typing import Any

import pytest

from relay.protocol.options import Options
from relay_workers.providers.anthropic_request import MAX_TOKENS, message_request
from relay_workers.providers.base import Prompt, Turn
from relay_workers.providers.known_servers import Known
from relay_workers.providers.request import Parameter, Request

UNKNOWN = Known(frozenset(), "max_tokens")
HELLO = [Turn("user", "Hello?")]
THINKING = {"type": "adaptive", "display": "summarized"}


def request(*refused: Parameter, known: Known = UNKNOWN, reasoning: bool = False, **options: Any) -> Request:
    prompt = Prompt(HELLO, options=Options(**options) if options else None)
    return message_request(prompt, "m", known, frozenset(refused), reasoning=reasoning)


def test_without_options_there_are_none() -> None:
    assert request().arguments == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello?"}],
        "max_tokens": MAX_TOKENS,
        "stream": True,
    }


@pytest.mark.parametrize(
    ("options", "sent", "ignored"),
    [
        ({"temperature": 0.2}, {"extra_body": {"temperature": 0.2}}, ()),
        ({"temperature": 0.0}, {"extra_body": {"temperature": 0.0}}, ()),
        ({"temperature": 1.5}, {"extra_body": {"temperature": 1.0}}, ()),
        ({"top_p": 0.9}, {"extra_body": {"top_p": 0.9}}, ()),
        ({"temperature": 0.2, "top_p": 0.9}, {"extra_body": {"temperature": 0.2}}, ("top_p",)),
        ({"stop": ["END", "\n\n"]}, {"stop_sequences": ["END"]}, ()),
        ({"stop": [" "]}, {}, ("stop",)),
        ({"seed": 7}, {}, ("seed",)),
        ({"effort": "high"}, {"output_config": {"effort": "high"}}, ()),
    ],
)
def test_an_option_has_the_apis_own_name_and_range(
    options: dict[str, Any], sent: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    found = request(**options)
    assert {name: value for name, value in found.arguments.items() if name not in request().arguments} == sent
    assert found.ignored == ignored
    assert found.optional == {*sent, *sent.get("extra_body", {})} - {"extra_body"}


@pytest.mark.parametrize("how", ["known", "learned"])
@pytest.mark.parametrize("refused", ["thinking", "output_config", "temperature", "stop_sequences"])
def test_what_is_refused_is_left_out(refused: Parameter, how: str) -> None:
    options: dict[str, Any] = {"temperature": 0.2, "stop": ["END"], "effort": "low"}
    whole = request(reasoning=True, **options).arguments
    assert whole["thinking"] == THINKING
    known = Known(frozenset({refused}), "max_tokens") if how == "known" else UNKNOWN
    found = request(*([refused] if how == "learned" else []), known=known, reasoning=True, **options).arguments
    whole.pop("extra_body" if refused == "temperature" else refused)
    assert found == whole


def test_a_top_p_is_sent_once_the_temperature_is_refused() -> None:
    found = request("temperature", temperature=0.2, top_p=0.9)
    assert found.arguments["extra_body"] == {"top_p": 0.9}
    assert found.ignored == ("temperature",)


def test_thinking_is_not_asked_for_where_reasoning_is_not_shown() -> None:
    assert "thinking" not in request(reasoning=False).arguments
