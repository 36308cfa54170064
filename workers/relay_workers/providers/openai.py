"""OpenAI's chat completions, and every server that speaks them: vLLM, Ollama, llama.cpp, OpenRouter, Azure's /v1 …

Importing this loads the SDK, which takes about a second: only workers that use it do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import cast

import openai
from openai import AsyncOpenAI, omit
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

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
    checked_model,
    checked_usage,
)
from relay_workers.providers.failures import ErrorClassifier

BASE_URL = "https://api.openai.com/v1"
MODEL = "gpt-5-mini"  # if neither submit nor settings name one

TAIL_S = 5.0  # how long a complete answer waits for its usage

_ERRORS = ErrorClassifier(openai)
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "content_filter": "filter"}


class _Client(access.Client, openai.DefaultAsyncHttpxClient):
    """With the SDK's own limits, and proxies from the environment."""


class OpenAIProvider:
    """One client with its own connections; one call per answer, never retried here: failover is the caller's.

    Raises SettingsError if key or base URL cannot work.
    """

    name = "openai"
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
            raise SettingsError("OPENAI_API_KEY is not set; a server without keys needs OPENAI_BASE_URL instead")
        url = access.base_url("OPENAI_BASE_URL", base_url or BASE_URL)
        self._url, self._connect_timeout_s = url, connect_timeout_s
        self.model = model or MODEL
        self._reasoning = reasoning
        # OpenAI's newer models refuse max_tokens; many compatible servers know only that.
        self._modern_limit = url.host.endswith((".openai.com", ".openai.azure.com"))
        self._client = AsyncOpenAI(
            api_key=access.api_key("OPENAI_API_KEY", api_key),
            base_url=url,  # always given: otherwise the SDK reads the environment, past our settings
            timeout=access.timeout(),
            max_retries=0,
            http_client=_Client(connect_timeout_s),
        )

    async def check(self) -> None:
        """Whether its host takes a connection; see Provider."""
        await access.check_reachable(self._url, self._connect_timeout_s)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """The answer, part by part; see Provider. A failure after the finish loses the usage, not the answer."""
        answer = _StreamState(prompt.model or self.model)
        limit = omit if prompt.max_tokens is None else prompt.max_tokens
        streaming, tail_ends = False, None
        try:
            stream = await self._client.chat.completions.create(
                model=answer.model,
                messages=_messages(prompt),
                max_completion_tokens=limit if self._modern_limit else omit,
                max_tokens=omit if self._modern_limit else limit,
                stream=True,
                stream_options={"include_usage": True},
            )
            streaming = True
            async with stream:  # closes the connection, however this ends
                chunks = aiter(stream)
                # The usage comes after the finish, in a chunk of its own: only the end of the body is the end.
                while True:
                    if answer.finish and tail_ends is None:
                        yield TextComplete()
                        tail_ends = timeouts.now() + TAIL_S
                    async with timeouts.timeout_at(tail_ends):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        break
                    for part in answer.read(chunk):
                        yield part
        except _ERRORS.errors as error:
            if answer.finish is None:
                raise _ERRORS.classify(error, streaming=streaming) from error
        yield answer.finished()

    async def aclose(self) -> None:
        """Close idle connections; called once, after the last stream has ended."""
        await self._client.close()


class _StreamState:
    """What the chunks have said so far. The SDK does not validate them: any field may be missing or of another type."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.finish: Finish | None = None
        self._refused = False
        self._usage: dict[str, int] | None = None
        self._chunks = 0

    def read(self, chunk: ChatCompletionChunk) -> list[Part]:
        """The chunk's parts. Raises ProviderError if it is malformed or says that the model failed."""
        self._chunks += 1
        try:
            return self._parts(chunk)
        except (AttributeError, TypeError) as error:
            if self.finish:  # complete already: nothing that follows can spoil it
                return []
            raise ProviderError("provider_error", f"a malformed chunk: {error}", retryable=True) from error

    def finished(self) -> Finished:
        """The last part. Raises ProviderError("truncated") if no finish came, which the SDK does not report."""
        if self.finish is None:
            raise ProviderError(
                "truncated", f"the stream ended without finish_reason, after {self._chunks} chunks", retryable=True
            )
        return Finished("filter" if self._refused else self.finish, self.model, self._usage)

    def _parts(self, chunk: ChatCompletionChunk) -> list[Part]:
        self.model = checked_model(chunk.model, self.model)
        if chunk.usage:  # some servers send it with every chunk, counted up to there
            counts = {"input_tokens": chunk.usage.prompt_tokens, "output_tokens": chunk.usage.completion_tokens}
            self._usage = checked_usage(counts) or self._usage
        if not chunk.choices:  # the usage chunk; Azure's first one too
            return []
        choice = chunk.choices[0]
        parts: list[Part] = []
        if delta := choice.delta:
            # Not in OpenAI's API. Some servers send both names with the same text.
            thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
            if thought:
                parts.append(Reasoning(_text(thought)))
            if delta.content:
                parts.append(Text(_text(delta.content)))
            if delta.refusal:
                self._refused = True
                parts.append(Text(_text(delta.refusal)))
        if choice.finish_reason:
            self.finish = _finish(choice.finish_reason)
        return parts


def _finish(reason: str) -> Finish:
    if reason == "error":  # from OpenRouter: the model behind it failed half-way
        raise ProviderError("provider_error", "finish_reason error", retryable=True)
    return _FINISHES.get(reason, "other")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {type(value).__name__}")
    return value


def _messages(prompt: Prompt) -> list[ChatCompletionMessageParam]:
    return [cast(ChatCompletionMessageParam, {"role": turn.role, "content": turn.content}) for turn in prompt.turns]
