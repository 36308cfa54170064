"""A real nginx on loopback, with a configuration and files of a scenario's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relay.embedded import die_with_parent
from tests.scenarios.redis_servers import missing

_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/error.log info;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {rest}
}}
"""


def nginx_path() -> str:
    """Where nginx is; skips the test where there is none, except in CI."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
    if found is None:
        missing("there is no nginx on PATH")
    return found


@asynccontextmanager
async def nginx(directory: Path, rest: str, ports: list[int]) -> AsyncIterator[None]:
    """Run one for the duration of the block, with this in its http block; returns once it listens on these ports."""
    process = _start(directory, rest)
    try:
        for port in ports:
            await _listens(port, process, directory)
        yield
    finally:
        process.terminate()
        process.wait()


def _start(directory: Path, rest: str) -> subprocess.Popen[bytes]:
    path = nginx_path()
    directory.mkdir()
    configuration = directory / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory, rest=rest))
    command = [path, "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(configuration)]
    with (directory / "said").open("wb") as said:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=die_with_parent)


async def _listens(port: int, process: subprocess.Popen[bytes], directory: Path) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert process.poll() is None, (directory / "said").read_text() + (directory / "error.log").read_text()
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
