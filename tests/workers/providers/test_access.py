"""Whether a provider's host can be reached, never past a proxy; and that no body is read further than it is worth."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import cache

import httpx2
import pytest

from relay_workers.providers import access
from relay_workers.providers.agent import AgentProvider
from relay_workers.providers.answer_body import Answer
from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Prompt, Provider, ProviderError, Turn
from relay_workers.providers.demo import DemoProvider
from relay_workers.providers.openai import OpenAIProvider
from relay_workers.providers.openai_reading import ChatReader
from relay_workers.providers.reading import IgnoredFields
from tests.fakes.provider import FakeProvider, Script
from tests.fakes.raw_server import http, raw_server


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def providers_at(url: str) -> list[Provider]:
    return [OpenAIProvider("k", url, "m", 5), AnthropicProvider("k", url, "m", 5)]


async def test_a_host_that_listens_can_be_reached_and_is_asked_nothing() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.put_nowait(await reader.read())
        except ConnectionError:
            heard.put_nowait(b"")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        for provider in providers_at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"):
            await provider.check()
            assert await heard.get() == b""
            await provider.aclose()
    await DemoProvider().check()


async def test_a_host_where_nobody_listens_is_named_and_the_key_is_not() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening: refused
        port = unused.getsockname()[1]
        for provider in providers_at(f"http://user:secret@127.0.0.1:{port}/x"):
            with pytest.raises(ProviderError, match=f"^127.0.0.1:{port} cannot be reached: ") as caught:
                await provider.check()
            assert (caught.value.code, caught.value.retryable) == ("provider_timeout", True)
            assert "refused" in str(caught.value).lower()
            assert "\n" not in str(caught.value)
            await provider.aclose()


@pytest.mark.parametrize("host", ["nobody.invalid", "x" * 64 + ".invalid"])
async def test_a_host_that_no_resolver_knows_cannot_be_reached(host: str) -> None:
    with pytest.raises(ProviderError, match="cannot be reached"):
        await access.check_reachable(httpx2.URL(f"http://{host}/"), 5)


async def test_who_does_not_take_the_connection_in_time_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:  # fills what the kernel would accept for it
            one.setblocking(False)
            one.connect_ex(address)
        with pytest.raises(ProviderError, match=r"no connection within 0\.2 s"):
            await access.check_reachable(httpx2.URL(f"http://127.0.0.1:{address[1]}"), 0.2)
        for one in waiting:
            one.close()


@pytest.mark.parametrize(
    ("url", "environment", "proxied"),
    [
        ("https://api.example.org", {}, False),
        ("https://api.example.org", {"HTTPS_PROXY": "http://127.0.0.1:9"}, True),
        ("https://api.example.org", {"https_proxy": "127.0.0.1:9"}, True),
        ("http://api.example.org", {"HTTPS_PROXY": "http://127.0.0.1:9"}, False),
        ("http://api.example.org", {"ALL_PROXY": "http://127.0.0.1:9"}, True),
        ("https://api.example.org", {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "example.org"}, False),
        ("https://api.example.org", {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "a.org, .example.org"}, False),
        ("https://api.example.org", {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "xample.org"}, True),
        ("https://api.example.org", {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "*"}, False),
        ("http://127.0.0.1:8000", {"ALL_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1"}, False),
        ("http://localhost:8000", {"ALL_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1"}, False),
        ("http://[::1]:8000", {"ALL_PROXY": "http://127.0.0.1:9", "NO_PROXY": "::1"}, False),
    ],
)
async def test_behind_a_proxy_nothing_is_checked_and_the_http_client_decides_alike(
    url: str, environment: dict[str, str], proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with httpx2.AsyncClient() as client:
        assert (client._transport_for_url(httpx2.URL(url)) is not client._transport) is proxied
    assert access.proxied(httpx2.URL(url)) is proxied
    if proxied:
        await access.check_reachable(
            httpx2.URL("https://nobody.invalid" if url.startswith("https") else "http://nobody.invalid"), 5
        )


# Bodies


def sdk_at(name: str, url: str) -> Provider:
    if name == "openai":
        return OpenAIProvider("k", f"{url}/v1", "m", 5)
    return AgentProvider(url, "k", 5) if name == "agent" else AnthropicProvider("k", url, "m", 5)


async def failure_at(name: str, url: str) -> ProviderError:
    provider = sdk_at(name, url)
    try:
        with pytest.raises(ProviderError) as caught:
            [part async for part in provider.stream(Prompt([Turn("user", "?")]))]
    finally:
        await provider.aclose()
    return caught.value


everybody = pytest.mark.parametrize("name", ["openai", "anthropic", "agent"])
JSON = "application/json"


@everybody
@pytest.mark.parametrize("begun", [b"", b'{"error": {"code"'])
async def test_an_error_status_counts_though_its_body_never_ends(
    name: str, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "ERROR_BODY_S", 0.1)
    answer = http(429, begun, content_type=JSON, content_length="900", retry_after="7")
    async with raw_server(answer, stalls=True) as url, asyncio.timeout(30):
        error = await failure_at(name, url)
    assert (error.code, error.status, error.retry_after_s) == ("provider_rate_limited", 429, 7)


BOMB = 16 << 20  # bytes of which little more than a MiB may be in memory at a time
PACKED: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@cache
def bomb(*encodings: str) -> bytes:
    body = b"x" * BOMB
    for one in encodings:
        body = PACKED[one](body)
    return body


@everybody
@pytest.mark.parametrize("encodings", [("gzip",), ("deflate",), ("gzip",) * 2, ("gzip",) * 5])
async def test_the_body_of_an_error_is_unpacked_only_so_far(name: str, encodings: tuple[str, ...]) -> None:
    answer = http(503, bomb(*encodings), content_type=JSON, content_encoding=", ".join(encodings))
    async with raw_server(answer) as url:
        await failure_at(name, url)  # what is made once is there now
        with peak() as used:
            error = await failure_at(name, url)
    assert (error.code, error.status) == ("provider_error", 503)
    assert used() < BOMB / 2


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_the_body_of_an_error_is_cut(encoding: str) -> None:
    body = b"x" * 1_000_000 if encoding == "identity" else bomb(encoding)
    async with raw_server(http(503, body, content_encoding=encoding)) as url:
        client = access.Client(5)
        response = await client.get(url)
        await client.aclose()
    assert (response.status_code, len(response.content)) == (503, access.MAX_ERROR_BYTES)


class Unpacked(httpx2.AsyncByteStream):
    """A thousand line ends for each byte that came: nobody waits between its pieces."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"\n" * 100_000


