"""An app on a real socket, behind the gateway's own protocol classes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import uvicorn
from starlette.types import ASGIApp

from relay.gateway import server
from relay.gateway.http_protocol import RelayHttpProtocol
from relay.gateway.websocket_protocol import RelayWebSocketProtocol

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[Callable[[], Awaitable[Streams]]]:
    """Yields what opens a connection to it. The app is not told of beginning and end."""
    with closing(server.listen("127.0.0.1", 0)) as sock:
        sock.listen()
        config = uvicorn.Config(
            app,
            http=RelayHttpProtocol,
            ws=RelayWebSocketProtocol,
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        running = uvicorn.Server(config)
        task = asyncio.create_task(running._serve([sock]))
        try:
            yield lambda: asyncio.open_connection(*sock.getsockname())
        finally:
            running.should_exit = running.force_exit = True
            await task
