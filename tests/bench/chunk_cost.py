"""What one chunk of a provider's stream costs in this process: from its bytes to its token in the batcher.

Every read brings one event, as recorded. `reader`: the provider alone, fed below the SDK's HTTP client. `with HTTP`:
the same through the HTTP client's own layers, fed with chunked bytes below them, without a socket.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import httpcore2
import httpx2

from relay_workers import garbage_collection
from relay_workers.asking.call import CallLimits, ProviderCall
from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Prompt, Turn
from relay_workers.providers.openai import OpenAIProvider
from relay_workers.writing.arrivals import Arrivals
from relay_workers.writing.batching import Batcher, Kind
from relay_workers.writing.flusher import Flusher
from tests.bench.recorded import HEADERS, LAST_CHUNK, RECORDED, chunked

TOKENS = 2000
ROUNDS = 7
_LIMITS = CallLimits(first_token_timeout_s=60, token_timeout_s=60, max_answer_bytes=10_000_000, reasoning=True)
_TEXT = b" wordy"
_BASE_URLS = {"openai": "http://127.0.0.1:9/v1", "anthropic": "http://127.0.0.1:9"}

SDKProvider = OpenAIProvider | AnthropicProvider


def provider_of(api: str) -> SDKProvider:
    made = OpenAIProvider if api == "openai" else AnthropicProvider
    return made("key", _BASE_URLS[api], "", 10.0)


def chunk_cost() -> None:
    garbage_collection.tune()  # as a worker does
    print("cost per chunk, one event per read, in µs: the provider's generator alone, and to the token in the batcher")
    for api in RECORDED:
        asyncio.run(_print_costs(api))


async def _print_costs(api: str) -> None:
    for name, feed in (("reader", _feed_below_sdk), ("with HTTP", _feed_below_http)):
        generator_us: list[float] = []
        batcher_us: list[float] = []
        for _ in range(ROUNDS):
            for work, costs_us in ((_drain, generator_us), (_call, batcher_us)):
                provider = provider_of(api)
                feed(provider, api)
                costs_us.append(await _timed(work(provider)))
                await provider.aclose()
        medians = statistics.median(generator_us), statistics.median(batcher_us)
        print(f"{api:10} {name:10} {medians[0]:8.2f} {medians[1]:8.2f}", flush=True)


async def _timed(work: Any) -> float:
    began = time.process_time()
    await work
    return (time.process_time() - began) / TOKENS * 1e6


async def _drain(provider: SDKProvider) -> None:
    async for _ in provider.stream(_prompt()):
        pass


async def _call(provider: SDKProvider) -> None:
    sink = _Sink()
    call = ProviderCall(
        provider.stream(_prompt()),
        cast(Flusher, sink),
        _LIMITS,
        Arrivals(time.monotonic()),
        first_token_s=None,
        on_resume_handle=lambda _: None,
    )
    await call.read()
    if sink.tokens != TOKENS:
        raise RuntimeError(f"{sink.tokens} tokens instead of {TOKENS}")


class _Sink:
    """In place of the flusher: its batcher, emptied whenever it would be."""

    behind = False
    wants_turn = False

    def __init__(self) -> None:
        self.tokens = 0
        self._batcher = Batcher(20, 50)

    def token(self, kind: Kind, text: str) -> None:
        self.tokens += 1
        self._batcher.add(kind, text, self.tokens)
        self._batcher.take(self.tokens)


def _prompt() -> Prompt:
    return Prompt([Turn("user", "Why?")])


# Where the bytes come in


class _Events(httpx2.AsyncByteStream):
    def __init__(self, api: str) -> None:
        self._api = api

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for event in _events(self._api):
            yield event


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(self, api: str) -> None:
        self._api = api

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream; charset=utf-8"}
        return httpx2.Response(200, headers=headers, stream=_Events(self._api))


def _feed_below_sdk(provider: SDKProvider, api: str) -> None:
    client: Any = provider._client
    client._client._transport, client._client._mounts = _Transport(api), {}


def _feed_below_http(provider: SDKProvider, api: str) -> None:
    client: Any = provider._client
    reads = [HEADERS, *map(chunked, _events(api)), LAST_CHUNK]
    client._client._mounts = {}
    client._client._transport._pool = httpcore2.AsyncConnectionPool(network_backend=httpcore2.AsyncMockBackend(reads))


def _events(api: str) -> list[bytes]:
    recorded = RECORDED[api]
    return [recorded.opening, *[recorded.event(_TEXT)] * TOKENS, recorded.closing]
