"""A Redis server of a scenario's own, with a port and files, that may be killed and come back, with its data or not."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from redis.asyncio import Redis

from relay.embedded import die_with_parent, find_binary
from tests.scenarios.processes import free_port, until


class Server:
    """Every write is on the disk before it is answered: what it is killed with, it comes back with."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory / "redis"
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self._directory.mkdir()
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

    async def start(self) -> None:
        """Returns once it answers, all that it had kept read in."""
        self._process = self._spawn()
        await until(self._answers, "the server answers")

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [
            find_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no",
        ]  # fmt: skip
        with (self._directory.parent / "redis.log").open("ab") as log:
            return subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,
            )  # fmt: skip

    def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def copy(self) -> Path:
        """All that it has kept so far, to come back with later."""
        target = self._directory.with_name("redis-before")
        shutil.copytree(self._directory, target)
        return target

    def lose(self, instead: Path | None = None) -> None:
        """While it is dead: all that it had kept, or all that is not in this copy."""
        assert self._process is None
        shutil.rmtree(self._directory)
        if instead is not None:
            shutil.copytree(instead, self._directory)
        else:
            self._directory.mkdir()

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory.parent / "redis.log").read_text()[-500:]
        redis = Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1)
        try:
            await redis.ping()
        except Exception:  # not there yet, or still reading its files
            await asyncio.sleep(0.02)
            return False
        finally:
            await redis.aclose()
        return True
