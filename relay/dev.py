"""`relay dev`: gateway, worker, embedded server and page in one process, for one person on one machine."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import ExitStack

import uvicorn

from relay import embedded
from relay.gateway.server import address, listen, server
from relay.settings import Settings
from workers import providers, worker


def run(settings: Settings, *, own_redis: bool) -> None:
    """Until Ctrl-C. Raises SettingsError before anything has begun."""
    providers.choose(settings)
    sock = listen(settings.host, settings.port)
    with ExitStack() as stack:
        if own_redis:
            settings = settings.model_copy(update={"redis_url": stack.enter_context(embedded.server())})
        try:
            asyncio.run(_run(settings, sock))
        except KeyboardInterrupt:
            pass  # uvicorn raises the signal again once it has shut everything down


async def _run(settings: Settings, sock: socket.socket) -> None:
    gateway = server(settings)
    stopping = asyncio.Event()
    # The grace of a production worker would only make Ctrl-C slow here.
    working = asyncio.create_task(worker.run(settings.model_copy(update={"grace_s": 0}), stopping), name="worker")
    serving = asyncio.create_task(gateway.serve(sockets=[sock]), name="gateway")
    announcing = asyncio.create_task(_announce(gateway, sock, settings), name="announce")
    try:
        await asyncio.wait([working, serving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        announcing.cancel()
        stopping.set()
        gateway.should_exit = True
        await asyncio.gather(announcing, return_exceptions=True)
        await asyncio.gather(working, serving)


async def _announce(gateway: uvicorn.Server, sock: socket.socket, settings: Settings) -> None:
    while not gateway.started:  # noqa: ASYNC110 - uvicorn has a flag and no event
        await asyncio.sleep(0.01)
    url = address(settings.host, sock.getsockname()[1])
    provider = providers.choose(settings)
    print(f"\n  The relay is running: {url}/\n", flush=True)  # noqa: T201
    print(f"  Answers come from: {provider}. Ask from a terminal: relay send demo 'Hello' --url {url}", file=sys.stderr)  # noqa: T201
