"""Which provider a worker uses, what it needs for that, and that it loads no other provider's SDK."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from relay import settings
from relay.errors import SettingsError
from relay.settings import PROVIDERS, ProviderName
from relay_workers import providers
from relay_workers.providers.agent import AgentProvider
from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Finished, Prompt, Provider, ProviderError, Text, TextComplete, Turn
from relay_workers.providers.network import Backend
from relay_workers.providers.openai import OpenAIProvider
from tests.fakes.provider import FakeProvider, Script


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "ANTHROPIC_", "AGENT_", "RELAY_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, "demo"),
        ({"openai_api_key": "k"}, "openai"),
        ({"openai_base_url": "http://127.0.0.1/v1"}, "openai"),
        ({"anthropic_api_key": "k"}, "anthropic"),
        ({"anthropic_base_url": "http://127.0.0.1"}, "anthropic"),
        ({"anthropic_api_key": "k", "openai_api_key": "k"}, "anthropic"),
        ({"anthropic_base_url": "http://127.0.0.1", "openai_api_key": "k"}, "anthropic"),
        ({"anthropic_api_key": "k", "provider": "openai"}, "openai"),
        ({"openai_api_key": "k", "provider": "anthropic"}, "anthropic"),
        ({"anthropic_api_key": "k", "openai_api_key": "k", "provider": "demo"}, "demo"),
        ({"agent_api_url": "http://127.0.0.1"}, "agent"),
        ({"agent_api_key": "k"}, "agent"),
        ({"agent_api_url": "http://127.0.0.1", "openai_api_key": "k"}, "openai"),
        ({"app": "json:dumps", "anthropic_api_key": "k", "agent_api_url": "http://127.0.0.1"}, "app"),
        ({"app": "json:dumps", "anthropic_api_key": "k", "provider": "anthropic"}, "anthropic"),
    ],
)
def test_the_provider_asked_for_wins_then_the_first_that_can_be_reached_then_the_demo(
    given: dict[str, Any], chosen: str
) -> None:
    assert providers.choose(settings.load(**given)) == [chosen]


def test_a_provider_that_is_not_on_offer_is_refused_with_those_that_are() -> None:
    with pytest.raises(SettingsError, match=r"RELAY_PROVIDER: parrot .*anthropic, openai, agent, app, demo"):
        providers.choose(settings.load(provider="demo,parrot"))


@pytest.mark.parametrize("name", PROVIDERS)
async def test_each_provider_is_made_under_its_name(name: ProviderName) -> None:
    keys = {"openai_api_key": "k", "anthropic_api_key": "k", "agent_api_url": "http://127.0.0.1"}
    provider = providers.make(name, settings.load(app="tests.workers.providers.test_app:echo", **keys))
    assert provider.name == name
    await provider.aclose()


FINISHED = {
    "openai": b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\n',
    "anthropic": b"event: content_block_delta\n"
    b'data: {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}\n\n'
    b'event: message_delta\ndata: {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}\n\n',
}
NEWS = {
    "openai": b'data: {"choices": []}\n\n',
    "anthropic": b'event: message_delta\ndata: {"type": "message_delta", "delta": {}}\n\n',
}


@pytest.mark.parametrize("name", FINISHED)
async def test_a_server_that_goes_on_after_the_finish_mark_does_not_hold_up_a_whole_answer(
    name: ProviderName, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + FINISHED[name])
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(NEWS[name])
                await writer.drain()
                await asyncio.sleep(0.02)

    monkeypatch.setattr(f"relay_workers.providers.{name}.TAIL_S", 0.2)
    monkeypatch.setattr("relay_workers.providers.reading.SHARED_TAIL_S", 0.2)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        provider = providers.make(name, settings.load(openai_base_url=url, anthropic_base_url=url))
        async with asyncio.timeout(10):
            parts = [part async for part in provider.stream(Prompt([Turn("user", "?")]))]
        await provider.aclose()
    assert (parts[:2], type(parts[-1]), len(parts)) == ([Text("x"), TextComplete()], Finished, 3)


async def test_a_stream_that_is_over_without_a_finish_is_cut_even_if_its_connection_stays_open() -> None:
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        writer.write(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n')
        await over.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        whole = providers.make("openai", settings.load(openai_base_url=url, openai_done_ends="yes"))
        *_, last = [part async for part in whole.stream(Prompt([Turn("user", "?")]))]
        assert isinstance(last, Finished)
        assert last.finish == "other"
        cut = providers.make("openai", settings.load(openai_base_url=url, openai_done_ends="no"))
        with pytest.raises(ProviderError) as caught:
            assert [part async for part in cut.stream(Prompt([Turn("user", "?")]))]
        assert caught.value.code == "truncated"
        over.set()
        await asyncio.gather(whole.aclose(), cut.aclose())


COUNTED = {
    "openai": b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}\n\n',
    "anthropic": b'event: message_start\ndata: {"type": "message_start", "message": {"usage": {"input_tokens": 3}}}\n\n'
    b'event: message_delta\ndata: {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 1}}\n\n',
}


@pytest.mark.parametrize("name", FINISHED)
async def test_a_whole_answer_keeps_its_usage_however_busy_we_are(
    name: ProviderName, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + FINISHED[name])
        await whole.wait()
        await busy_for_turns()
        writer.write(COUNTED[name])
        writer.close()

    monkeypatch.setattr(f"relay_workers.providers.{name}.TAIL_S", 0.3)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        provider = providers.make(name, settings.load(openai_base_url=url, anthropic_base_url=url))
        parts = []
        async for part in provider.stream(Prompt([Turn("user", "?")])):
            parts.append(part)
            if part == TextComplete():
                whole.set()
        await provider.aclose()
    assert isinstance(parts[-1], Finished)
    assert parts[-1].usage == {"input_tokens": 3, "output_tokens": 1}


async def busy_for_turns() -> None:
    for _ in range(4):
        time.sleep(0.2)  # noqa: ASYNC251 - it is the loop that is to be blocked
        await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["openai", "anthropic", "agent"])
async def test_a_server_that_takes_the_connection_is_reached_however_busy_we_are(
    name: ProviderName, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Backend.connect_tcp
    busy: list[asyncio.Task[None]] = []

    async def connect_while_busy(*given: Any, **named: Any) -> Any:
        busy.append(asyncio.create_task(busy_for_turns()))
        return await connect(*given, **named)

    monkeypatch.setattr(Backend, "connect_tcp", connect_while_busy)
    async with FakeProvider(Script(tokens=["x"])) as fake:
        provider = made(name, fake, connect_timeout_s=0.3)
        assert Text("x") in [part async for part in provider.stream(Prompt([Turn("user", "?")]))]
        await provider.aclose()
    assert len(busy) == 1


@pytest.mark.parametrize("name", ["openai", "anthropic", "agent"])
async def test_a_server_that_takes_no_connection_is_a_timeout(
    name: ProviderName, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect_for_ever(*given: Any, **named: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(Backend, "connect_tcp", connect_for_ever)
    async with FakeProvider(Script(tokens=["x"])) as fake:
        provider = made(name, fake, connect_timeout_s=0.05)
        with pytest.raises(ProviderError, match=r"no connection within 0\.05 s") as caught:
            await anext(provider.stream(Prompt([Turn("user", "?")])))
        await provider.aclose()
    assert (caught.value.code, caught.value.retryable) == ("provider_timeout", True)


def made(name: str, fake: FakeProvider, connect_timeout_s: float) -> Provider:
    if name == "agent":
        return AgentProvider(fake.agent_url, None, connect_timeout_s=connect_timeout_s)
    if name == "openai":
        return OpenAIProvider(None, fake.openai_base_url, "test-model", connect_timeout_s=connect_timeout_s)
    return AnthropicProvider(None, fake.anthropic_base_url, "test-model", connect_timeout_s=connect_timeout_s)


@pytest.mark.parametrize(
    ("name", "key"),
    [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY"), ("agent", "AGENT_API_URL"), ("app", "--app")],
)
def test_a_provider_without_its_key_names_it(name: ProviderName, key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        providers.make(name, settings.load())


@pytest.mark.parametrize(
    ("module", "loaded"),
    [
        ("relay_workers.cli", set()),
        ("relay_workers.providers.failures", set()),
        ("relay_workers.providers.demo", set()),
        ("relay_workers.providers.agent", set()),
        ("relay_workers.providers.app", set()),
        ("relay_workers.providers.openai", {"openai"}),
        ("relay_workers.providers.anthropic", {"anthropic"}),
    ],
)
def test_a_worker_loads_the_sdk_of_its_own_provider_only(module: str, loaded: set[str]) -> None:
    code = f"import sys, {module}; print(*{{'openai', 'anthropic'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(run.stdout.split()) == loaded
