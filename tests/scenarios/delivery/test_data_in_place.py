"""`data` among text: whoever comes, and whatever happens meanwhile, shows it between the same two tokens."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from relay import client as python_client
from relay import embedded
from relay.protocol.words import Cursor
from tests.scenarios.browser import chromium
from tests.scenarios.client import Client, check
from tests.scenarios.clients.test_page import Tabs
from tests.scenarios.processes import until
from tests.scenarios.world import World, world
from tests.store.in_memory import parts_of

TOKENS = [f"w{number} é " for number in range(600)]
TEXT = "".join(TOKENS)
HALF = 300
EVERY = 7  # tokens before each data

AGENT = """
import asyncio, os
from relay_workers.app import Data, Job


async def generate(job: Job):
    for number in range({count}):
        if number % {every} == 0:
            yield Data("source", {{"before": number}})
        if number == {half}:
            while not os.path.exists({go!r}):
                await asyncio.sleep(0.02)
        yield f"w{{number}} é "
    yield Data("source", {{"before": {count}}})
"""


def _due(count: int) -> list[Any]:
    """Text and values in their order when so many tokens were said, and what stands before the next one."""
    made: list[Any] = []
    for number in range(0, count + 1, EVERY):
        made += [{"before": number}, "".join(TOKENS[number : min(number + EVERY, count)])]
    if count == len(TOKENS) and count % EVERY:
        made.append({"before": count})
    return [part for part in made if part != ""]


def _shown(shown: Any) -> list[Any]:
    """The same as a view shows it; `at` must say the same as the place."""
    made: list[Any] = []
    for part in shown.parts:
        if isinstance(part, str) and made and isinstance(made[-1], str):
            made[-1] += part
        elif isinstance(part, str):
            made.append(part)
        else:
            assert part["at"] == part["value"]["before"]
            made.append(part["value"])
    return made


class Scene:
    """A relay whose worker's generator waits in the middle for `go`."""

    def __init__(self, relay: World, directory: Path) -> None:
        self.relay = relay
        self.go = directory / "go"
        (directory / "own").mkdir()
        source = AGENT.format(count=len(TOKENS), every=EVERY, half=HALF, go=str(self.go))
        (directory / "own" / "sources.py").write_text(source)
        self._path = os.pathsep.join([str(directory / "own"), os.environ.get("PYTHONPATH", "")])

    async def worker(self) -> None:
        await self.relay.worker("--app", "sources:generate", provider="app", PYTHONPATH=self._path)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """With a server of its own, which may be emptied."""
    with embedded.embedded_server() as url:
        async with world(url, tmp_path) as made:
            made.settings["RELAY_TRIM_AFTER_S"] = "1"
            yield Scene(made, tmp_path)


def _values(found: list[str | dict[str, Any]]) -> list[Any]:
    return [part if isinstance(part, str) else part["value"] for part in found]


def _count(client: Client, generation: str) -> int:
    return client.shown(generation).count if generation in client.view.generations else 0


async def _half(client: Client) -> str:
    await client.subscribe()
    generation = await client.submit("q")
    await client.until(lambda: _count(client, generation) == HALF, "half")
    return generation


async def _merged(scene: Scene, generation: str) -> None:
    """Until the log is trimmed."""
    keys = [key async for key in scene.relay.redis.scan_iter(f"*:g:{generation}")]

    async def trimmed() -> bool:
        return bool(await scene.relay.redis.hget(keys[0], "pieces"))

    await until(trimmed, "the log is trimmed")


