"""Reads an agent's answer, leniently, because services name their text differently. Pure.

The text is the first of these members, each a string or an object whose `content` is a string:

    content, text, answer, output, response, reply, result, message, choices[0].message

or the whole body, if it is a JSON string. Further members: `reasoning` (a string), `data` (`[{"name", "value"}]`),
`model`, `finish` or `finish_reason`, and `usage` (`input_tokens` and `output_tokens`, or `prompt_tokens` and
`completion_tokens`). With a member `error` that is not empty, the answer is a failure.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from relay.protocol.words import Finish
from relay_workers.providers.base import Data, Finished, ProviderError, checked_data, checked_model, checked_usage
from relay_workers.providers.failures import classify_status

TEXTS = ("content", "text", "answer", "output", "response", "reply", "result", "message")

_FINISHES: dict[str, Finish] = {
    "stop": "stop", "end_turn": "stop", "stop_sequence": "stop", "length": "length", "max_tokens": "length",
    "filter": "filter", "content_filter": "filter", "refusal": "filter",
}  # fmt: skip


class AgentAnswer(msgspec.Struct, frozen=True):
    """One whole answer; `text` may hold half surrogate pairs, as any delta may."""

    text: str
    reasoning: str
    data: list[Data]
    finished: Finished


def read(body: bytes, asked: str) -> AgentAnswer:
    """The answer in a body; `asked` is its model if it names none. Raises ProviderError that quotes nothing of it."""
    said = _decode(body)
    if isinstance(said, str):
        return AgentAnswer(said, "", [], Finished("stop", asked))
    if not isinstance(said, dict):
        raise _unusable(f"the answer is {_kind(said)}, not a JSON object")
    if error := said.get("error"):
        names = _names(error)
        raise classify_status(None, names, " ".join(["an error in the answer", *(name[:60] for name in names)]))
    reasoning = said.get("reasoning")
    finished = Finished(_finish(said), checked_model(said.get("model"), asked), _usage(said.get("usage")))
    return AgentAnswer(_text(said), reasoning if isinstance(reasoning, str) else "", _data(said.get("data")), finished)


def error_names(body: bytes) -> list[str]:
    """Codes and types in the body of an HTTP error, whatever it is; never its message."""
    try:
        said = _decode(body)
    except ProviderError:
        return []
    return _names(said.get("error") or said) if isinstance(said, dict) else []


def model_offered(body: bytes) -> str | None:
    """The model that the answer to a capability check names: `{"model"}`, or the first of `{"models": []}`."""
    try:
        said = _decode(body)
    except ProviderError:
        return None
    if not isinstance(said, dict):
        return None
    models = said.get("models")
    first = models[0] if isinstance(models, list) and models else None
    return checked_model(said.get("model"), "") or checked_model(first, "") or None


def _decode(body: bytes) -> Any:
    # Not msgspec: it refuses half a surrogate pair, at which some services cut their text.
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _unusable(f"the answer is no JSON ({type(error).__name__})") from None


def _text(said: dict[str, Any]) -> str:
    """The first text that is not empty; an empty one counts only if there is no other."""
    found = [text for name in TEXTS if (text := _string(said.get(name))) is not None]
    choices = said.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        text = _string(choices[0].get("message"))
        found += [text] if text is not None else []
    if not found:
        raise _unusable(f"the answer has no text: none of {', '.join(TEXTS)} or choices is any")
    return next((text for text in found if text), "")


def _string(value: object) -> str | None:
    """A string, or the `content` of an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _data(said: object) -> list[Data]:
    if said is None:
        return []
    if not isinstance(said, list) or not all(isinstance(one, dict) and "value" in one for one in said):
        raise _unusable('data is no list of {"name", "value"}')
    return [checked_data(one.get("name"), one["value"]) for one in said]


def _finish(said: dict[str, Any]) -> Finish:
    reason = said.get("finish") or said.get("finish_reason")
    choices = said.get("choices")
    if reason is None and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        reason = choices[0].get("finish_reason")
    if reason == "error":
        raise _unusable("finish error")
    return _FINISHES.get(str(reason), "other") if reason else "stop"


def _usage(said: object) -> dict[str, int] | None:
    if not isinstance(said, dict):
        return None
    for names in (("input_tokens", "output_tokens"), ("prompt_tokens", "completion_tokens")):
        usage = checked_usage({"input_tokens": said.get(names[0]), "output_tokens": said.get(names[1])})
        if usage is not None:
            return usage
    return None


def _names(error: object) -> list[str]:
    """Codes and types of an `error` member that is an object. A string is left out: it may quote a prompt."""
    if not isinstance(error, dict):
        return []
    named = (error.get(name) for name in ("code", "type", "status"))
    return [str(name) for name in named if isinstance(name, str | int) and str(name)]


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def _unusable(detail: str) -> ProviderError:
    return ProviderError("provider_error", detail, retryable=True)
