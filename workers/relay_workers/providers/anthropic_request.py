"""What a message is asked with: a request that the server at hand accepts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from relay_workers.providers.base import Prompt, Turn

MAX_TOKENS = 8192  # if the submit sets no limit: the API requires one; it counts the model's thinking as well
OPENING = "…"  # a user turn, put before a context that begins with the assistant

_GENERATION = re.compile(r"claude-[a-z]+-(\d+)")


def message_request(prompt: Prompt, model: str, *, reasoning: bool) -> dict[str, Any]:
    """The SDK's arguments. `reasoning`: whether to ask for the model's thinking."""
    request: dict[str, Any] = {
        "model": model,
        "messages": _messages(prompt.turns),
        "max_tokens": MAX_TOKENS if prompt.max_tokens is None else prompt.max_tokens,
        "stream": True,
    }
    if system := _system(prompt.turns):
        request["system"] = system
    if reasoning and (thinking := _thinking(model)):
        request["thinking"] = thinking
    return request


def _system(turns: list[Turn]) -> str:
    return _joined(turn for turn in turns if turn.role == "system" and turn.content.strip())


def _messages(turns: list[Turn]) -> list[dict[str, str]]:
    """User and assistant by turns, a user's first. The API refuses blank turns; refused answers leave such turns."""
    spoken = [turn for turn in turns if turn.role != "system"]
    kept = [turn for turn in spoken[:-1] if turn.content.strip()] + spoken[-1:]
    if kept and kept[0].role == "assistant":
        kept.insert(0, Turn("user", OPENING))
    return [
        {"role": role, "content": _joined(neighbours)} for role, neighbours in groupby(kept, key=lambda turn: turn.role)
    ]


def _joined(turns: Iterable[Turn]) -> str:
    return "\n\n".join(turn.content for turn in turns)


def _thinking(model: str) -> dict[str, str] | None:
    """Claude 5 and later think anyway, but show it only on request; earlier models would start to think, or fail.

    https://platform.claude.com/docs/en/build-with-claude/thinking
    """
    generation = _GENERATION.search(model)
    if generation and int(generation[1]) >= 5:
        return {"type": "adaptive", "display": "summarized"}
    return None
