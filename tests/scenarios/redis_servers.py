"""Real Redis servers for the scenarios; redis_cluster.py, redis_sentinel.py and redis_tls.py set them up.

Each is a process in a directory of its own, listens on a free port of 127.0.0.1, and is ended by its pid.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from relay.embedded import die_with_parent
from tests.scenarios.processes import free_port, until

NODE_TIMEOUT_MS = 1000
SERVICE = "relay-master"
SLOTS = 16384


def binary() -> str:
    """A redis-server of 7.0 or newer; skips the test where there is none, except in CI."""
    found = shutil.which("redis-server")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout if found else ""
    match = re.search(r"v=(\d+)", version)
    if found is None or match is None or int(match[1]) < 7:
        why = f"redis-server 7.0 or newer is needed on PATH; there is {version.strip() or 'none'}"
        missing(why)
    return found


def missing(why: str) -> NoReturn:
    """Skip the test, except in CI, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


class Server:
    """One redis-server process; `options` are its command line."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        password: str = "",
        tls: dict[str, Any] | None = None,
        sentinel: bool = False,
    ) -> None:
        self._options = options
        self._directory = directory / f"redis-{secrets.token_hex(4)}"
        self._directory.mkdir()
        self._log = self._directory / "log"
        self._password = password
        self._tls = tls
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        self._choose_ports()

    def _choose_ports(self) -> None:
        self.port = free_port()
        self.bus_port = free_port()  # a Cluster's own; else of no use
        tls = {"ssl": True, **self._tls} if self._tls else {}
        where: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "password": self._password or None}
        self.redis = Redis(**where, **tls, socket_timeout=5, decode_responses=True)

    async def start(self) -> None:
        """Returns when it answers. Its ports may be others than before: a free one may be taken by then."""
        for _ in range(5):
            self._launch()
            if await until(self._answers_or_ended, f"the server on {self.port} answers or ends") == "answers":
                return
            assert "in use" in self._log.read_text(), self._log.read_text()[-1000:]
            await self.redis.aclose()
            self._choose_ports()
        raise AssertionError("no port is free")

    def _launch(self) -> None:
        port = ["--port", "0", "--tls-port"] if self._tls else ["--port"]
        kind: list[str] = []
        if self._sentinel:
            config = self._directory / "sentinel.conf"
            if not config.exists():
                config.write_text("")
            kind = [str(config), "--sentinel"]
        command = [
            binary(), *kind, *port, str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory),
            "--protected-mode", "no", *(() if self._sentinel else ("--save", "", "--appendonly", "no")), *self._options,
            *(("--cluster-port", str(self.bus_port)) if "--cluster-enabled" in self._options else ()),
        ]  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
            )

    @property
    def url(self) -> str:
        """With TLS, where the server is set up so."""
        options = "&".join(f"{name}={value}" for name, value in (self._tls or {}).items())
        scheme = "rediss" if self._tls else "redis"
        kind = "+cluster" if "--cluster-enabled" in self._options else ""
        return f"{scheme}{kind}://127.0.0.1:{self.port}/0?{options}"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def _answers_or_ended(self) -> str:
        if not self.runs:
            return "ended"
        try:
            await self.redis.ping()
            return "answers"
        except (RedisError, OSError):
            return ""

    async def ask(self, *command: Any) -> Any:
        return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As by `kill -9`; returns when it is gone."""
        if self.runs:
            assert self._process is not None
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    async def aclose(self) -> None:
        await self.redis.aclose()
        self.kill()


@asynccontextmanager
async def running(servers: list[Server]) -> AsyncIterator[list[Server]]:
    """Run these for the duration of the block."""
    try:
        for server in servers:
            await server.start()
        yield servers
    finally:
        for server in servers:
            await server.aclose()


async def nothing_is_on_its_way(master: Server) -> bool:
    """Whether this master's replicas have everything that it has."""
    info = await master.redis.info("replication")
    replicas = [info[name] for name in info if re.fullmatch(r"slave\d+", name)]
    return bool(replicas) and all(replica["offset"] == info["master_repl_offset"] for replica in replicas)
