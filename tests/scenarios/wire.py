"""A proxy on loopback between any two parts of a relay, which fails in the ways that networks fail.

    async with Wire(gateway.url) as wire:
        async with Client(wire.url, "s") as client, wire.stalled("down"):
            ...

It knows bytes only; proxy.py adds what is Redis'. "up" is towards the server, "down" towards whoever connected.
Each fault is over when its block is left; what it did to a connection stays.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

Direction = Literal["up", "down"]
BOTH: tuple[Direction, Direction] = ("up", "down")

_PIECE_BYTES = 65536
_PIECES = 256  # under way in one direction of one connection; beyond it the sender has to wait
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class HangUp(Exception):
    """This connection is over."""


class PlannedCut:
    """`after_bytes` more in one direction, over all connections; then the one that carried the last is cut there."""

    def __init__(self, after_bytes: int, reset: bool) -> None:
        self.left = after_bytes
        self.reset = reset
        self.struck = asyncio.Event()


class Wire:
    """`url` leads through it to `target`, a URL. `passed`: bytes handed on; `record`: those towards the client."""

    def __init__(self, target: str) -> None:
        self.latency_s = 0.0
        self.connections: set[Connection] = set()
        self.flowing = {direction: asyncio.Event() for direction in BOTH}
        self.swallowing = False
        self.forgets_after_s: float | None = None  # as a firewall does: what was idle for longer is a black hole
        self.cuts: dict[Direction, PlannedCut | None] = dict.fromkeys(BOTH)
        self.passed: Counter[Direction] = Counter()
        self.record = bytearray()
        self._target = urlsplit(target)
        self._socket = _bound(0)
        self._port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return urlunsplit(self._target._replace(netloc=f"127.0.0.1:{self._port}"))

    async def __aenter__(self) -> Self:
        for flowing in self.flowing.values():
            flowing.set()
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._refuse()
        await self._cut_all()
        self._socket.close()

    # Faults

    def cut(self, *, reset: bool = False) -> int:
        """Every connection, once: by FIN, or by RST. How many there were."""
        connections = tuple(self.connections)
        for connection in connections:
            connection.cut(reset=reset)
        return len(connections)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Nobody is there: connections are cut, new ones refused."""
        async with self.refusing_connections():
            await self._cut_all()
            yield

    @asynccontextmanager
    async def refusing_connections(self) -> AsyncIterator[None]:
        """Those that stand go on, new ones are refused."""
        self._refuse()
        try:
            yield
        finally:
            await self._listen()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Connections stand, nothing passes. What was sent meanwhile arrives when it is over, wanted or not."""
        async with self.stalled("up"), self.stalled("down"):
            yield

    @asynccontextmanager
    async def stalled(self, direction: Direction) -> AsyncIterator[None]:
        """The same one way only; the other way everything passes."""
        self.flowing[direction].clear()
        try:
            yield
        finally:
            self.flowing[direction].set()

    @asynccontextmanager
    async def slow(self, latency_s: float) -> AsyncIterator[None]:
        """Everything arrives this much later, in either direction."""
        before, self.latency_s = self.latency_s, latency_s
        try:
            yield
        finally:
            self.latency_s = before

    @asynccontextmanager
    async def black_hole(self) -> AsyncIterator[None]:
        """Connections stand or are made, and all that is sent vanishes, a hang-up too: neither side learns of it.

        What lost bytes is no stream any more, so these connections stay dead; those made after the block are well.
        """
        self.swallowing = True
        for connection in self.connections:
            connection.dead = True
        try:
            yield
        finally:
            self.swallowing = False

    @asynccontextmanager
    async def cutting(
        self, direction: Direction, after_bytes: int, *, reset: bool = False
    ) -> AsyncIterator[PlannedCut]:
        """A cut in mid-message: so many bytes still pass. Whether it came to that, the yielded cut knows."""
        planned = self.cuts[direction] = PlannedCut(after_bytes, reset)
        try:
            yield planned
        finally:
            self.cuts[direction] = None

    def delay_s(self) -> float:
        """How long the piece that has just arrived is on its way; those of one direction stay in order."""
        return self.latency_s

    # Its socket

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, sock=self._socket)

    def _refuse(self) -> None:
        """Stop listening, but keep the port: bound and not listened on, it refuses."""
        assert self._server is not None
        self._server.close()
        self._socket = _bound(self._port)

    async def _cut_all(self) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self.connection(reader, writer)
        self.connections.add(connection)
        self._tasks.add(connection.task)
        connection.task.add_done_callback(self._tasks.discard)
        connection.task.add_done_callback(lambda _: self.connections.discard(connection))

    def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection:
        return Connection(self, reader, writer)

    async def open_upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.scheme == "unix":
            return await asyncio.open_unix_connection(self._target.path)
        return await asyncio.open_connection(self._target.hostname, self._target.port)


class Connection:
    """One connection through a wire. `dead`: it has been in a black hole."""

    def __init__(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dead = wire.swallowing
        self.heard_at = asyncio.get_running_loop().time()
        self._wire = wire
        self._client = reader, writer
        self._writers: dict[Direction, asyncio.StreamWriter] = {"down": writer}
        self.task = asyncio.create_task(self._serve())

    @property
    def idle_s(self) -> float:
        return asyncio.get_running_loop().time() - self.heard_at

    def cut(self, *, reset: bool = False) -> None:
        for writer in self._writers.values():
            if reset and not writer.transport.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self.task.cancel()

    def write(self, direction: Direction, data: bytes) -> None:
        """Hand bytes on, as far as nothing is planned for them. Raises HangUp."""
        planned = self._wire.cuts[direction]
        if planned is not None:
            data = data[: planned.left]
            planned.left -= len(data)
        self._wire.passed[direction] += len(data)
        if direction == "down":
            self._wire.record += data
        if not self._writers[direction].transport.is_closing():
            self._writers[direction].write(data)
        if planned is not None and planned.left == 0:
            self._wire.cuts[direction] = None
            planned.struck.set()
            self.cut(reset=planned.reset)
            raise HangUp

    def pass_on(self, direction: Direction, data: bytes) -> None:
        """What has arrived goes on; a wire that understands it may do otherwise. Raises HangUp."""
        self.write(direction, data)

    async def _serve(self) -> None:
        flows: list[asyncio.Task[None]] = []
        try:
            reader, self._writers["up"] = await self._wire.open_upstream()
            flows = [
                asyncio.create_task(self._flow("up", self._client[0])),
                asyncio.create_task(self._flow("down", reader)),
            ]
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
            if self.dead:
                await asyncio.wait(flows)  # that one side has hung up, the other one never hears
        except OSError:
            pass  # nobody is there; the client is told by the hang-up
        finally:
            for flow in flows:
                flow.cancel()
            await asyncio.gather(*flows, return_exceptions=True)
            for writer in self._writers.values():
                writer.transport.abort()

    async def _flow(self, direction: Direction, reader: asyncio.StreamReader) -> None:
        """One direction, until its end."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PIECES)
        arriving = asyncio.create_task(self._arrive(direction, under_way))
        now = asyncio.get_running_loop().time
        try:
            while True:
                await self._wire.flowing[direction].wait()
                data = await reader.read(_PIECE_BYTES)
                await under_way.put((now() + self._wire.delay_s(), data))
                if not data:
                    break
            await arriving
        except (OSError, HangUp):
            pass  # whoever sent it, or was to take it, is gone
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)

    async def _arrive(self, direction: Direction, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - now()))
            await self._wire.flowing[direction].wait()
            if not data:
                return
            if self._wire.forgets_after_s is not None and self.idle_s > self._wire.forgets_after_s:
                self.dead = True
            self.heard_at = now()
            if not self.dead:
                self.pass_on(direction, data)
                await self._writers[direction].drain()


def some_bytes(chance: random.Random, most: int) -> int:
    """How many bytes are to pass before a cut: any number, small ones as often as large ones."""
    return int(most ** chance.random())


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made
