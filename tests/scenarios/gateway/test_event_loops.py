"""The gateway's event loop is the one that is asked for, whatever is installed, and nothing depends on which."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.script import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import customized, until
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(40)]
SEVERAL = pytest.param(("--processes", "2"), id="several", marks=pytest.mark.slow)
FLAGS = pytest.mark.parametrize("flags", [pytest.param((), id="one process"), SEVERAL])

# Python imports a module of this name by itself, in the gateway and in each of its processes.
TELLS_LOOP = """
import asyncio, json, sys
from relay.gateway.gateway import Gateway

running = Gateway.running

def told(self):
    kind = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    print(json.dumps({"event": "runs_on", "loop": kind}), file=sys.stderr, flush=True)
    return running(self)

Gateway.running = told
"""
NOT_INSTALLED = "import sys; sys.modules['uvloop'] = None"


@FLAGS
@pytest.mark.parametrize("settings", [{}, {"RELAY_LOOP": "uvloop"}], ids=["by default", "uvloop"])
async def test_a_gateway_answers_on_the_loop_that_was_asked_for(
    relay: World, tmp_path: Path, flags: tuple[str, ...], settings: dict[str, str]
) -> None:
    pytest.importorskip("uvloop")  # by default it is not used although it is installed
    (tmp_path / "sitecustomize.py").write_text(TELLS_LOOP)
    gateway = await relay.gateway(*flags, **settings, PYTHONPATH=customized(tmp_path))
    line = await until(lambda: gateway.logged("runs_on"), "it has a loop")
    assert line["loop"] == settings.get("RELAY_LOOP", "asyncio")
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    await relay.worker()
    async with Client(gateway.url, "s") as client, Client(gateway.url, "s", "msgpack") as other:
        for viewer in (client, other):
            await viewer.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: "tokens" in client.kinds, "its first token")
        await client.cut()
        relay.fake.release()
        await client.connect()
        assert (await client.subscribe())["recovered"] is True
        for viewer in (client, other):
            await viewer.ended(generation)
            check(viewer, generation, "".join(TOKENS))
    gateway.signal(15)
    assert await gateway.exited() in (0, -15)


@FLAGS
async def test_a_loop_that_is_not_installed_is_refused_in_one_line(
    relay: World, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOT_INSTALLED)
    settings = {"RELAY_LOOP": "uvloop", "PYTHONPATH": customized(tmp_path)}
    gateway = relay.spawn("relay", "gateway", "--port", "0", *flags, **settings)
    assert await gateway.exited() == 2
    (line,) = gateway.stderr.read_text().splitlines()
    assert line.startswith("relay: RELAY_LOOP=uvloop, but uvloop cannot be imported (")
    assert line.endswith("): install it, or set RELAY_LOOP=asyncio")
