"""What OpenAI's two APIs are asked with: requests that the server at hand accepts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay_workers.providers.base import Prompt, Turn
from relay_workers.providers.known_servers import Known
from relay_workers.providers.request import OTHER_NAME, Parameter, Request, ignored_options
from relay_workers.providers.turns import in_order, system_as_user, without_blank

MIN_TOKENS = 16  # OpenAI refuses a lower max_output_tokens

_CHAT_OPTIONS: Mapping[str, Parameter] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "stop": "stop",
    "seed": "seed",
    "effort": "reasoning_effort",
}
_RESPONSES_OPTIONS: Mapping[str, Parameter] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "effort": "reasoning.effort",
}


def chat_request(
    prompt: Prompt, model: str, known: Known, refused: frozenset[Parameter] = frozenset(), *, stream_usage: bool = True
) -> Request:
    """A chat completion. `refused`: what this server has refused so far."""
    messages, shape = _messages(prompt.turns, known.refuses | refused)
    optional = _options(prompt, _CHAT_OPTIONS)
    if stream_usage:
        optional["stream_options"] = {"include_usage": True}
    optional = {name: value for name, value in optional.items() if name not in known.refuses | refused}
    if prompt.max_tokens is not None:
        optional[OTHER_NAME[known.limit] if known.limit in refused else known.limit] = prompt.max_tokens
    arguments: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    _put(arguments, optional)
    parameters = frozenset(optional)
    return Request(arguments, parameters | shape, tuple(ignored_options(prompt.options, _CHAT_OPTIONS, parameters)))


def background_request(
    prompt: Prompt,
    model: str,
    known: Known,
    refused: frozenset[Parameter] = frozenset(),
    *,
    summary: bool,
    min_tokens: int,
) -> Request:
    """A background response. `summary`: of the model's reasoning, if it may have one."""
    turns, shape = _messages(prompt.turns, known.refuses | refused)
    optional = _options(prompt, _RESPONSES_OPTIONS)
    if summary:
        optional["reasoning.summary"] = "auto"
    optional = {name: value for name, value in optional.items() if name not in known.refuses | refused}
    arguments: dict[str, Any] = {"model": model, "input": turns, "background": True, "store": True, "stream": True}
    _put(arguments, optional)
    if prompt.max_tokens is not None:
        arguments["max_output_tokens"] = max(prompt.max_tokens, min_tokens)
    parameters = frozenset(optional)
    return Request(
        arguments, parameters | shape, tuple(ignored_options(prompt.options, _RESPONSES_OPTIONS, parameters))
    )


def _options(prompt: Prompt, names: Mapping[str, Parameter]) -> dict[Parameter, Any]:
    asked = {parameter: getattr(prompt.options, option, None) for option, parameter in names.items()}
    return {parameter: value for parameter, value in asked.items() if value is not None}


def _put(arguments: dict[str, Any], optional: Mapping[Parameter, Any]) -> None:
    """A name with a dot is a member of an object."""
    for name, value in optional.items():
        outer, _, inner = name.partition(".")
        arguments[outer] = {**arguments.get(outer, {}), inner: value} if inner else value


def _messages(turns: list[Turn], refused: frozenset[Parameter]) -> tuple[list[dict[str, str]], frozenset[Parameter]]:
    """The turns as they are, or as far as needed in the order that the server wants; and what it may still refuse."""
    kept = without_blank(turns)
    if "system" in refused:
        kept = system_as_user(kept)
    elif "roles" in refused:
        kept = in_order(kept)
    shape: set[Parameter] = {"roles"} if kept != in_order(kept) else set()
    if any(turn.role == "system" for turn in kept):
        shape.add("system")
    return [{"role": turn.role, "content": turn.content} for turn in kept], frozenset(shape)
