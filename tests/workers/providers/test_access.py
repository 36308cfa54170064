"""Whether a provider's host can be reached, asked without a call; and never past a proxy."""

from __future__ import annotations

import asyncio
import os
import socket

import httpx2
import pytest

from relay_workers.providers import access
from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Provider, ProviderError
from relay_workers.providers.demo import DemoProvider
from relay_workers.providers.openai import OpenAIProvider


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
