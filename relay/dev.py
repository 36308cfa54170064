"""`relay dev`: gateway, worker, embedded server and page in one process, for one person on one machine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import ExitStack

import uvicorn

from relay import embedded
from relay.gateway.server import address, listen, server
from relay.log.fitness import refuse_unfit
from relay.settings import Settings
from workers import loop, worker
from workers.lineup import Lineup, lineup


def run(settings: Settings, *, own_redis: bool) -> None:
    """Until Ctrl-C. Raises SettingsError before anything has begun."""
    asked = lineup(settings)
    sock = listen(settings.host, settings.port)
    with ExitStack() as stack:
        if own_redis:
            settings = settings.model_copy(update={"redis_url": stack.enter_context(embedded.server())})
        else:
            asyncio.run(refuse_unfit(settings.redis_url))
        loop.run(_run(settings, asked, sock))


async def _run(settings: Settings, asked: Lineup, sock: socket.socket) -> None:
    gateway = server(settings, handle_signals=False)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # The grace of a production worker would only make Ctrl-C slow here.
    impatient = settings.model_copy(update={"grace_s": 0})
    tasks = [
        asyncio.create_task(worker.run(impatient, asked, stopping), name="worker"),
        asyncio.create_task(gateway.serve(sockets=[sock]), name="gateway"),
    ]
    announcing = asyncio.create_task(_announce(gateway, sock, settings, asked), name="announce")
    told = asyncio.create_task(stopping.wait(), name="stopping")
    await asyncio.wait([*tasks, told], return_when=asyncio.FIRST_COMPLETED)
    for task in (announcing, told):
        task.cancel()
    stopping.set()
    gateway.should_exit = True
    await asyncio.gather(announcing, told, *tasks, return_exceptions=True)
    for task in tasks:
        task.result()


def _own_command() -> str:
    """How this person can call us: after `tasks.py run` the command is not on PATH."""
    return os.path.relpath(sys.argv[0])


async def _announce(gateway: uvicorn.Server, sock: socket.socket, settings: Settings, asked: Lineup) -> None:
    while not gateway.started:  # noqa: ASYNC110 - uvicorn has a flag and no event
        await asyncio.sleep(0.01)
    url = address(settings.host, sock.getsockname()[1])
    print(f"\n  The relay is running: {url}/\n", flush=True)  # noqa: T201
    print(f"  Answers come from: {', '.join(asked.names)}. From another terminal:", file=sys.stderr)  # noqa: T201
    print(f"  {_own_command()} send demo 'Hello' --url {url}\n", file=sys.stderr)  # noqa: T201