async def test_reload_slow_reader_snapshot_and_trimming_leave_data_in_its_place(scene: Scene) -> None:
    gateway = await scene.relay.gateway(RELAY_VIEWER_BUFFER_BYTES="1024", RELAY_WINDOW_BYTES="4096")
    await scene.worker()
    async with Client(gateway.url, "s") as client, Client(gateway.url, "s") as slow, Client(gateway.url, "s") as late:
        await slow.subscribe()
        assert slow.connection is not None
        slow.connection.transport.pause_reading()
        generation = await _half(client)
        await late.subscribe()  # a reload in the middle
        await late.until(lambda: _count(late, generation) == HALF, "half")
        assert _shown(client.shown(generation)) == _shown(late.shown(generation)) == _due(HALF)

        _, found, _ = await gateway.http("GET", "/v1/sessions/s")
        (snapshot,) = found["generations"]
        assert _values(parts_of(snapshot)) == _due(HALF)
        async with Client(gateway.url, "s") as resumed:  # it shows the snapshot, and goes on from it
            resumed.view.resume(Cursor(found["epoch"], found["head"]))
            assert (await resumed.subscribe())["recovered"] is True
            scene.go.touch()
            await resumed.ended(generation)
            assert snapshot["text"] + resumed.shown(generation).text == TEXT
            assert not resumed.wrong

        slow.connection.transport.resume_reading()
        for one in (client, late, slow):
            await one.ended(generation)
            check(one, generation, TEXT)
            assert _shown(one.shown(generation)) == _due(len(TOKENS))
        assert any(frame["type"] == "catchup" for frame in late.frames), "what a reload shows came merged"
        await _merged(scene, generation)
        async with Client(gateway.url, "s") as after:
            await after.subscribe()
            await after.ended(generation)
            check(after, generation, TEXT)
            assert _shown(after.shown(generation)) == _due(len(TOKENS))
    _, found, _ = await gateway.http("GET", f"/v1/sessions/s/generations/{generation}")
    assert _values(parts_of(found)) == _due(len(TOKENS))


@pytest.mark.slow
async def test_data_keeps_its_place_when_redis_loses_everything(scene: Scene) -> None:
    gateway = await scene.relay.gateway()
    await scene.worker()
    async with Client(gateway.url, "s") as client:
        generation = await _half(client)
        before = client.view.epoch
        await scene.relay.redis.flushall()
        await client.until(lambda: client.view.epoch != before and _count(client, generation) == HALF, "half, again")
        assert _shown(client.shown(generation)) == _due(HALF)
        _, found, _ = await gateway.http("GET", f"/v1/sessions/s/generations/{generation}")
        assert _values(parts_of(found)) == _due(HALF)
        scene.go.touch()
        await client.ended(generation)
        async with Client(gateway.url, "s") as reloaded:
            await reloaded.subscribe()
            await reloaded.ended(generation)
            for one in (client, reloaded):
                check(one, generation, TEXT)
                assert _shown(one.shown(generation)) == _due(len(TOKENS))
    assert all(ttl > 0 for ttl in (await scene.relay.ttls()).values())


@pytest.mark.slow
async def test_the_python_client_reads_data_in_its_place_though_redis_loses_everything(scene: Scene) -> None:
    gateway = await scene.relay.gateway()
    await scene.worker()
    read: list[Any] = []
    async with python_client.connect(gateway.url) as connection:
        async for item in await connection.submit("s", "q"):
            if isinstance(item, python_client.Restart):
                read.clear()
            elif isinstance(item, python_client.Text):
                before = read.pop() if read and isinstance(read[-1], str) else ""
                read.append(before + item.text)
            elif isinstance(item, python_client.Data):
                assert item.at == item.value["before"]
                read.append(item.value)
            if not scene.go.exists() and read == _due(HALF):
                await scene.relay.redis.flushall()
                scene.go.touch()
    assert read == _due(len(TOKENS))


_ORDER = """node => [...node.childNodes].map((child) =>
  child.nodeType === Node.TEXT_NODE ? child.data : JSON.parse(child.title))"""


@pytest.mark.slow
async def test_the_demo_page_shows_data_in_its_place_after_a_reload_and_a_loss(scene: Scene) -> None:
    gateway = await scene.relay.gateway()
    await scene.worker()
    async with chromium() as browser:
        tabs = Tabs(browser)
        page = await tabs.open(gateway.url)
        text = page.get_by_test_id("answer-text")
        await page.get_by_test_id("prompt").fill("Where from?")
        await page.get_by_test_id("prompt").press("Enter")
        for _ in range(2):
            await expect(page.get_by_test_id("data")).to_have_count(HALF // EVERY + 1)
            await expect(text).to_have_text("".join(TOKENS[:HALF]).strip())
            assert await text.evaluate(_ORDER) == _due(HALF)
            await page.reload()
        await scene.relay.redis.flushall()
        scene.go.touch()
        await expect(page.get_by_test_id("answer")).to_have_attribute("data-state", "complete")
        assert await text.evaluate(_ORDER) == _due(len(TOKENS))
        assert await text.evaluate("node => node.textContent") == TEXT
        assert not tabs.complaints
