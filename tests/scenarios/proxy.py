"""A wire between one process and Redis that reads commands and pushes, so that a fault can be meant for some of them.

    async with Proxy(redis_url) as proxy:
        worker = await relay.worker(RELAY_REDIS_URL=proxy.url)
        async with proxy.away():
            ...

Beside a wire's faults: those of one script (`APPEND`, a worker's events), and those of pub/sub (`hints`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

import hiredis

from relay.store.scripts import session_script
from tests.scenarios.hints import Hints, Pushes
from tests.scenarios.wire import Connection, Direction, HangUp, Wire

APPEND = hashlib.sha1(session_script("append").source.encode()).hexdigest().encode()

_REFUSAL = b"-ERR Protocol error: invalid bulk length\r\n"


class Proxy(Wire):
    """`seen` counts scripts by hash, those that fail included. `hints`: what happens to pub/sub messages."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url)
        self.seen: Counter[bytes] = Counter()
        self.hints = Hints()
        self._faults: deque[str] = deque()  # of the next appends, one each
        self._refused_above: int | None = None

    @property
    def url(self) -> str:
        database = parse_qs(self._target.query).get("db", ["0"])[0] if self._target.scheme == "unix" else ""
        return f"redis://127.0.0.1:{self._port}{self._target.path if not database else '/' + database}"

    # Faults of appends

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

    # Faults of subscriptions

    @asynccontextmanager
    async def deaf(self) -> AsyncIterator[None]:
        """Subscriptions are gone, and back after the block, and whoever has them is told neither: messages between
        are lost as by a client library that connects again by itself."""
        subscribing = [one for one in self.connections if isinstance(one, _RedisConnection) and one.pushes]
        for connection in subscribing:
            connection.go_deaf()
        try:
            yield
        finally:
            for connection in subscribing:
                connection.hear_again()

    def lose_subscriptions(self) -> None:
        """They are half-open from now on: neither side learns that nothing arrives any more."""
        for connection in self.connections:
            if isinstance(connection, _RedisConnection) and connection.pushes:
                connection.dead = True

    def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection:
        return _RedisConnection(self, reader, writer)


class _RedisConnection(Connection):
    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pushes: Pushes | None = None  # once it has subscribed
        self._proxy = proxy
        self._commands = hiredis.Reader()
        self._losing = False
        super().__init__(proxy, reader, writer)

    def pass_on(self, direction: Direction, data: bytes) -> None:
        if direction == "up":
            self._commands.feed(data)
            while (command := self._commands.gets()) is not False:
                self._command(command)
            return
        if self._losing:
            raise HangUp
        if self.pushes is not None:
            data = self.pushes.feed(data)
        self.write("down", data)

    def go_deaf(self) -> None:
        if self.pushes is not None and self.pushes.channels and not self._writers["up"].transport.is_closing():
            self._writers["up"].write(self.pushes.unsubscribe())

    def hear_again(self) -> None:
        if self.pushes is not None and self.pushes.channels and not self._writers["up"].transport.is_closing():
            self._writers["up"].write(self.pushes.subscribe())

    def _command(self, command: list[bytes]) -> None:
        packed = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # its stub says a 1-tuple
        if command[0].upper() in (b"SUBSCRIBE", b"UNSUBSCRIBE"):
            self.pushes = self.pushes or Pushes(self._proxy.hints, lambda data: self.write("down", data))
            self.pushes.asked(command)
        fault = self._proxy.fault_of(command, len(packed))
        if fault == "fails":
            raise HangUp
        if fault == "refused":
            self.write("down", _REFUSAL)
            return
        # Nobody here sends a command before the one before it was answered: the next reply is this one's.
        self._losing = fault == "lost"
        self.write("up", packed)
