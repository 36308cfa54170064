"""A server that answers every request on loopback with the same bytes, whatever they are."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Answer = bytes | Callable[[str], bytes]  # a function is given the request's first line, or its whole head


@asynccontextmanager
async def raw_server(answer: Answer, *, stalls: bool = False, whole_head: bool = False) -> AsyncIterator[str]:
    """Its URL, without a path. `stalls`: it says no more after that, and keeps the connection; otherwise it closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if length := re.search(r"content-length: (\d+)", head, re.IGNORECASE):
                await reader.readexactly(int(length[1]))
            asked = head if whole_head else head.partition("\r\n")[0]
            writer.write(answer if isinstance(answer, bytes) else answer(asked))
            await writer.drain()
            if stalls:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has seen enough
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def http(status: int, body: bytes | str = b"", **headers: str) -> bytes:
    """A response whose end is the connection's. `headers`: with _ for -."""
    lines = [f"HTTP/1.1 {status} As scripted", *(f"{name.replace('_', '-')}: {said}" for name, said in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body if isinstance(body, bytes) else body.encode())
