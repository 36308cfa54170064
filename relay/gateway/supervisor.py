"""`relay gateway --processes N`: several gateways behind one port, and the parent that supervises them.

The parent binds the port, starts one child (child.py) per socket, replaces those that die, and ends them all. It
touches neither Redis nor a connection.

Why not the supervisor of uvicorn 0.54: its children outlive a parent that was killed; one that dies at once is
restarted twice a second for ever; all share one socket (see `listen_shared`); and it does not report whose gauges to
drop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from typing import cast

from relay import logging, metrics
from relay.gateway.server import listen_shared, server
from relay.private_folder import private_folder
from relay.settings import Settings
from relay.stop_signals import on_stop_signal

STABLE_AFTER_S = 10.0  # a child that lived that long is replaced at once
PAUSE_S = (0.1, 5.0)  # before replacing one that did not: the first pause, doubled up to the second
DRAIN_WITHIN_S = 20.0

logger = logging.get_logger("processes")


def run(settings: Settings) -> None:
    """Run until a stop signal; then every child drains. Raises SettingsError before anything has begun."""
    server(settings)  # so that an unusable setting is reported once, here, not by every child
    sockets = listen_shared(settings.host, settings.port, settings.processes)
    port = sockets[0].getsockname()[1]
    logger.info("listening", host=settings.host, port=port, processes=settings.processes)
    with private_folder("gateway", r".*\.db") as directory:
        asyncio.run(Supervisor(settings, sockets, str(directory)).run())


class Supervisor:
    """The children, one per socket. `directory`: private, where they keep their metrics."""

    def __init__(self, settings: Settings, sockets: list[socket.socket], directory: str) -> None:
        self._settings = settings.model_dump_json().encode() + b"\n"
        self._sockets = sockets
        self._directory = directory
        self._children: dict[int, Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run until told to stop and all children are gone."""
        on_stop_signal(self._on_signal)
        async with asyncio.TaskGroup() as keepers:
            keeping = [
                keepers.create_task(self._supervise(index, sock), name=f"process {index}")
                for index, sock in enumerate(self._sockets)
            ]
            await self._stopping.wait()
            await asyncio.wait(keeping, timeout=DRAIN_WITHIN_S)
            self._signal(signal.SIGKILL)
        logger.info("stopped")

    def _on_signal(self) -> None:
        """The first signal drains all children; a second one hurries them."""
        if self._stopping.is_set():
            self._signal(signal.SIGINT)
            return
        self._stopping.set()
        for sock in self._sockets:
            sock.close()  # otherwise new connections would wait here for an answer that never comes
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for child in self._children.values():
            if child.returncode is None:
                child.send_signal(number)

    async def _supervise(self, index: int, sock: socket.socket) -> None:
        """Keep a child running on this socket until all stop.

        Connections that come while there is none wait in the socket, which the parent holds, too.
        """
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while not self._stopping.is_set():
            began = loop.time()
            code, detail = None, None
            try:
                code = await self._run_child(index, sock.fileno())
            except OSError as error:  # no memory, or an upgrade in progress: the others go on, and we try again
                detail = str(error)
            metrics.forget(self._directory, str(index))
            if self._stopping.is_set():
                return
            steady = loop.time() - began >= STABLE_AFTER_S
            pause_s = 0.0 if steady else min(max(2 * pause_s, PAUSE_S[0]), PAUSE_S[1])
            logger.warning("process_died", process=index, code=code, detail=detail, replaced_in_s=pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    async def _run_child(self, index: int, fd: int) -> int:
        """Run one child from start to end; returns its exit code."""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "relay.gateway.child", str(index), str(fd),
            stdin=PIPE,
            pass_fds=(fd,),
            process_group=0,  # Ctrl-C in a terminal is for the parent, which passes it on once
            env={**os.environ, metrics.DIRECTORY: self._directory, metrics.PROCESS_VARIABLE: str(index)},
        )  # fmt: skip
        self._children[index] = child
        try:
            logger.info("process_started", process=index, pid=child.pid)
            if self._stopping.is_set():
                child.terminate()
            cast(asyncio.StreamWriter, child.stdin).write(self._settings)  # a PIPE
            return await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
            del self._children[index]
