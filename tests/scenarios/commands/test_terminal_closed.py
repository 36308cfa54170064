"""A terminal is closed over what runs in it: the kernel says so with SIGHUP, and what is printed goes nowhere."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import BIN, START_S, clean, free_port, until
from tests.scenarios.world import World

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="takes a terminal's session as Linux gives it"),
]

TOKENS = [f"w{number} " for number in range(30)]


class Terminal:
    """A command in the foreground of a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], *, nohup: bool = False) -> None:
        self._shown = b""
        self._screen, keyboard = os.openpty()
        os.set_blocking(self._screen, False)

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(keyboard, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

        self.process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], stdin=keyboard, stdout=keyboard, stderr=keyboard,
            env={**clean(), **environment}, preexec_fn=take_terminal,
        )  # fmt: skip
        os.close(keyboard)

    def shows(self, text: str) -> bool:
        try:
            self._shown += os.read(self._screen, 65536)
        except BlockingIOError:
            pass
        assert self.process.poll() is None, self._shown.decode()
        return text in self._shown.decode()

    @property
    def shown(self) -> str:
        return self._shown.decode()

    def close(self) -> None:
        os.close(self._screen)

    async def exited(self) -> int:
        await until(lambda: self.process.poll() is not None, "it ends", START_S)
        return int(self.process.returncode)


@asynccontextmanager
async def terminal(command: list[str], environment: dict[str, str], *, nohup: bool = False) -> AsyncIterator[Terminal]:
    opened = Terminal(command, environment, nohup=nohup)
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()


async def test_a_worker_finishes_what_it_says(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=4)
    gateway = await relay.gateway()
    environment = {"OPENAI_BASE_URL": relay.fake.openai_base_url, "RELAY_PREFIX": relay.prefix}
    environment |= {"RELAY_REDIS_URL": relay.redis_url, "RELAY_GRACE_S": "600"}
    async with terminal(["relay-worker", "--provider", "openai"], environment) as worker, Client(gateway.url, "s") as c:
        await c.subscribe()
        generation = await c.submit("q")
        await c.until(lambda: generation in c.view.generations and c.shown(generation).count == 4, "it answers")
        worker.close()
        relay.fake.release()
        await c.ended(generation)
        assert check(c, generation, "".join(TOKENS)).get("attempt", 1) == 1
        assert await worker.exited() == 0


@asynccontextmanager
async def _websocket(gateway: Terminal, port: int) -> AsyncIterator[ClientConnection]:
    """Once the gateway listens."""

    async def connected() -> ClientConnection | None:
        gateway.shows("")
        try:
            return await connect(f"ws://127.0.0.1:{port}/v1/ws", proxy=None)
        except OSError:
            return None

    async with await until(connected, "it listens", START_S) as websocket:
        assert await _next(websocket) == "welcome"
        yield websocket


async def _next(websocket: ClientConnection) -> Any:
    return json.loads(await websocket.recv())["type"]


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_a_gateway_drains(relay: World, processes: str) -> None:
    port = free_port()
    command = ["relay", "gateway", "--port", str(port), "--processes", processes]
    async with terminal(command, {"RELAY_REDIS_URL": relay.redis_url, "RELAY_PREFIX": relay.prefix}) as gateway:
        async with _websocket(gateway, port) as websocket:
            gateway.close()
            assert await _next(websocket) == "draining"
            await websocket.wait_closed()
            assert websocket.close_code == 1012
        assert await gateway.exited() == (-signal.SIGTERM if processes == "1" else 0)


async def test_relay_dev_ends_and_leaves_nothing_behind(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    async with terminal(["relay", "dev", "--port", "0"], {"TMPDIR": str(temporary)}) as dev:
        await until(lambda: dev.shows("Ctrl-C"), "it runs", START_S)
        assert dev.shows("serving")
        assert dev.shown.index("serving") < dev.shown.index("The relay is running"), "the banner comes last"
        dev.close()
        assert await dev.exited() == 0
    assert not list(temporary.iterdir())


async def test_under_nohup_a_gateway_goes_on(relay: World) -> None:
    port = free_port()
    environment = {"RELAY_REDIS_URL": relay.redis_url, "RELAY_PREFIX": relay.prefix}
    async with terminal(["relay", "gateway", "--port", str(port)], environment, nohup=True) as gateway:
        async with _websocket(gateway, port) as websocket:
            gateway.process.send_signal(signal.SIGHUP)
            gateway.close()
            await websocket.send('{"type": "ping"}')
            assert await _next(websocket) == "pong"
            gateway.process.send_signal(signal.SIGTERM)
            assert await _next(websocket) == "draining"
        assert await gateway.exited() == -signal.SIGTERM
