"""`relay dev`: gateway, worker, embedded server and page in one process, for one person on one machine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import typer
import uvicorn

from relay import embedded
from relay.errors import ServerDied
from relay.gateway.server import address, listen, server
from relay.settings import Settings
from relay.stop_signals import on_stop_signal, stop_signals
from relay.store.requirements import require_usable_redis
from relay_workers import event_loop, worker
from relay_workers.asking.provider_pool import ProviderPool, provider_pool

_LOOK_S = 0.2  # how often to check the embedded server


def run(settings: Settings, *, own_redis: bool) -> None:
    """Run until a stop signal. Raises SettingsError before anything begins, ServerDied if the embedded server dies."""
    providers = provider_pool(settings)
    sock = listen(settings.host, settings.port)
    with ExitStack() as stack:
        for number in stop_signals():  # until the loop has its own handlers, an exception cleans up what was begun here
            signal.signal(number, signal.default_int_handler)
        if own_redis:
            url, process = stack.enter_context(embedded.watched_server())
            settings = settings.model_copy(update={"redis_url": url})
        else:
            process = None
            asyncio.run(require_usable_redis(settings.redis_url, settings.prefix, must_answer=True))
        event_loop.run(_run(settings, providers, sock, process))


async def _run(
    settings: Settings, providers: ProviderPool, sock: socket.socket, process: subprocess.Popen[bytes] | None
) -> None:
    gateway = server(settings, handle_signals=False)
    stopping, serving = asyncio.Event(), asyncio.Event()
    on_stop_signal(stopping.set)
    # The grace of a production worker would only make Ctrl-C slow here.
    impatient = settings.model_copy(update={"grace_s": 0})
    tasks = [
        asyncio.create_task(worker.run(impatient, providers, stopping, started=serving), name="worker"),
        asyncio.create_task(gateway.serve(sockets=[sock]), name="gateway"),
    ]
    announcing = asyncio.create_task(_announce(gateway, serving, sock, settings, providers), name="announce")
    waiting = asyncio.create_task(stopping.wait(), name="stopping")
    watching = asyncio.create_task(_until_dead(process), name="embedded server")
    await asyncio.wait([*tasks, waiting, watching], return_when=asyncio.FIRST_COMPLETED)
    died = watching.done() and not waiting.done()  # a Ctrl-C in a terminal may have reached it, too
    for task in (announcing, waiting, watching):
        task.cancel()
    stopping.set()
    gateway.should_exit = True
    await asyncio.gather(announcing, waiting, watching, *tasks, return_exceptions=True)
    if died:
        # Do not start another one: it would be empty, and going on would hide the loss.
        raise ServerDied("the embedded server has died, and the sessions that it held are gone; start relay dev again")
    for task in tasks:
        task.result()


async def _until_dead(process: subprocess.Popen[bytes] | None) -> None:
    """Wait until the embedded server has died; for ever if there is none."""
    while process is None or process.poll() is None:  # noqa: ASYNC110 - a process has no event
        await asyncio.sleep(_LOOK_S)


def _own_command() -> str:
    """How this user can run the command: after `tasks.py run` it is not on PATH."""
    return os.path.relpath(sys.argv[0])


async def _announce(
    gateway: uvicorn.Server, serving: asyncio.Event, sock: socket.socket, settings: Settings, providers: ProviderPool
) -> None:
    """Print the address last and in one piece: among log lines nobody would find it."""
    while not gateway.started:  # noqa: ASYNC110 - uvicorn has a flag and no event
        await asyncio.sleep(0.01)
    await serving.wait()
    url = address(settings.host, sock.getsockname()[1]) + settings.root_path
    print(_banner(url, providers.names), flush=True)  # noqa: T201


def _banner(url: str, names: list[str]) -> str:
    rule = "-" * 72
    shown = typer.style(f"{url}/", bold=True) if sys.stdout.isatty() else f"{url}/"
    return f"""
{rule}

  The relay is running: {shown}

  Answers come from: {", ".join(names)}. From another terminal:
  {_own_command()} send demo 'Hello' --url {url}

  Another port: --port. The end: Ctrl-C.

{rule}
"""
