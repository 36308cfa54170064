"""What uvicorn leaves open for a peer that misbehaves, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.gateway import http_protocol, server
from relay.gateway.event_stream import hung_up

PATIENCE_S = 10
GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def _serving(app: ASGIApp) -> AsyncIterator[Callable[[], Awaitable[Streams]]]:
    """A server with our protocol class; yields what opens a connection to it."""
    with closing(server.listen("127.0.0.1", 0)) as sock:
        sock.listen()
        config = uvicorn.Config(
            app, http=http_protocol.RelayHttpProtocol, ws="none", lifespan="off", log_config=None, access_log=False
        )
        running = uvicorn.Server(config)
        task = asyncio.create_task(running._serve([sock]))
        try:
            yield lambda: asyncio.open_connection(*sock.getsockname())
        finally:
            running.should_exit = running.force_exit = True
            await task


async def _said(reader: asyncio.StreamReader, what: bytes) -> None:
    await asyncio.wait_for(reader.readuntil(what), PATIENCE_S)


async def test_an_answer_that_runs_is_told_of_the_hang_up_though_other_requests_came_behind_it() -> None:
    told = asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        hang_up = asyncio.create_task(hung_up(receive))
        while not hang_up.done():  # what is written is how the server itself learns of it: it does not read ahead
            await send({"type": "http.response.body", "body": b"it goes on", "more_body": True})
            await asyncio.wait([hang_up], timeout=0.01)
        told.set()

    async with _serving(stream) as connect:
        reader, writer = await connect()
        writer.write(GET * 3)
        await _said(reader, b"it goes on")
        writer.transport.abort()
        await asyncio.wait_for(told.wait(), PATIENCE_S)
