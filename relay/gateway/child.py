"""One of the processes behind one port: a gateway whose parent is relay/gateway/supervisor.py.

Its settings are the first line of standard input, which then stays open. When it closes, the parent has died, even by
`kill -9`, and the child drains and ends as on SIGTERM.

    python -m relay.gateway.child INDEX LISTENING_FD
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys

import msgspec
import structlog
import uvicorn

from relay import logging, metrics
from relay.gateway.server import server
from relay.settings import Settings

_PARENT_PIPE_FD = 0

logger = logging.get_logger("processes")


def main(index: str, fd: str) -> None:
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the parent died while it started this child
    settings = Settings(**msgspec.json.decode(line))
    logging.configure(settings.log_level)
    structlog.contextvars.bind_contextvars(process=int(index))
    serving = server(settings)
    try:
        with asyncio.Runner(loop_factory=serving.config.get_loop_factory()) as runner:
            runner.run(_serve(serving, socket.socket(fileno=int(fd))))
    except KeyboardInterrupt:
        pass  # uvicorn has handled the signal, and raises it again


async def _serve(serving: uvicorn.Server, sock: socket.socket) -> None:
    orphaned = False

    def parent_gone() -> None:
        nonlocal orphaned
        orphaned = serving.should_exit = True
        loop.remove_reader(_PARENT_PIPE_FD)
        logger.warning("parent_gone")

    loop = asyncio.get_running_loop()
    loop.add_reader(_PARENT_PIPE_FD, parent_gone)
    await serving.serve(sockets=[sock])
    if orphaned:
        shutil.rmtree(os.environ[metrics.DIRECTORY], ignore_errors=True)  # the parent can no longer do it


if __name__ == "__main__":
    main(*sys.argv[1:])
