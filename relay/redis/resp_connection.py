"""A raw RESP connection: turns commands into bytes and bytes into replies, with a hiredis reader."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from relay.redis.address import Endpoint, RedisAddress


async def connect_resp(address: RedisAddress, endpoint: Endpoint, on_reply: Callable[[Any], None]) -> RespConnection:
    """Raises OSError. It sends nothing yet, not even AUTH."""
    loop = asyncio.get_running_loop()

    def make() -> RespConnection:
        return RespConnection(on_reply)

    if address.connection_class is UnixDomainSocketConnection:
        _, connection = await loop.create_unix_connection(make, endpoint.host)
    else:
        tls = _tls(address.options) if address.connection_class is SSLConnection else None
        _, connection = await loop.create_connection(make, endpoint.host, endpoint.port, ssl=tls)
    return connection


def credentials(options: dict[str, Any]) -> list[str]:
    """The arguments of AUTH; empty if the address has neither a user nor a password."""
    username, password = options.get("username"), options.get("password")
    return ([username] if username else []) + ([password or ""] if username or password else [])


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    """The context that redis-py makes from the URL's ssl_… options."""
    named = {name: value for name, value in options.items() if name.startswith("ssl_")}
    context: ssl.SSLContext = SSLConnection(**named).ssl_context.get()
    return context


class RespConnection(asyncio.Protocol):
    """Speaks RESP2, the default of every server. `lost`: resolves with the reason when the connection is lost."""

    def __init__(self, on_reply: Callable[[Any], None]) -> None:
        self._on_reply = on_reply
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self.heard_at = loop.time()
        self.has_replied = False  # a proxy, or a Redis that is full, accepts a connection only to close it
        self.lost: asyncio.Future[str] = loop.create_future()

    @property
    def is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def send(self, *command: bytes | str) -> None:
        self.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub says a 1-tuple

    def write(self, packed: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(packed)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # under uvloop no subclass, but with the same methods

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._time()
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._on_reply(reply)
        except hiredis.ProtocolError as error:  # this server is no Redis
            self.connection_lost(error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(type(exc).__name__ if exc else "closed")
