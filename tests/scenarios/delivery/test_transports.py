"""Both providers through every transport: the same text, byte for byte, and the same end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.script import Script
from tests.scenarios.client import Client, check
from tests.scenarios.event_source import EventSource
from tests.scenarios.world import Gateway, World

pytestmark = pytest.mark.also_with_auth

TOKENS = [
    "Grüße",
    ", ",
    "世界",
    "! ",
    "🙂",
    "👩🏽‍🚀",
    "\n\n",
    "e\u0301",
    " ",
    '"quoted" \\ /',
    "\u2028",
    "</script>",
    ".",
] * 9
TEXT = "".join(TOKENS)
PATH = "/v1/sessions/s/generations"


async def _websocket(relay: World, gateway: Gateway, codec: str) -> tuple[str, Any]:
    async with Client(gateway.url, "s", codec) as client:
        await client.subscribe()
        generation = await client.submit("Go")
        shown = await client.ended(generation)
        return shown.text, check(client, generation, TEXT)


async def _json(relay: World, gateway: Gateway) -> tuple[str, Any]:
    return await _websocket(relay, gateway, "json")


async def _msgpack(relay: World, gateway: Gateway) -> tuple[str, Any]:
    return await _websocket(relay, gateway, "msgpack")


async def _events(relay: World, gateway: Gateway) -> tuple[str, Any]:
    client = Client(gateway.url, "s")
    async with EventSource(gateway.url + "/v1/sessions/s/events", client) as stream:
        await stream.until(lambda: stream.events, "subscribed")
        _, answer, _ = await gateway.http("POST", PATH, {"content": "Go"})
        generation = answer["generation"]
        await stream.until(lambda: client.ends[generation], "the end")
    return client.shown(generation).text, check(client, generation, TEXT)


async def _submitted_stream(relay: World, gateway: Gateway) -> tuple[str, Any]:
    client = Client(gateway.url, "s")
    async with EventSource(gateway.url + PATH, client, "POST", {"content": "Go"}) as stream:
        await stream.ended()
    (generation,) = client.view.generations
    return client.shown(generation).text, check(client, generation, TEXT)


async def _wait(relay: World, gateway: Gateway) -> tuple[str, Any]:
    status, ended, _ = await gateway.http("POST", PATH + "?wait=20", {"content": "Go"})
    assert status == 200, ended
    return ended["text"], ended


async def _send(relay: World, gateway: Gateway) -> tuple[str, Any]:
    sending = relay.send(gateway, "s", "Go")
    assert await sending.exited() == 0
    (generation,) = (await gateway.http("GET", "/v1/sessions/s"))[1]["generations"]
    return sending.stdout.read_bytes().decode(), generation


@pytest.mark.parametrize("provider", ["openai", pytest.param("anthropic", marks=pytest.mark.slow)])
@pytest.mark.parametrize("transport", [_json, _msgpack, _events, _submitted_stream, _wait, _send])
async def test_every_transport_brings_the_providers_exact_text_usage_and_model(
    relay: World, transport: Any, provider: str
) -> None:
    relay.fake.script = Script(tokens=TOKENS, usage={"prompt_tokens": 7, "completion_tokens": 117})
    gateway = await relay.gateway()
    await relay.worker("--model", "fake-model", provider=provider)
    text, end = await transport(relay, gateway)
    assert text.encode() == TEXT.encode()
    assert (end["reason"], end["finish"], end["provider"]) == ("complete", "stop", provider)
    assert end["model"] == "fake-model"
    assert end["usage"] == {"input_tokens": 7, "output_tokens": 117}
    assert end["count"] == len(TOKENS)
