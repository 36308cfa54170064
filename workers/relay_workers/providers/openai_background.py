"""OpenAI's background responses: answers that go on by themselves, whoever reads them.

A stream that breaks or falls silent is reopened where it stopped, and another worker that has the resume handle reads
the same answer from its beginning. Only the response's own end counts as the end.
https://developers.openai.com/api/docs/guides/background

Importing this loads the SDK, which takes about a second: only workers that use it do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from typing import Any

import httpx2
import openai

from relay import timeouts
from relay_workers.providers.answer_body import Pieces, body_of, feed, head_of, kind_of, web_page
from relay_workers.providers.base import Part, Prompt, ProviderError
from relay_workers.providers.endpoint import Call
from relay_workers.providers.event_stream import EventStreamParser, ServerEvent
from relay_workers.providers.failures import ErrorClassifier
from relay_workers.providers.known_servers import known
from relay_workers.providers.openai import OpenAIProvider
from relay_workers.providers.openai_events import Response, checked_response_id
from relay_workers.providers.openai_request import MIN_TOKENS, background_request
from relay_workers.providers.reading import decode

RECONNECT_PAUSES_S = (0.0, 0.5, 2.0)  # one before each reconnection in a row that brought nothing
QUIET_S = 15.0  # a connection without events for so long is taken for dead; a response that only thinks loses nothing
POLL_S = 2.0  # between two reads of a response that can no longer be streamed
CANCEL_S = 5.0
TAIL_S = 1.0  # how long a complete answer waits for the end of its body, so that the connection can be reused

_ERRORS = ErrorClassifier(openai)
_END = object()


class OpenAIBackgroundProvider(OpenAIProvider):
    """Resumable. One POST per answer (more if a part of it is refused), then as many GETs as needed."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.endpoint = replace(self.endpoint, route="/responses", route_needs="RELAY_OPENAI_BACKGROUND")

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """The answer, part by part; see Provider and Resumable."""
        response = Response(prompt.model or self.model, self._ignored)
        with self.endpoint.explaining(response.model) as call:
            try:
                stream = await self._create(prompt, response.model)
            except _ERRORS.errors as error:
                raise _ERRORS.classify(error) from error
            async with aclosing(self._follow(call, response, stream)) as parts:
                async for part in parts:
                    yield part

    async def resume(self, handle: str) -> AsyncGenerator[Part, None]:
        """The same answer from its first token on; see Resumable. If unknown or expired, it fails with status 404."""
        response = Response(self.model, self._ignored, checked_response_id(handle))
        with self.endpoint.explaining() as call:
            async with aclosing(self._follow(call, response, None)) as parts:
                async for part in parts:
                    yield part

    async def cancel(self, handle: str) -> None:
        """Stop it at OpenAI, within CANCEL_S. Raises ProviderError; harmless if it has ended already."""
        with self.endpoint.explaining():
            await self._cancel(handle)

    async def _cancel(self, handle: str) -> None:
        try:
            async with timeouts.timeout(CANCEL_S):
                await self._client.responses.cancel(checked_response_id(handle))
        except (openai.BadRequestError, openai.ConflictError):
            return  # it has ended: OpenAI answers 400 or with its last state, others 409
        except TimeoutError as error:
            raise ProviderError("provider_timeout", f"no answer to cancel in {CANCEL_S} s", retryable=True) from error
        except _ERRORS.errors as error:
            raise _ERRORS.classify(error) from error

    async def _follow(self, call: Call, response: Response, stream: _EventStream | None) -> AsyncGenerator[Part, None]:
        """Read this stream, then others from where the last one stopped, until the response has ended."""
        attempts = 0
        while True:
            seen, failure = response.last, None
            try:
                async with aclosing(self._read(call, response, stream)) as parts:
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

    async def _read(self, call: Call, response: Response, stream: _EventStream | None) -> AsyncGenerator[Part, None]:
        """Read one connection. Raises TimeoutError if it is silent for too long."""
        stream = stream or await self._reopen(response)
        if stream is None:
            for part in await self._look(response):
                yield part
            if response.finish is None:
                await asyncio.sleep(POLL_S)
                raise TimeoutError
            return
        call.response = stream.response
        async with stream:  # closes the connection, however this ends
            while response.finish is None and (event := await _next(stream, response)) is not _END:
                for part in response.read(event):
                    yield part
            if response.finish:
                await _drain(stream)

    async def _create(self, prompt: Prompt, model: str) -> _EventStream:
        server, reasoning = known("responses", self.endpoint.url.host, model), self._reasoning
        min_tokens = MIN_TOKENS if self._is_openai else 0

        async def send(arguments: dict[str, Any]) -> _EventStream:
            return await _EventStream.open(self._client.responses.with_streaming_response.create(**arguments))

        return await self._adapter.ask(
            model,
            lambda refused: background_request(
                prompt, model, server, refused, summary=reasoning, min_tokens=min_tokens
            ),
            send,
        )

    async def _reopen(self, response: Response) -> _EventStream | None:
        """The stream after the last event that was read, or from its first. None: it can no longer be streamed.

        From five minutes after the response's creation OpenAI answers 400; the response itself can still be read.
        """
        response_id = _response_id(response)
        after: Any = (
            {} if response.last is None else {"starting_after": response.last}
        )  # 0 would leave out the first event
        try:
            async with timeouts.timeout(QUIET_S):
                opening = self._client.responses.with_streaming_response.retrieve(response_id, stream=True, **after)
                return await _EventStream.open(opening)
        except openai.BadRequestError:
            return None

    async def _look(self, response: Response) -> list[Part]:
        """What is missing, once it has ended; see Response.look."""
        response_id = _response_id(response)
        async with timeouts.timeout(QUIET_S):
            found = await self._client.responses.with_raw_response.retrieve(response_id)
            return response.look(decode(found.http_response.content))

    async def _rest(self, response: Response, failure: ProviderError) -> list[Part]:
        """Read the response a last time. Raises `failure` if it has not ended, or cannot be read."""
        try:
            parts = await self._look(response)
        except _ERRORS.errors as error:
            raise failure from error
        if response.finish is None:
            raise failure
        return parts


