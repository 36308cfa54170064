"""A Redis that evicts: nothing starts with it, and a process that finds out later says so and serves on."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from relay import embedded
from tests.fakes.script import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process, free_port, until
from tests.scenarios.world import World, world

COMMANDS = [
    ["relay", "gateway", "--port", "0"],
    ["relay", "gateway", "--port", "0", "--processes", "2"],
    ["relay", "dev", "--port", "0"],
    ["relay-worker"],
]


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[World]:
    """A world with a server of its own, whose policy may be changed."""
    with embedded.embedded_server() as url:
        async with world(url, tmp_path) as made:
            yield made


@contextmanager
def redis_on(port: int, *options: str) -> Iterator[str]:
    """A server at an address that is known before it runs."""
    command = [embedded.find_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=embedded.die_with_parent)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_a_redis_that_evicts_ends_the_start_with_one_line(relay: World, command: list[str]) -> None:
    await relay.redis.config_set("maxmemory-policy", "volatile-lru")
    process = relay.spawn(*command, "--redis", relay.redis_url)
    assert await process.exited() == 2
    lines = process.stderr.read_text().splitlines()
    assert lines == [
        f"{command[0]}: Redis may evict what an unfinished answer needs: its maxmemory-policy is volatile-lru; "
        "set it to noeviction"
    ]
    assert process.stdout.read_text() == ""


@pytest.mark.parametrize("kind", ["away", "wrong password"])
async def test_relay_dev_refuses_a_redis_that_cannot_be_used(relay: World, kind: str) -> None:
    url = "redis://:geheim@127.0.0.1:1/0"
    if kind == "wrong password":
        url = relay.redis_url.replace("unix://", "unix://bob:geheim@")
    dev = relay.spawn("relay", "dev", "--port", "0", "--redis", url)
    assert await dev.exited() == 2
    said = dev.stderr.read_text()
    start, *reason = said.splitlines()[-1].partition(" that cannot be used: ")
    assert start == "relay: --redis / RELAY_REDIS_URL names a Redis"
    assert reason[1]
    assert "geheim" not in said
    assert dev.stdout.read_text() == ""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_a_redis_that_hides_its_policy_is_a_warning(tmp_path: Path, command: list[str]) -> None:
    with redis_on(free_port(), "--maxmemory-policy", "allkeys-lru", "--rename-command", "CONFIG", "") as url:
        async with world(url, tmp_path) as relay:
            process = relay.spawn(*command, RELAY_PROVIDER="demo")
            warning = await until(lambda: process.logged("policy_hidden"), "it is said")
            assert warning["level"] == "warning"
            assert "maxmemory-policy" in warning["detail"]
            await until(lambda: process.logged("listening") or process.logged("serving"), "it goes on")


@pytest.mark.slow
async def test_one_that_comes_late_and_evicts_makes_a_gateway_unready_until_it_is_corrected(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as servers:
        async with world(f"redis://127.0.0.1:{port}/0", tmp_path) as relay:
            gateway = await relay.listening_gateway()
            worker = await relay.worker(wait=False)
            gateway.expected = worker.expected = {"not_ready"}
            await until(lambda: _not_ready(gateway) and _not_ready(worker), "both have noticed")
            assert (await gateway.http("GET", "/readyz"))[0] == 503
            servers.enter_context(redis_on(port, "--maxmemory-policy", "allkeys-lru"))
            await until(lambda: len(_not_ready(gateway)) == 2 and len(_not_ready(worker)) == 2, "both have looked")
            assert "maxmemory-policy is allkeys-lru" in _not_ready(worker)[1]
            status, body, _ = await gateway.http("GET", "/readyz")
            assert (status, body["error"]["code"]) == (503, "unavailable")
            assert "maxmemory-policy is allkeys-lru" in body["error"]["message"]

            relay.fake.script = Script(tokens=["Yes."])
            async with Client(gateway.url, "s") as client:
                await client.subscribe()
                generation = await client.submit("does it go on?")
                await client.ended(generation)
                check(client, generation, "Yes.")

            await relay.redis.config_set("maxmemory-policy", "noeviction")

            async def is_ready() -> bool:
                return (await gateway.http("GET", "/readyz"))[0] == 200

            await until(is_ready, "it is ready by itself")


def _not_ready(process: Process) -> list[str]:
    return [line["detail"] for line in process.lines() if line.get("event") == "not_ready"]
