"""`relay gateway --processes N`: several processes behind one port are one gateway to everybody outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.fakes.script import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process, alive, until
from tests.scenarios.world import Gateway, World

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes and sockets under /proc")

ESTABLISHED, LISTENING = "01", "0A"
TOKENS = [f"w{number} " for number in range(30)]


def _started(gateway: Process, place: int) -> list[int]:
    """Pids of all that have lived at this place, the newest last."""
    lines = gateway.lines()
    return [line["pid"] for line in lines if line.get("event") == "process_started" and line["process"] == place]


async def _lives(gateway: Process, place: int, count: int) -> None:
    await until(lambda: len(_started(gateway, place)) == count, "whoever died is replaced")


def _sockets(gateway: Gateway, state: str) -> set[str]:
    """Sockets on the gateway's port, as the kernel sees them."""
    port = int(gateway.url.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if int(row[1].rpartition(":")[2], 16) == port and row[3] == state}


async def _two_processes(relay: World, **settings: str) -> Gateway:
    """A gateway of two processes, both of which serve."""
    gateway = await relay.gateway("--processes", "2", **settings)
    await until(lambda: len(_sockets(gateway, LISTENING)) == 2, "both listen")
    return gateway


def _connections(gateway: Gateway, pid: int) -> int:
    """Connections that clients have with this process."""
    ours = _sockets(gateway, ESTABLISHED)
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += os.readlink(entry) in ours
        except FileNotFoundError:
            continue
    return found


async def _viewers_on_both(gateway: Gateway, stack: AsyncExitStack) -> list[Client]:
    """Viewers of the session `s`, until each of two processes has three."""
    pids = [_started(gateway, place)[-1] for place in (0, 1)]
    viewers: list[Client] = []
    while min(_connections(gateway, pid) for pid in pids) < 3:
        assert len(viewers) < 64, "the connections are spread"
        viewers.append(await stack.enter_async_context(Client(gateway.url, "s")))
        await viewers[-1].subscribe()
    return viewers


async def _ten_tokens(viewer: Client, generation: str) -> None:
    known = viewer.view.generations
    await viewer.until(lambda: generation in known and known[generation].count == 10, "ten tokens")


def _connected(viewer: Client) -> bool:
    assert viewer.connection is not None
    return viewer.connection.close_code is None and viewer.connection.state.name == "OPEN"


