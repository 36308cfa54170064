"""What a chat completion is asked with: a request that the server at hand accepts. Pure."""

from __future__ import annotations

from typing import Any

from relay_workers.providers.base import Prompt


def chat_request(prompt: Prompt, model: str, *, modern_limit: bool) -> dict[str, Any]:
    """The SDK's arguments. `modern_limit`: OpenAI's newer models refuse max_tokens, which others know only."""
    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": turn.role, "content": turn.content} for turn in prompt.turns],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if prompt.max_tokens is not None:
        request["max_completion_tokens" if modern_limit else "max_tokens"] = prompt.max_tokens
    return request
