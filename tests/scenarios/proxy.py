"""A proxy on loopback between one process and Redis, which fails in the ways that networks and servers fail.

    async with Proxy(redis_url) as proxy:
        worker = await relay.worker(RELAY_REDIS_URL=proxy.url)
        async with proxy.away():
            ...

It reads commands, so that a fault can be meant for one script's (`APPEND`, a worker's events). Any process may stand
behind it, a gateway as well; each fault is over when its block is left.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hiredis
from redis.asyncio.connection import parse_url

from relay.log.scripts import session_script

APPEND = hashlib.sha1(session_script("append").source.encode()).hexdigest().encode()

_REFUSAL = b"-ERR Protocol error: invalid bulk length\r\n"


class Proxy:
    """`url` leads through it to the Redis of `redis_url`; `seen` counts scripts by hash, those that fail included."""

    def __init__(self, redis_url: str) -> None:
        self.seen: Counter[bytes] = Counter()
        self.latency_s = 0.0
        self.flowing = asyncio.Event()
        self.connections: set[_Connection] = set()
        self._faults: deque[str] = deque()  # of the next appends, one each
        self._refused_above: int | None = None
        self._address = parse_url(redis_url)
        self._socket = _bound(0)
        self._port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/{self._address.get('db', 0)}"

    async def __aenter__(self) -> Proxy:
        self.flowing.set()
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._hang_up()
        self._socket.close()

    # Faults

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Nobody is there: connections are cut, new ones refused."""
        await self._hang_up()
        try:
            yield
        finally:
            await self._listen()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Connections stand, nothing passes. What was sent meanwhile arrives when it is over, wanted or not."""
        self.flowing.clear()
        try:
            yield
        finally:
            self.flowing.set()

    @asynccontextmanager
    async def slow(self, latency_s: float) -> AsyncIterator[None]:
        """Each command, and whatever comes back, waits this long before it is passed on."""
        self.latency_s = latency_s
        try:
            yield
        finally:
            self.latency_s = 0.0

    @asynccontextmanager
    async def refusing(self, larger_than_bytes: int) -> AsyncIterator[None]:
        """Appends larger than this, as they are on the wire, are answered with an error that is about them alone."""
        self._refused_above = larger_than_bytes
        try:
            yield
        finally:
            self._refused_above = None

    @asynccontextmanager
    async def failing(self, appends: int) -> AsyncIterator[None]:
        """The next appends never reach Redis: the connection is cut instead."""
        async with self._planned(["fails"] * appends):
            yield

    @asynccontextmanager
    async def losing_replies(self, appends: int) -> AsyncIterator[None]:
        """The next appends take effect; the connection is cut in place of the reply."""
        async with self._planned(["lost"] * appends):
            yield

    def cut(self) -> None:
        """Every connection, once."""
        for connection in tuple(self.connections):
            connection.cut()

    @property
    def faults_left(self) -> int:
        """Appends that `failing` or `losing_replies` still wait for."""
        return len(self._faults)

    @asynccontextmanager
    async def _planned(self, faults: list[str]) -> AsyncIterator[None]:
        self._faults.extend(faults)
        try:
            yield
        finally:
            self._faults.clear()

    def fault_of(self, command: list[bytes], size_bytes: int) -> str:
        """What is to happen to this command: `fails`, `lost`, `refused` or nothing."""
        if command[0].upper() != b"EVALSHA":
            return ""
        self.seen[command[1]] += 1
        if command[1] != APPEND:
            return ""
        if self._refused_above is not None and size_bytes > self._refused_above:
            return "refused"
        return self._faults.popleft() if self._faults else ""

    async def passage(self) -> None:
        """Wait as long as something has to before it may pass."""
        await self.flowing.wait()
        if self.latency_s:
            await asyncio.sleep(self.latency_s)

    # Its socket

    async def _listen(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), sock=self._socket)

    async def _hang_up(self) -> None:
        """Stop listening, but keep the port: bound and not listened on, it refuses."""
        assert self._server is not None
        self._server.close()
        self._socket = _bound(self._port)
        tasks = [connection.cut() for connection in tuple(self.connections)]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def open_upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if path := self._address.get("path"):
            return await asyncio.open_unix_connection(path)
        return await asyncio.open_connection(self._address.get("host", "localhost"), self._address.get("port", 6379))


class _Connection(asyncio.StreamReaderProtocol):
    """One connection of the process behind the proxy, and ours to Redis for it."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._downstream = asyncio.StreamReader()
        self._losing = False
        super().__init__(self._downstream)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._client = transport
        self._proxy.connections.add(self)
        self._task = asyncio.create_task(self._serve())

    def cut(self) -> asyncio.Task[None]:
        self._client.abort()
        self._task.cancel()
        return self._task

    async def _serve(self) -> None:
        try:
            reader, writer = await self._proxy.open_upstream()
        except OSError:
            self._client.abort()
            return
        replies = asyncio.create_task(self._replies(reader))
        try:
            await self._commands(writer)
        except OSError:
            pass  # Redis has hung up; so do we
        finally:
            self._proxy.connections.discard(self)
            self._client.abort()
            replies.cancel()
            writer.transport.abort()
            await asyncio.gather(replies, return_exceptions=True)

    async def _commands(self, upstream: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await self._downstream.read(65536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                await self._proxy.passage()
                packed = hiredis.pack_command(tuple(command))
                fault = self._proxy.fault_of(command, len(packed))
                if fault == "fails":
                    return
                if fault == "refused":
                    self._client.write(_REFUSAL)
                    continue
                # Nobody here sends a command before the one before it was answered: the next reply is this one's.
                self._losing = fault == "lost"
                upstream.write(packed)
                await upstream.drain()

    async def _replies(self, upstream: asyncio.StreamReader) -> None:
        while data := await upstream.read(65536):
            await self._proxy.passage()
            if self._losing:
                break
            self._client.write(data)
        self._client.abort()


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made