async def test_what_two_processes_did_adds_up_and_stays_when_one_is_killed_and_replaced(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await _two_processes(relay)
    await relay.worker()
    async with AsyncExitStack() as stack:
        viewers = await _viewers_on_both(gateway, stack)
        generation = await viewers[0].submit("q")
        for viewer in viewers:
            await _ten_tokens(viewer, generation)
        before = await relay.metrics_once(
            gateway,
            {"relay_connections": len(viewers), "relay_subscriptions": len(viewers), "relay_followers": 2},
        )
        assert before['relay_commands_total{type="subscribe"}'] == len(viewers)
        assert before['relay_submits_total{outcome="accepted"}'] == 1

        victim = _started(gateway, 0)[-1]
        lost = _connections(gateway, victim)
        os.kill(victim, signal.SIGKILL)
        await until(lambda: sum(map(_connected, viewers)) == len(viewers) - lost, "the others keep their connection")
        await _lives(gateway, 0, 2)
        after = await relay.metrics_once(gateway, {"relay_connections": len(viewers) - lost})
        fallen = {name for name in before if name.endswith("_total") and after.get(name, 0) < before[name]}
        assert not fallen
        assert after['relay_commands_total{type="subscribe"}'] == len(viewers)

        for viewer in viewers:
            if not _connected(viewer):
                await viewer.cut()
                await viewer.connect()
                assert (await viewer.subscribe())["recovered"] is True
        relay.fake.release()
        for viewer in viewers:
            await viewer.ended(generation)
            check(viewer, generation, "".join(TOKENS))
        after = await relay.metrics_once(gateway, {"relay_connections": len(viewers)})
        assert after['relay_commands_total{type="subscribe"}'] == len(viewers) + lost
        assert after['relay_frames_total{kind="single"}'] > before['relay_frames_total{kind="single"}']
    assert _started(gateway, 1)[1:] == []


async def test_a_process_that_dies_again_and_again_is_replaced_less_and_less_often(relay: World) -> None:
    gateway = await _two_processes(relay)
    for number in range(1, 5):
        os.kill(_started(gateway, 1)[-1], signal.SIGKILL)
        await _lives(gateway, 1, number + 1)
    pauses = [line["replaced_in_s"] for line in gateway.lines() if line.get("event") == "process_died"]
    expected = [0.1, 0.2, 0.4, 0.8]
    assert pauses in (expected, [0.0, *expected[:3]])  # on a busy machine the first one was there for long
    assert (await gateway.http("GET", "/healthz"))[0] == 200


async def _farewell(websocket: ClientConnection) -> list[Any]:
    """Types of the frames that came, and the close code."""
    seen: list[Any] = []
    try:
        async for raw in websocket:
            seen.append(json.loads(raw)["type"])
    except ConnectionClosed:
        pass
    return [*seen, websocket.close_code]


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGINT, id="Ctrl-C"),
        pytest.param(signal.SIGQUIT, id="SIGQUIT", marks=pytest.mark.slow),
    ],
)
async def test_told_to_end_every_process_drains_and_nothing_is_left(
    relay: World, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    gateway = await _two_processes(relay, TMPDIR=str(temporary))
    pids = [_started(gateway, place)[-1] for place in (0, 1)]
    async with AsyncExitStack() as stack:
        address = gateway.url.replace("http", "ws", 1) + "/v1/ws"
        websockets: list[ClientConnection] = []
        while min(_connections(gateway, pid) for pid in pids) < 2:
            websockets.append(await stack.enter_async_context(connect(address, proxy=None)))
        listening = [asyncio.create_task(_farewell(websocket)) for websocket in websockets]
        gateway.signal(number)
        for heard in await asyncio.gather(*listening):
            assert heard == ["welcome", "draining", 1012]
    assert await gateway.exited() == 0
    assert not any(map(alive, pids))
    assert not list(temporary.iterdir())
    with pytest.raises(ConnectionRefusedError), socket.socket() as sock:
        sock.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))


async def test_when_the_parent_is_killed_its_children_drain_and_end(relay: World, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    gateway = await _two_processes(relay, TMPDIR=str(temporary))
    pids = [_started(gateway, place)[-1] for place in (0, 1)]
    async with connect(gateway.url.replace("http", "ws", 1) + "/v1/ws", proxy=None) as websocket:
        await gateway.kill()
        assert await _farewell(websocket) == ["welcome", "draining", 1012]
    await until(lambda: not any(map(alive, pids)), "no process is left")
    assert not list(temporary.iterdir())


async def test_a_port_in_use_is_refused_and_not_shared(relay: World) -> None:
    first = await _two_processes(relay)
    port = first.url.rpartition(":")[2]
    second = relay.spawn("relay", "gateway", "--processes", "2", "--port", port)
    assert await second.exited() == 2
    assert second.stderr.read_text().splitlines() == [
        f"relay: --host 127.0.0.1 --port {port} cannot be listened on: Address already in use; "
        "choose another port with --port / RELAY_PORT, 0 for a free one"
    ]


async def test_a_setting_that_cannot_be_used_is_said_once_not_by_every_process(relay: World) -> None:
    gateway = relay.spawn("relay", "gateway", "--processes", "3", "--redis", "http://nowhere")
    assert await gateway.exited() == 2
    assert "RELAY_REDIS_URL" in gateway.stderr.read_text()
    assert len(gateway.stderr.read_text().splitlines()) == 1
