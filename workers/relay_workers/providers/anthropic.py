"""Anthropic's Messages API, and every server that speaks it.

Importing this loads the SDK, which takes about a second: only workers that use it do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import anthropic
import httpx2
from anthropic import AsyncAnthropic

from relay.errors import SettingsError
from relay_workers.providers import access
from relay_workers.providers.answer_body import Answer
from relay_workers.providers.anthropic_reading import MessageReader
from relay_workers.providers.anthropic_request import message_request
from relay_workers.providers.base import Part, Prompt
from relay_workers.providers.endpoint import Endpoint
from relay_workers.providers.failures import ErrorClassifier
from relay_workers.providers.known_servers import known
from relay_workers.providers.reading import IgnoredFields
from relay_workers.providers.request_adapter import RequestAdapter

BASE_URL = "https://api.anthropic.com"
MODEL = "claude-sonnet-5-5"  # if neither submit nor settings name one

TAIL_S = 1.0  # how long a complete answer waits for the end of its body, so that the connection can be reused

_ERRORS = ErrorClassifier(anthropic)


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
        self.endpoint = Endpoint(url, "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", api_key or None, "/v1/messages")
        self._connect_timeout_s = connect_timeout_s
        self.model = model or MODEL
        self._reasoning = reasoning
        self._ignored = IgnoredFields(self.name)
        self._adapter = RequestAdapter(self.name)
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
        with self.endpoint.explaining():
            await access.check_reachable(self.endpoint.url, self._connect_timeout_s)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """The answer, part by part; see Provider."""
        reader = MessageReader(prompt.model or self.model, self._ignored)
        async with AsyncExitStack() as stack:  # closes the connection, however this ends
            call = stack.enter_context(self.endpoint.explaining(reader.model))
            response = await self._ask(stack, prompt, reader.model)
            call.response = response
            answer = Answer(response, reader, TAIL_S, "ANTHROPIC_BASE_URL")
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
            opening = self._client.messages.with_streaming_response.create(**arguments)
            response: httpx2.Response = (await stack.enter_async_context(opening)).http_response
            return response

        server, reasoning = known("messages", self.endpoint.url.host, model), self._reasoning
        try:
            return await self._adapter.ask(
                model, lambda refused: message_request(prompt, model, server, refused, reasoning=reasoning), send
            )
        except _ERRORS.errors as error:
            raise _ERRORS.classify(error) from error
