"""Behind a real nginx, under a path, with the configuration that docs/operations.md tells people to use."""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.fakes.script import Script
from tests.scenarios.browser import chromium
from tests.scenarios.client import Client, check
from tests.scenarios.event_source import EventSource
from tests.scenarios.nginx import nginx
from tests.scenarios.processes import ROOT, free_port
from tests.scenarios.world import Gateway, World

pytestmark = pytest.mark.slow

PATIENCE_MS = 60_000  # of a browser on a machine that many share
TOKENS = [f"w{number} " for number in range(40)]
# What a proxy does that nobody told of WebSockets: HTTP/1.0, and no Upgrade.
CARELESS = (
    "server { listen 80; location /relay/ { proxy_pass http://127.0.0.1:8080/; proxy_set_header Host $http_host; } }"
)


def _documented() -> tuple[str, str]:
    """(map, server) as docs/operations.md shows them."""
    (snippet,) = re.findall(r"^```nginx\n(.*?)^```$", (ROOT / "docs" / "operations.md").read_text(), re.S | re.M)
    before, server, rest = snippet.partition("server {")
    return before, server + rest


def _put(server: str, port: int, gateway: Gateway) -> str:
    """The same for this port and this gateway."""
    for told, here in (("listen 80;", f"listen 127.0.0.1:{port};"), ("http://127.0.0.1:8080", gateway.url)):
        assert server.count(told) == 1
        server = server.replace(told, here)
    return server


@asynccontextmanager
async def _proxied(directory: Path, *served: tuple[str, Gateway]) -> AsyncIterator[list[Gateway]]:
    """The gateways as they are reached through nginx, under /relay."""
    shared, _ = _documented()
    ports = [free_port() for _ in served]
    servers = [_put(server, port, gateway) for (server, gateway), port in zip(served, ports, strict=True)]
    behind = [copy.copy(gateway) for _, gateway in served]
    for gateway, port in zip(behind, ports, strict=True):
        gateway.url = f"http://127.0.0.1:{port}/relay"
    async with nginx(directory / "nginx", shared + "\n".join(servers), ports):
        yield behind


async def _everything_works(relay: World, gateway: Gateway, browser: Browser, session: str) -> None:
    """The page, an ask over HTTP, an event stream and a WebSocket, all of one answer and while it is being made."""
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    page = await browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((gateway.url + "/", "data:")) else complaints.append(asked.url),
    )
    await page.goto(f"{gateway.url}/#s={session}")
    reader = Client(gateway.url, session)
    async with (
        Client(gateway.url, session) as client,
        EventSource(f"{gateway.url}/v1/sessions/{session}/events", reader) as stream,
    ):
        await client.subscribe()
        await stream.until(lambda: stream.events, "subscribed")
        status, answer, _ = await gateway.http("POST", f"/v1/sessions/{session}/generations", {"content": "Count"})
        assert status == 202
        generation = answer["generation"]
        shown = page.get_by_test_id("answer-text")
        await expect(shown).to_have_text("".join(TOKENS[:20]).strip(), timeout=PATIENCE_MS)
        half = "".join(TOKENS[:20])
        await client.until(lambda: client.view.generations[generation].text == half, "its first half")
        await stream.until(lambda: reader.view.generations[generation].text == half, "its first half")
        relay.fake.release()
        await client.ended(generation)
        await stream.until(lambda: reader.ends[generation], "the end")
        for viewer in (client, reader):
            check(viewer, generation, "".join(TOKENS))
        relay.fake.script = Script(tokens=TOKENS)
        await page.get_by_test_id("prompt").fill("And from the page")
        await page.get_by_test_id("prompt").press("Enter")
        await expect(page.get_by_test_id("answer").nth(1)).to_have_attribute(
            "data-state", "complete", timeout=PATIENCE_MS
        )
    assert (await gateway.http("GET", ""))[0] == 200  # without its slash it leads to the one with
    await page.close()
    assert complaints == []


async def test_all_of_it_works_under_a_path_that_nginx_takes_off_or_passes_on(relay: World, tmp_path: Path) -> None:
    _, server = _documented()
    assert server.count(":8080/;") == 1
    passing = server.replace(":8080/;", ":8080;")
    plain, rooted = await relay.gateway(), await relay.gateway(RELAY_ROOT_PATH="/relay")
    await relay.worker()
    served = ((server, plain), (passing, rooted), (CARELESS, plain), (passing, plain))
    async with _proxied(tmp_path, *served) as (taken_off, passed_on, careless, unknown), chromium() as browser:
        await _everything_works(relay, taken_off, browser, "s1")
        await _everything_works(relay, passed_on, browser, "s2")
        assert (await unknown.http("GET", "/"))[0] == 404
        await _what_a_careless_proxy_leaves(careless)


async def _what_a_careless_proxy_leaves(gateway: Gateway) -> None:
    """HTTP works, event streams as well, and a WebSocket's refusal says what is amiss."""
    status, session, _ = await gateway.http("GET", "/v1/sessions/s1")
    assert status == 200
    text = session["generations"][0]["text"]
    assert text == "".join(TOKENS)
    reader = Client(gateway.url, "s1")
    async with EventSource(f"{gateway.url}/v1/sessions/s1/events", reader) as stream:
        generation = session["generations"][0]["generation"]
        await stream.until(lambda: reader.ends[generation], "the end")
        check(reader, generation, text)
    with pytest.raises(InvalidStatus) as refused:
        await connect(gateway.url.replace("http", "ws", 1) + "/v1/ws", proxy=None)
    assert refused.value.response.status_code == 426
    assert b"pass on the headers Upgrade and Connection" in (refused.value.response.body or b"")
