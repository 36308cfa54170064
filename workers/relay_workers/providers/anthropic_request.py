"""What a message is asked with: a request that the server at hand accepts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.protocol.options import Options
from relay_workers.providers.base import Prompt
from relay_workers.providers.known_servers import Known
from relay_workers.providers.request import Parameter, Request, ignored_options
from relay_workers.providers.turns import alternating, without_blank, without_system

MAX_TOKENS = 8192  # if the submit sets no limit: the API requires one; it counts the model's thinking as well
MAX_TEMPERATURE = 1.0  # of this API; a submit may ask for 2

_THINKING = {"type": "adaptive", "display": "summarized"}
_OPTIONS: Mapping[str, Parameter] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "stop": "stop_sequences",
    "effort": "output_config",
}
_BODY_ONLY = ("temperature", "top_p")  # anthropic 2.14 has no arguments for them: newer models refuse both


def message_request(
    prompt: Prompt, model: str, known: Known, refused: frozenset[Parameter] = frozenset(), *, reasoning: bool
) -> Request:
    """A message. `reasoning`: whether to ask for the model's thinking. `refused`: what this server has refused so far.

    The API takes user and assistant by turns only, and refuses blank ones.
    """
    system, spoken = without_system(without_blank(prompt.turns))
    optional = _options(prompt.options or Options())
    if reasoning:
        optional["thinking"] = _THINKING
    optional = {name: value for name, value in optional.items() if name not in known.refuses | refused}
    if "temperature" in optional:
        optional.pop("top_p", None)  # "cannot both be specified for this model": newer ones; the docs advise all
    arguments: dict[str, Any] = {
        "model": model,
        "messages": [{"role": turn.role, "content": turn.content} for turn in alternating(spoken)],
        "max_tokens": MAX_TOKENS if prompt.max_tokens is None else prompt.max_tokens,
        "stream": True,
        **({"system": system} if system else {}),
        **{name: value for name, value in optional.items() if name not in _BODY_ONLY},
    }
    if body := {name: optional[name] for name in _BODY_ONLY if name in optional}:
        arguments["extra_body"] = body
    parameters = frozenset(optional)
    return Request(arguments, parameters, tuple(ignored_options(prompt.options, _OPTIONS, parameters)))


def _options(options: Options) -> dict[Parameter, Any]:
    stop = [sequence for sequence in options.stop or [] if sequence.strip()]  # the API refuses blank ones
    asked: dict[Parameter, Any] = {
        "temperature": None if options.temperature is None else min(options.temperature, MAX_TEMPERATURE),
        "top_p": options.top_p,
        "stop_sequences": stop or None,
        "output_config": None if options.effort is None else {"effort": options.effort},
    }
    return {name: value for name, value in asked.items() if value is not None}
