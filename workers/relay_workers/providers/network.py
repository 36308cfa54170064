"""The HTTP client's connections to providers: what arrives is buffered, and one read takes all of it.

A model sends a small chunk per token, and a worker reads hundreds of models. httpcore2's own way (2.16, with anyio
4.16) costs as much as everything else in the HTTP client: for each read it makes a timer, and begins and ends watching
the socket. Here the socket is watched all the time, so that chunks which arrive while the loop is busy are read
together; and the read timeout counts only time for which the loop listened (relay/timeouts.py).

Readers take turns (relay/turns.py). Otherwise a busy worker would read hundreds of models in each turn of the event
loop, and what was read takes about five turns to be appended.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

from relay import timeouts

_BUFFER_BYTES = 256 * 1024  # of one connection; beyond that the server has to wait
_HANDSHAKE_S = 3600.0  # asyncio's own limit, by the wall clock, must not come first
_HAPPY_EYEBALLS_S = 0.25


def install(client: httpx2.AsyncClient) -> None:
    """Have this client's connections made here, also those to its proxies.

    httpx2 (2.16) does not pass a network backend on. Should a later one keep it elsewhere, it goes on with its own.
    """
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        if hasattr(pool, "_network_backend"):
            pool._network_backend = Backend()


class Backend(httpcore2.AsyncNetworkBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        local = None if local_address is None else (local_address, 0)
        try:
            async with timeouts.timeout(timeout):
                _, connection = await loop.create_connection(
                    Connection, host, port, local_addr=local, happy_eyeballs_delay=_HAPPY_EYEBALLS_S
                )
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except (OSError, ValueError, IndexError) as error:  # the last two: of names and ports that cannot be
            raise httpcore2.ConnectError(str(error)) from error
        try:
            for option in socket_options or ():
                connection.socket.setsockopt(*option)
        except OSError as error:
            await connection.aclose()
            raise httpcore2.ConnectError(str(error)) from error
        return connection

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Connection(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """One reader, one writer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._paused = False
        self._at_eof = False
        self._lost: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._turns = timeouts.turns()
        self._waits_for_turn = False
        self._read_timer = timeouts.Timer(self._read_overdue)

    # What httpcore2 calls

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises ReadTimeout, ReadError."""
        await self._until_turn(timeout)
        if self._received:
            return self._take(max_bytes)
        if self._lost is not None:
            raise httpcore2.ReadError(str(self._lost)) from self._lost
        return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Raises WriteTimeout, WriteError."""
        if self._lost is not None or self._transport.is_closing():
            raise httpcore2.WriteError(str(self._lost or "closed")) from self._lost
        self._transport.write(buffer)
        if self._writer is None:
            return
        try:
            async with timeouts.timeout(timeout):
                await self._writer
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        if self._lost is not None:
            raise httpcore2.WriteError(str(self._lost)) from self._lost

    async def aclose(self) -> None:
        self._transport.abort()
        await asyncio.sleep(0)  # transports close in the next turn of the event loop

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """Raises ConnectTimeout, ConnectError."""
        if self._received or self._at_eof:  # it came in the clear, and would be read as if it had come by TLS
            await self.aclose()
            raise httpcore2.ConnectError("bytes before the TLS handshake")
        try:
            async with timeouts.timeout(timeout):
                transport = await self._loop.start_tls(
                    self._transport, self, ssl_context,
                    server_hostname=server_hostname, ssl_handshake_timeout=_HANDSHAKE_S,
                )  # fmt: skip
        except TimeoutError as error:
            await self.aclose()
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:  # an SSLError is one
            await self.aclose()
            raise httpcore2.ConnectError(str(error)) from error
        except BaseException:
            self._transport.abort()
            raise
        if transport is None:
            raise httpcore2.ConnectError("closed during the TLS handshake")
        self._transport = transport
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # of an idle connection: then the server has closed it
            return self._has_news or _is_readable(self.socket)
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._transport.get_extra_info(names.get(info, info))

    @property
    def socket(self) -> Any:
        return self._transport.get_extra_info("socket")

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # under uvloop no subclass, but with the same methods

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._wake_reader()
        if len(self._received) > _BUFFER_BYTES and not self._paused:
            self._transport.pause_reading()
            self._paused = True

    def eof_received(self) -> bool:
        self._at_eof = True
        self._wake_reader()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not isinstance(exc, ssl.SSLEOFError):  # many servers end TLS without a goodbye
            self._lost = exc
        self._at_eof = True
        self._wake_reader()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        self._writer = None

    # Steps

    @property
    def _has_news(self) -> bool:
        return bool(self._received) or self._at_eof or self._lost is not None

    async def _until_turn(self, timeout_s: float | None) -> None:
        """Until something has been received, and its turn has come."""
        self._reader = self._loop.create_future()
        if self._has_news:
            self._wake_reader()
        if timeout_s is not None:
            self._read_timer.start(timeout_s)
        try:
            await self._reader
        finally:
            self._read_timer.stop()
            self._reader = None

    def _take(self, max_bytes: int) -> bytes:
        if len(self._received) <= max_bytes:
            taken, self._received = bytes(self._received), bytearray()
        else:
            taken = bytes(self._received[:max_bytes])
            del self._received[:max_bytes]
        if self._paused and len(self._received) <= _BUFFER_BYTES:
            self._transport.resume_reading()
            self._paused = False
        return taken

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done() and not self._waits_for_turn:
            self._waits_for_turn = True
            self._turns.ask(self._take_turn)

    def _take_turn(self) -> None:
        self._waits_for_turn = False
        if self._reader is not None and not self._reader.done():  # it may be another reader by now
            self._reader.set_result(None)

    def _read_overdue(self) -> None:
        if self._reader is not None and not self._reader.done() and not self._has_news:
            self._reader.set_exception(httpcore2.ReadTimeout("nothing was received in time"))


def _is_readable(sock: Any) -> bool:
    """Whether the kernel has something for us that the loop has not read yet."""
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