class _EventStream:
    """One connection's events as JSON; closed by leaving it."""

    def __init__(self, stack: AsyncExitStack, response: httpx2.Response) -> None:
        self.response = response
        self._stack = stack
        self._begun = False
        self._pieces = Pieces(response)
        self._parser = EventStreamParser()
        self._events: deque[ServerEvent] = deque()
        stack.push_async_callback(self._pieces.aclose)

    @classmethod
    async def open(cls, opening: Any) -> _EventStream:
        """`opening`: the SDK's. Raises what the SDK raises."""
        async with AsyncExitStack() as stack:
            opened = await stack.enter_async_context(opening)
            return cls(stack.pop_all(), opened.http_response)

    async def __aenter__(self) -> _EventStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def next(self) -> object:
        """_END after the last. Raises what httpx2 raises, ValueError, ProviderError."""
        while True:
            while self._events:
                data = self._events.popleft().data.strip()
                if data.startswith(b"[DONE]"):
                    return _END
                if data:
                    return decode(data)
            if not self._begun:
                chunk = await head_of(self._pieces)
                self._begun = True
                match kind_of(chunk):
                    case "page":
                        raise web_page(self.response, "OPENAI_BASE_URL")
                    case "json":
                        return decode(await body_of(chunk, self._pieces))
                    case "events":
                        pass
            else:
                chunk = await self._pieces.next()
            if not chunk:
                if not (pending := self._parser.close()):
                    return _END
                self._events.extend(pending)
                continue
            self._events.extend(feed(self._parser, chunk))


def _response_id(response: Response) -> str:
    """Its id. Raises ProviderError if that has not come yet: then the response cannot be asked for again."""
    if response.response_id is None:
        raise ProviderError("truncated", "the stream ended before the response had an id", retryable=True)
    return response.response_id


async def _next(stream: _EventStream, response: Response) -> object:
    """The next event, _END after the last. Until the id is known, nothing could be resumed, so no timeout applies."""
    async with timeouts.timeout(QUIET_S if response.response_id else None):
        return await stream.next()


async def _drain(stream: _EventStream) -> None:
    with suppress(ProviderError, *_ERRORS.errors):  # the answer is complete: nothing after its end can spoil it
        async with timeouts.timeout(TAIL_S):
            while await stream.next() is not _END:
                pass


def _retryable_failure(error: Exception) -> ProviderError:
    """The failure to report if reconnecting does not help either. Raises it if reconnecting cannot help."""
    failure = _ERRORS.classify(error, streaming=True)
    failure.__cause__ = error  # for the log, should it be raised later
    if not failure.retryable:
        raise failure from error
    if failure.code == "provider_timeout":
        cut = ProviderError("truncated", str(failure), retryable=True)
        cut.__cause__ = error
        return cut
    return failure
