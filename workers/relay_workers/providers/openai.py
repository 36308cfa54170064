"""OpenAI's chat completions, and every server that speaks them: vLLM, Ollama, llama.cpp, OpenRouter, Azure's /v1 …

Importing this loads the SDK, which takes about a second: only workers that use it do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, Literal

import httpx2
import openai
from openai import AsyncOpenAI

from relay.errors import SettingsError
from relay_workers.providers import access
from relay_workers.providers.answer_body import Answer
from relay_workers.providers.base import Part, Prompt
from relay_workers.providers.endpoint import Endpoint
from relay_workers.providers.failures import ErrorClassifier
from relay_workers.providers.known_servers import Known, Limit, is_openai_or_azure, known
from relay_workers.providers.openai_reading import ChatReader
from relay_workers.providers.openai_request import chat_request
from relay_workers.providers.reading import IgnoredFields
from relay_workers.providers.request_adapter import RequestAdapter

BASE_URL = "https://api.openai.com/v1"
MODEL = "gpt-5-mini"  # if neither submit nor settings name one

TAIL_S = 5.0  # how long a complete answer waits for its usage

_ERRORS = ErrorClassifier(openai)
DoneEnds = Literal["auto", "yes", "no"]


class _Client(access.Client, openai.DefaultAsyncHttpxClient):
    """With the SDK's own limits, and proxies from the environment."""


class OpenAIProvider:
    """One client with its own connections; one call per answer, never retried here: failover is the caller's.

    `done_ends`: whether a stream with `[DONE]` and no finish is whole; auto: unless the host is OpenAI's or Azure's.
    `limit`: the parameter that limits an answer, `stream_usage`: whether to ask for its usage; auto: by what is known
    of host and model.
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
        done_ends: DoneEnds = "auto",
        limit: Limit | Literal["auto"] = "auto",
        stream_usage: Literal["auto", "yes", "no"] = "auto",
    ) -> None:
        if not api_key and not base_url:
            raise SettingsError("OPENAI_API_KEY is not set; a server without keys needs OPENAI_BASE_URL instead")
        url = access.base_url("OPENAI_BASE_URL", base_url or BASE_URL)
        self.endpoint = Endpoint(
            url, "OPENAI_BASE_URL", "OPENAI_API_KEY", api_key or None, "/chat/completions", versioned=True
        )
        self._connect_timeout_s = connect_timeout_s
        self.model = model or MODEL
        self._reasoning = reasoning
        self._is_openai = is_openai_or_azure(url.host)
        self._done_ends = done_ends == "yes" or (done_ends == "auto" and not self._is_openai)
        self._limit, self._stream_usage = limit, stream_usage
        self._ignored = IgnoredFields(self.name)
        self._adapter = RequestAdapter(self.name)
        self._client = AsyncOpenAI(
            api_key=access.api_key("OPENAI_API_KEY", api_key),
            base_url=url,  # always given: otherwise the SDK reads the environment, past our settings
            timeout=access.timeout(),
            max_retries=0,
            http_client=_Client(connect_timeout_s),
        )

    async def check(self) -> None:
        """Whether its host takes a connection; see Provider."""
        with self.endpoint.explaining():
            await access.check_reachable(self.endpoint.url, self._connect_timeout_s)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """The answer, part by part; see Provider."""
        reader = ChatReader(prompt.model or self.model, self._ignored, done_ends=self._done_ends)
        async with AsyncExitStack() as stack:  # closes the connection, however this ends
            call = stack.enter_context(self.endpoint.explaining(reader.model))
            response = await self._ask(stack, prompt, reader.model)
            call.response = response
            answer = Answer(response, reader, TAIL_S, "OPENAI_BASE_URL")
            stack.push_async_callback(answer.aclose)
            while parts := await answer.next():
                for part in parts:
                    yield part

    async def aclose(self) -> None:
        """Close idle connections; called once, after the last stream has ended."""
        await self._client.close()

    async def _ask(self, stack: AsyncExitStack, prompt: Prompt, model: str) -> httpx2.Response:
        """The response, before its body. Raises ProviderError."""

        async def send(arguments: dict[str, Any]) -> httpx2.Response:
            opening = self._client.chat.completions.with_streaming_response.create(**arguments)
            response: httpx2.Response = (await stack.enter_async_context(opening)).http_response
            return response

        server, stream_usage = self._known(model), self._stream_usage != "no"
        try:
            return await self._adapter.ask(
                model, lambda refused: chat_request(prompt, model, server, refused, stream_usage=stream_usage), send
            )
        except _ERRORS.errors as error:
            raise _ERRORS.classify(error) from error

    def _known(self, model: str) -> Known:
        """What is known of the server, and above that what the settings say."""
        found = known("chat", self.endpoint.url.host, model)
        refuses = found.refuses - {"stream_options"} if self._stream_usage == "yes" else found.refuses
        return Known(refuses, found.limit if self._limit == "auto" else self._limit)
