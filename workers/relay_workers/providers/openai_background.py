"""OpenAI's background responses: answers that go on by themselves, whoever reads them.

A stream that breaks or falls silent is reopened where it stopped, and another worker that has the resume handle reads
the same answer from its beginning. Only the response's own end counts as the end.
https://developers.openai.com/api/docs/guides/background

Importing this loads the SDK, which takes about a second: only workers that use it do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import cast

import openai
from openai import AsyncStream, Omit, omit
from openai.types.responses import ResponseInputParam, ResponseStreamEvent
from openai.types.shared_params import Reasoning as ReasoningParam

from relay import timeouts
from relay_workers.providers.base import Part, Prompt, ProviderError
from relay_workers.providers.failures import ErrorClassifier
from relay_workers.providers.openai import OpenAIProvider
from relay_workers.providers.openai_events import Response, checked_response_id

RECONNECT_PAUSES_S = (0.0, 0.5, 2.0)  # one before each reconnection in a row that brought nothing
QUIET_S = 15.0  # a connection without events for so long is taken for dead; a response that only thinks loses nothing
POLL_S = 2.0  # between two reads of a response that can no longer be streamed
CANCEL_S = 5.0
TAIL_S = 1.0  # how long a complete answer waits for the end of its body, so that the connection can be reused
MIN_TOKENS = 16  # OpenAI refuses a lower max_output_tokens

_ERRORS = ErrorClassifier(openai)
_END = object()
_Stream = AsyncStream[ResponseStreamEvent]

# Models that can summarise their reasoning. Only a request shows whether they do so for this organisation.
_REASONING = re.compile(r"(o\d|gpt-([5-9]|\d\d))(?!.*-chat)")


class OpenAIBackgroundProvider(OpenAIProvider):
    """Resumable. One POST per answer (two if a reasoning summary is refused), then as many GETs as needed."""

    _without_summary: frozenset[str] = frozenset()  # models that refused one; only real models do, so it stays small

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """The answer, part by part; see Provider and Resumable."""
        response = Response(prompt.model or self.model)
        try:
            stream = await self._create(prompt, response.model)
        except _ERRORS.errors as error:
            raise _ERRORS.classify(error) from error
        async with aclosing(self._follow(response, stream)) as parts:
            async for part in parts:
                yield part

    async def resume(self, handle: str) -> AsyncGenerator[Part, None]:
        """The same answer from its first token on; see Resumable. If unknown or expired, it fails with status 404."""
        response = Response(self.model, checked_response_id(handle))
        async with aclosing(self._follow(response, None)) as parts:
            async for part in parts:
                yield part

    async def cancel(self, handle: str) -> None:
        """Stop it at OpenAI, within CANCEL_S. Raises ProviderError; harmless if it has ended already."""
        try:
            async with timeouts.timeout(CANCEL_S):
                await self._client.responses.cancel(checked_response_id(handle))
        except (openai.BadRequestError, openai.ConflictError):
            return  # it has ended: OpenAI answers 400 or with its last state, others 409
        except TimeoutError as error:
            raise ProviderError("provider_timeout", f"no answer to cancel in {CANCEL_S} s", retryable=True) from error
        except _ERRORS.errors as error:
            raise _ERRORS.classify(error) from error

    async def _follow(self, response: Response, stream: _Stream | None) -> AsyncGenerator[Part, None]:
        """Read this stream, then others from where the last one stopped, until the response has ended."""
        attempts = 0
        while True:
            seen, failure = response.last, None
            try:
                async with aclosing(self._read(response, stream)) as parts:
                    async for part in parts:
                        yield part
                failure = ProviderError("truncated", f"the stream ended after event {response.last}", retryable=True)
            except TimeoutError:
                pass  # the silence itself was the pause; only the caller's deadline ends this
            except _ERRORS.errors as error:
                failure = _retryable_failure(error)
            if response.finish:
                break
            stream, attempts = None, attempts if response.last == seen else 0
            if failure is None:
                continue
            if response.response_id is None:
                raise failure
            if attempts == len(RECONNECT_PAUSES_S):
                for part in await self._rest(response, failure):
                    yield part
                break
            await asyncio.sleep(RECONNECT_PAUSES_S[attempts])
            attempts += 1
        yield response.finished()

    async def _read(self, response: Response, stream: _Stream | None) -> AsyncGenerator[Part, None]:
        """Read one connection. Raises TimeoutError if it is silent for too long."""
        stream = stream or await self._reopen(response)
        if stream is None:
            for part in await self._look(response):
                yield part
            if response.finish is None:
                await asyncio.sleep(POLL_S)
                raise TimeoutError
            return
        async with stream:  # closes the connection, however this ends
            while response.finish is None and (event := await _next(stream, response)) is not _END:
                for part in response.read(event):
                    yield part
            if response.finish:
                await _drain(stream)

    async def _create(self, prompt: Prompt, model: str) -> _Stream:
        try:
            return await self._post(prompt, model, self._reasoning_of(model))
        except openai.BadRequestError as error:
            if not self._reasoning_of(model) or not str(error.param).startswith("reasoning"):
                raise
            self._without_summary |= {model}
            return await self._post(prompt, model, omit)

    def _reasoning_of(self, model: str) -> ReasoningParam | Omit:
        """Requested only from models that may support it: others refuse the whole question."""
        wanted = self._reasoning and model not in self._without_summary and _REASONING.match(model)
        return {"summary": "auto"} if wanted else omit

    async def _post(self, prompt: Prompt, model: str, reasoning: ReasoningParam | Omit) -> _Stream:
        limit = prompt.max_tokens
        if limit is not None and self._modern_limit:
            limit = max(limit, MIN_TOKENS)
        return await self._client.responses.create(
            model=model,
            input=cast(ResponseInputParam, [{"role": turn.role, "content": turn.content} for turn in prompt.turns]),
            max_output_tokens=omit if limit is None else limit,
            reasoning=reasoning,
            background=True,
            store=True,
            stream=True,
        )

    async def _reopen(self, response: Response) -> _Stream | None:
        """The stream after the last event that was read, or from its first. None: it can no longer be streamed.

        From five minutes after the response's creation OpenAI answers 400; the response itself can still be read.
        """
        response_id = _response_id(response)
        after = omit if response.last is None else response.last  # 0 would leave out the first event
        try:
            async with timeouts.timeout(QUIET_S):
                return await self._client.responses.retrieve(response_id, stream=True, starting_after=after)
        except openai.BadRequestError:
            return None

    async def _look(self, response: Response) -> list[Part]:
        """What is missing, once it has ended; see Response.look."""
        response_id = _response_id(response)
        async with timeouts.timeout(QUIET_S):
            return response.look(await self._client.responses.retrieve(response_id))

    async def _rest(self, response: Response, failure: ProviderError) -> list[Part]:
        """Read the response a last time. Raises `failure` if it has not ended, or cannot be read."""
        try:
            parts = await self._look(response)
        except _ERRORS.errors as error:
            raise failure from error
        if response.finish is None:
            raise failure
        return parts


def _response_id(response: Response) -> str:
    """Its id. Raises ProviderError if that has not come yet: then the response cannot be asked for again."""
    if response.response_id is None:
        raise ProviderError("truncated", "the stream ended before the response had an id", retryable=True)
    return response.response_id


async def _next(stream: _Stream, response: Response) -> object:
    """The next event, _END after the last. Until the id is known, nothing could be resumed, so no timeout applies."""
    async with timeouts.timeout(QUIET_S if response.response_id else None):
        return await anext(stream, _END)


async def _drain(stream: _Stream) -> None:
    with suppress(*_ERRORS.errors):  # the answer is complete: nothing after its end can spoil it
        async with timeouts.timeout(TAIL_S):
            while await anext(stream, _END) is not _END:
                pass


def _retryable_failure(error: Exception) -> ProviderError:
    """The failure to report if reconnecting does not help either. Raises it if reconnecting cannot help."""
    failure = _ERRORS.classify(error, streaming=True)
    transport = not isinstance(error, openai.APIError) or isinstance(error, openai.APIConnectionError)
    if not failure.retryable or not (transport or isinstance(error, openai.APIStatusError)):
        raise failure from error
    if failure.code == "provider_timeout":
        return ProviderError("truncated", str(failure), retryable=True)
    return failure
