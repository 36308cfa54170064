"""Anthropic's Messages API, and every server that speaks it.

Importing this loads the SDK, which takes about a second: only workers that use it do.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from itertools import groupby
from typing import Any, cast

import anthropic
from anthropic import AsyncAnthropic, Omit, omit
from anthropic.types import MessageParam, RawMessageStreamEvent, ThinkingConfigParam

from relay import timeouts
from relay.errors import SettingsError
from relay.protocol.words import Finish
from relay_workers.providers import access
from relay_workers.providers.base import (
    Finished,
    Part,
    Prompt,
    ProviderError,
    Reasoning,
    Text,
    TextComplete,
    Turn,
    checked_model,
    checked_usage,
)
from relay_workers.providers.failures import ErrorClassifier

BASE_URL = "https://api.anthropic.com"
MODEL = "claude-sonnet-5-5"  # if neither submit nor settings name one
MAX_TOKENS = 8192  # if the submit sets no limit: the API requires one; it counts the model's thinking as well
OPENING = "…"  # a user turn, put before a context that begins with the assistant

TAIL_S = 1.0  # how long a complete answer waits for the end of its body, so that the connection can be reused

_ERRORS = ErrorClassifier(anthropic)
_FINISHES: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "filter",
}
_GENERATION = re.compile(r"claude-[a-z]+-(\d+)")
_END = object()


class _Client(access.Client, anthropic.DefaultAsyncHttpxClient):
    """With the SDK's own limits, and proxies from the environment."""


class AnthropicProvider:
    """One client with its own connections; one call per answer, never retried here: failover is the caller's.

    Raises SettingsError if key or base URL cannot work.
    """

    name = "anthropic"
    first_token_s: float | None = None

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None,
        model: str,
        connect_timeout_s: float,
        reasoning: bool = True,
    ) -> None:
        if not api_key and not base_url:
            raise SettingsError("ANTHROPIC_API_KEY is not set; a server without keys needs ANTHROPIC_BASE_URL instead")
        url = access.base_url("ANTHROPIC_BASE_URL", base_url or BASE_URL)
        if url.path.rstrip("/").endswith("/v1"):
            raise SettingsError("ANTHROPIC_BASE_URL must not end in /v1: that part is added to it")
        self._url, self._connect_timeout_s = url, connect_timeout_s
        self.model = model or MODEL
        self._reasoning = reasoning
        self._client = AsyncAnthropic(
            # Always give both: otherwise the SDK reads the environment and files on disk, past our settings.
            api_key=access.api_key("ANTHROPIC_API_KEY", api_key),
            base_url=url,
            timeout=access.timeout(),
            max_retries=0,
            http_client=_Client(connect_timeout_s),
        )

    async def check(self) -> None:
        """Whether its host takes a connection; see Provider."""
        await access.check_reachable(self._url, self._connect_timeout_s)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """The answer, part by part; see Provider. A failure after the finish does not harm the answer."""
        answer = _StreamState(prompt.model or self.model)
        streaming, tail_ends = False, None
        try:
            stream = await self._client.messages.create(
                model=answer.model,
                system=_system(prompt.turns) or omit,
                messages=_messages(prompt.turns),
                max_tokens=MAX_TOKENS if prompt.max_tokens is None else prompt.max_tokens,
                thinking=_thinking(answer.model) if self._reasoning else omit,
                stream=True,
            )
            streaming = True
            async with stream:  # closes the connection, however this ends
                events = aiter(stream)
                while True:
                    if answer.finish and tail_ends is None:
                        yield TextComplete()
                        tail_ends = timeouts.now() + TAIL_S
                    async with timeouts.timeout_at(tail_ends):
                        event: Any = await anext(events, _END)
                    if event is _END:
                        break
                    if part := answer.read(event):
                        yield part
        except _ERRORS.errors as error:
            if answer.finish is None:
                raise _ERRORS.classify(error, streaming=streaming) from error
        yield answer.finished()

    async def aclose(self) -> None:
        """Close idle connections; called once, after the last stream has ended."""
        await self._client.close()


