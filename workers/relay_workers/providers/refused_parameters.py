"""Which part of a request an error complains about, in the shapes that servers have. Pure.

Servers name it in `param`, in a validator's `loc`, or only in a sentence; some put another server's error into their
own, as JSON in a string. Nothing that a server says goes further than this: the result is a name of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from relay_workers.providers.request import OTHER_NAME, Parameter

_STATUSES = frozenset({400, 422})
_TEMPLATE_STATUSES = frozenset({400, 422, 500})  # llama.cpp: 500 for what its chat template raises

_MAX_TEXT = 4000  # characters of all sentences together
_SENTENCES = frozenset({"message", "msg", "detail", "error", "description", "error_msg", "error_message"})
_NESTED = (*_SENTENCES, "errors", "details", "fieldViolations")  # never `input`, `ctx`: they quote the request

# How servers spell them, where that is not their name alone.
_SPELLINGS: dict[Parameter, tuple[str, ...]] = {
    "stream_options": ("stream_options", "include_usage"),
    "stop_sequences": ("stop_sequences", "stop"),
    "reasoning_effort": ("reasoning_effort", "reasoningEffort", "reasoning.effort", "effort", "thinking", "reasoning"),
    "reasoning.effort": ("reasoning.effort", "reasoning_effort", "effort", "reasoning"),
    "reasoning.summary": ("reasoning.summary", "reasoning summaries", "reasoning"),
    "output_config": ("output_config", "effort"),
    # As LiteLLM calls it, for a model of another API behind a name that sounds like a Claude
    "thinking": ("thinking", "reasoning.effort", "reasoning_effort", "reasoning"),
    "top_p": ("top_p", "topP"),
}
_UNSUPPORTED = re.compile(
    r"(un|not |n't )support|unrecogni[sz]ed|unknown|unexpected|\bextra\b|extra_forbidden|not permitted|not allowed"
    r"|not accepted|deprecated|cannot (find|both)|not compatible|must be verified",
    re.IGNORECASE,
)
_OUT_OF_RANGE = re.compile(
    r"exceed|too (large|high|small|low|many|long)|at (most|least)|maximum|minimum|(less|greater) than|between"
    r"|must be(?! verified)|should be|\brange\b|invalid value|supported values|[<>≤≥]",
    re.IGNORECASE,
)
_ONLY_THIS_VALUE = re.compile(r"supported values|must be one of", re.IGNORECASE)
_LISTS_OTHERS = re.compile(r"expected one of|supported parameters|allowed parameters", re.IGNORECASE)  # of the API's

# https://github.com/vllm-project/vllm/issues/6862, https://github.com/anomalyco/opencode/issues/5034,
# https://github.com/Aider-AI/aider/issues/2974, https://github.com/ChatGPTNextWeb/NextChat/issues/6343
_ROLES = re.compile(
    r"(must|should) (alternate|be alternating)|successive user or assistant|first message.{0,60}must be a user"
    r"|unexpected role|system message must be (at the beginning|first)|only one system message",
    re.IGNORECASE,
)
# https://github.com/withcatai/node-llama-cpp/issues/263, https://github.com/anomalyco/opencode/issues/5034,
# https://github.com/BerriAI/litellm/issues/5671, https://github.com/vllm-project/guidellm/issues/67
_SYSTEM = re.compile(
    r"system role (is )?not supported|only user(,| and) (and )?(model|assistant)\b.{0,20}roles are supported"
    r"|got system|does not support 'system'",
    re.IGNORECASE,
)


class Complaint(NamedTuple):
    """`lasting`: it is about the parameter, not about a value, so it will come again with any."""

    parameter: Parameter
    lasting: bool


def complaint(status: object, body: object, optional: frozenset[Parameter]) -> Complaint | None:
    """What the server does not take of `optional`; None if the error is about something else.

    `body`: an error's as the SDKs have it, JSON or text.
    """
    if status not in _TEMPLATE_STATUSES:
        return None
    said = _LISTS_OTHERS.split(" ".join(_sentences(body))[:_MAX_TEXT])[0]
    if (order := _about_turns(said, optional)) is not None:
        return Complaint(order, lasting=True)
    if status not in _STATUSES:
        return None
    parameter = _in_path(body, optional) or _in_sentence(said, optional)
    if parameter is None:
        return None
    unsupported, out_of_range = _UNSUPPORTED.search(said), _OUT_OF_RANGE.search(said)
    if parameter in OTHER_NAME and (not unsupported or out_of_range):
        return None  # too large, say: under its other name it would be as well
    about_value = _ONLY_THIS_VALUE.search(said) or (out_of_range and not unsupported)
    return Complaint(parameter, lasting=not about_value)


def _about_turns(said: str, optional: frozenset[Parameter]) -> Parameter | None:
    """Templates that know no system turn complain about the order as well: that is the second thing to try."""
    if "roles" in optional and _ROLES.search(said):
        return "roles"
    if "system" in optional and (_SYSTEM.search(said) or _ROLES.search(said)):
        return "system"
    return None


def _in_path(body: object, optional: frozenset[Parameter]) -> Parameter | None:
    """The one that a path names most exactly: `reasoning.summary` is more than `reasoning`."""
    for path in _paths(body):
        found = [
            (-len(spelling), parameter)
            for parameter in _parameters(optional)
            for spelling in _spellings(parameter)
            if path == spelling or path.startswith(f"{spelling}.")
        ]
        if found:
            return min(found)[1]
    return None


def _in_sentence(said: str, optional: frozenset[Parameter]) -> Parameter | None:
    """The one that is named first, if the sentence is a complaint."""
    if not _UNSUPPORTED.search(said) and not _OUT_OF_RANGE.search(said):
        return None
    found: list[tuple[int, int, Parameter]] = []
    for parameter in _parameters(optional):
        for spelling in _spellings(parameter):
            match = re.search(rf"(?<!\w){re.escape(spelling)}(?!\w)", said)
            if match:
                found.append((match.start(), -len(spelling), parameter))
    return min(found)[2] if found else None


def _parameters(optional: frozenset[Parameter]) -> frozenset[Parameter]:
    return optional - {"roles", "system"}


def _spellings(parameter: Parameter) -> tuple[str, ...]:
    return _SPELLINGS.get(parameter, (parameter,))


def _paths(value: object, depth: int = 9) -> Iterator[str]:
    """Where the error is, with dots: of `param`, `loc` and `field`, without the word body."""
    for member in _objects(value, depth):
        loc = member.get("loc")
        if isinstance(loc, list):
            yield ".".join(str(step) for step in loc[:8] if step != "body")
        for name in ("param", "field"):
            said = member.get(name)
            if isinstance(said, str):
                yield said[:200].removeprefix("body.")


def _sentences(value: object, depth: int = 9) -> Iterator[str]:
    if isinstance(value, str):
        yield value[:_MAX_TEXT]
    if isinstance(value, bytes):
        yield value[:_MAX_TEXT].decode(errors="replace")
    for member in _objects(value, depth):
        yield from (said[:_MAX_TEXT] for name, said in member.items() if name in _SENTENCES and isinstance(said, str))


def _objects(value: object, depth: int) -> Iterator[dict[str, object]]:
    """The objects in an error, outer ones first; at most the first eight of a list."""
    if not depth:
        return
    if isinstance(value, dict):
        yield value
        inner: Iterable[object] = [value[name] for name in _NESTED if name in value]
    else:
        inner = value[:8] if isinstance(value, list) else []
    for one in inner:
        yield from _objects(one, depth - 1)