async def test_a_stream_of_nothing_that_unpacks_to_much_leaves_the_loop_its_turns() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    reader = ChatReader("m", IgnoredFields("openai"), done_ends=True)
    with pytest.raises(ProviderError, match="without a finish"):
        await Answer(httpx2.Response(200, stream=Unpacked()), reader, 5, "OPENAI_BASE_URL").next()
    counting.cancel()
    assert turns >= 7


@everybody
async def test_an_answer_that_is_packed_twice_is_refused(name: str) -> None:
    body = gzip.compress(gzip.compress(b'{"content": "x"}'))
    async with raw_server(http(200, body, content_type=JSON, content_encoding="gzip, gzip")) as url:
        error = await failure_at(name, url)
    assert (error.code, error.retryable) == ("provider_error", True)
    assert "Content-Encoding" in str(error)


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_the_body_of_a_redirect_is_read_only_so_far(name: str) -> None:
    """httpx2 reads it to its end before it follows."""

    def answer(line: str) -> bytes:
        if line.startswith("POST"):
            return http(303, bomb("gzip"), location="/elsewhere", content_encoding="gzip")
        return http(418, b"", content_type=JSON)

    async with raw_server(answer) as url:
        with peak() as used:
            error = await failure_at(name, url)
    assert error.status == 418
    assert used() < BOMB / 2


@pytest.mark.parametrize("charset", ["zlib", "rot13", "base64", "idna", "undefined", "unicode_escape", "utf-7", "no"])
@everybody
async def test_a_charset_cannot_choose_how_the_body_of_an_error_is_decoded(name: str, charset: str) -> None:
    body = zlib.compress(b"x" * 1000) if charset == "zlib" else b'{"error": {"code": "busy"}}'
    async with raw_server(http(503, body, content_type=f"application/json; charset={charset}")) as url:
        error = await failure_at(name, url)
    assert (error.code, error.status) == ("provider_error", 503)


@everybody
async def test_the_head_of_a_response_is_bounded(name: str) -> None:
    async with raw_server(b"HTTP/1.1 503 x\r\n" + b"x-filler: " + b"x" * (1 << 20)) as url:
        error = await failure_at(name, url)
    assert (error.code, error.status) == ("provider_timeout", None)


@everybody
async def test_a_server_cannot_put_anything_into_later_requests(name: str) -> None:
    asked: list[str] = []

    def answer(head: str) -> bytes:
        asked.append(head)
        return http(503, b"", set_cookie="a=\xff\xfe")

    async with raw_server(answer, whole_head=True) as url:
        provider = sdk_at(name, url)
        for _ in range(2):
            with pytest.raises(ProviderError) as caught:
                [part async for part in provider.stream(Prompt([Turn("user", "?")]))]
            assert caught.value.status == 503
        await provider.aclose()
    assert not any("cookie" in head.lower() for head in asked)


@everybody
@pytest.mark.parametrize("host", ["a..b", ".x", "x" * 64, "127.0.0.1:99999999999", "127.0.0.1:-1"])
async def test_a_redirect_to_what_is_no_address_is_the_servers_failure(name: str, host: str) -> None:
    async with raw_server(http(307, b"", location=f"http://{host}/")) as url:
        error = await failure_at(name, url)
    assert error.code in ("provider_error", "provider_timeout")


async def test_whoever_reads_an_error_whole_keeps_its_connection() -> None:
    async with FakeProvider(Script(status=503)) as fake:
        provider = OpenAIProvider("k", fake.openai_base_url, "m", 5)
        for _ in range(3):
            with pytest.raises(ProviderError):
                [part async for part in provider.stream(Prompt([Turn("user", "?")]))]
        assert len(fake.connections) == 1
        await provider.aclose()


async def test_a_body_that_is_no_stream_is_bounded() -> None:
    """Such as a background response, read once more."""
    async with raw_server(http(200, gzip.compress(b"x" * (BOMB + 1)), content_encoding="gzip")) as url:
        client = access.Client(5)
        with pytest.raises(httpx2.DecodingError, match=f"more than {access.MAX_BODY_BYTES} bytes"):
            await client.get(url)
        await client.aclose()


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """The most memory that Python's objects took since."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    most = [0]
    try:
        yield lambda: most[0]
    finally:
        most[0] = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