class _StreamState:
    """What the events have said so far. The SDK does not validate them: any field may be missing or of another type."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.finish: Finish | None = None
        self._input_tokens: int | None = None
        self._output_tokens: int | None = None
        self._events = 0

    def read(self, event: RawMessageStreamEvent) -> Part | None:
        """The event's part, if it has one. Raises ProviderError if it is malformed."""
        self._events += 1
        try:
            return self._part(event)
        except (AttributeError, TypeError) as error:
            if self.finish:  # complete already: nothing that follows can spoil it
                return None
            raise ProviderError("provider_error", f"a malformed event: {error}", retryable=True) from error

    def finished(self) -> Finished:
        """The last part. Raises ProviderError("truncated") if no finish came, which the SDK does not report."""
        if self.finish is None:
            raise ProviderError(
                "truncated", f"the stream ended without stop_reason, after {self._events} events", retryable=True
            )
        usage = checked_usage({"input_tokens": self._input_tokens, "output_tokens": self._output_tokens})
        return Finished(self.finish, self.model, usage)

    def _part(self, event: RawMessageStreamEvent) -> Part | None:
        # By `type`, never by class: the SDK picks any class that fits for an event that it does not know.
        if event.type == "content_block_delta":
            return self._text(event.delta)
        if event.type == "content_block_start":  # a block may begin with text, though Anthropic's own do not
            return self._text(event.content_block)
        if event.type == "message_start":
            self.model = checked_model(event.message.model, self.model)
            self._input_tokens = _input_tokens(event.message.usage)
        elif event.type == "message_delta":
            if event.delta.stop_reason:
                self.finish = _FINISHES.get(event.delta.stop_reason, "other")
            self._output_tokens = _count(event.usage, "output_tokens")
        elif event.type == "message_stop":
            self.finish = self.finish or "other"
        else:
            _checked(event.type)
        return None

    def _text(self, piece: Any) -> Part | None:
        """The text of a block or of its delta; signatures, citations and tools have none."""
        if piece.type in ("text_delta", "text"):
            return Text(_checked(piece.text)) if piece.text != "" else None
        if piece.type in ("thinking_delta", "thinking"):
            return Reasoning(_checked(piece.thinking)) if piece.thinking != "" else None
        _checked(piece.type)  # an unknown type is skipped; without a type, text might be lost
        return None


def _checked(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {type(value).__name__}")
    return value


def _input_tokens(usage: object) -> int | None:
    """The whole prompt: the API counts what it read from its cache, or wrote there, apart from its input_tokens."""
    counts = [_count(usage, f"{kind}input_tokens") for kind in ("", "cache_read_", "cache_creation_")]
    return None if counts[0] is None else sum(count or 0 for count in counts)


def _count(usage: object, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if type(value) is int and value >= 0 else None


def _system(turns: list[Turn]) -> str:
    return _joined(turn for turn in turns if turn.role == "system" and turn.content.strip())


def _messages(turns: list[Turn]) -> list[MessageParam]:
    """User and assistant by turns, a user's first. The API refuses blank turns; refused answers leave such turns."""
    spoken = [turn for turn in turns if turn.role != "system"]
    kept = [turn for turn in spoken[:-1] if turn.content.strip()] + spoken[-1:]
    if kept and kept[0].role == "assistant":
        kept.insert(0, Turn("user", OPENING))
    return [
        cast(MessageParam, {"role": role, "content": _joined(neighbours)})
        for role, neighbours in groupby(kept, key=lambda turn: turn.role)
    ]


def _joined(turns: Iterable[Turn]) -> str:
    return "\n\n".join(turn.content for turn in turns)


def _thinking(model: str) -> ThinkingConfigParam | Omit:
    """Claude 5 and later think anyway, but show it only on request; earlier models would start to think, or fail.

    https://platform.claude.com/docs/en/build-with-claude/thinking
    """
    generation = _GENERATION.search(model)
    if generation and int(generation[1]) >= 5:
        return {"type": "adaptive", "display": "summarized"}
    return omit
