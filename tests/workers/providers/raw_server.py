"""A server of a few lines that answers every request with the same bytes, in the pieces that a test chooses."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.workers.providers.dialect import End

Framing = Literal["chunked", "length", "close"]  # how the end of the body is known

_WRITE_BYTES = 1 << 15
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Response:
    """`pieces`: each a chunk of its own where the framing is `chunked`."""

    pieces: Iterable[bytes]
    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    framing: Framing = "chunked"
    end: End = "clean"

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} X", f"content-type: {self.content_type}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.framing == "chunked":
            lines.append("transfer-encoding: chunked")
        elif self.framing == "length":
            lines.append(f"content-length: {sum(map(len, self.pieces)) + (1 if self.end != 'clean' else 0)}")
        else:
            lines.append("connection: close")
        return "\r\n".join([*lines, "", ""]).encode()

    def framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(piece), piece) if self.framing == "chunked" else piece


class RawServer:
    """On loopback; `response` answers the next request. `sent`: bytes that were written so far."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.sent = 0
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def aclose(self) -> None:
        self._server.close()
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        if connection is None:
            raise RuntimeError("not in a task")
        self._connections[connection] = writer
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await _read_request(reader) and await self._respond(self.response, writer):
                    pass
        finally:
            writer.close()
            del self._connections[connection]

    async def _respond(self, response: Response, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can serve another request."""
        unsent = bytearray(response.head())  # many pieces at once: the borders of the chunks are in the bytes
        for piece in response.pieces:
            unsent += response.framed(piece)
            if len(unsent) > _WRITE_BYTES:
                await self._send(unsent, writer)
        await self._send(unsent, writer)
        if response.end == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return False
        if response.end == "cut" or response.framing == "close":
            return False
        if response.framing == "chunked":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _send(self, unsent: bytearray, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(unsent))
        await writer.drain()
        self.sent += len(unsent)
        unsent.clear()


async def _read_request(reader: asyncio.StreamReader) -> bool:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return False
    length = _LENGTH.search(head)
    await reader.readexactly(int(length[1]) if length else 0)
    return True


@asynccontextmanager
async def raw_server(response: Response) -> AsyncIterator[RawServer]:
    server = RawServer(response)
    await server.start()
    try:
        yield server
    finally:
        await server.aclose()
