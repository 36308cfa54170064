"""Real processes for the scenarios: started, watched, killed and reaped by pid."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tests.scenarios.template import Forked, Template

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
SOURCES = [str(ROOT), str(ROOT / "workers")]  # of the code under test, wherever another copy of it is installed
WATCHING = [str(ROOT / "tests" / "hooks"), *SOURCES]  # gateways look at what leaves their sinks (tests/sink_order.py)
TIMEOUT_S = 20.0
START_S = 60.0  # on a machine that many share; nothing is proven by how fast a process starts


def customized(directory: Path) -> str:
    """PYTHONPATH with a `sitecustomize` of a test's own before the code under test."""
    return os.pathsep.join([str(directory), *SOURCES])


async def until(condition: Callable[[], Any], what: str = "", timeout_s: float = TIMEOUT_S) -> Any:
    """Wait for a condition (not for time), which may be a coroutine; fails naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not (value := await found if inspect.isawaitable(found := condition()) else found):
        assert time.monotonic() < deadline, f"did not come true in {timeout_s} s: {what or condition}"
        await asyncio.sleep(0.005)
    return value


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def children(pid: int) -> list[int]:
    """Pids of a process's children (Linux)."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def alive(pid: int) -> bool:
    """Whether there is such a process, and not merely its zombie (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


_templates: list[Template] = []


@contextmanager
def templates() -> Iterator[None]:
    """Inside, processes are forks of one that has read their modules already."""
    _templates.append(Template(clean()))
    try:
        yield
    finally:
        _templates.pop().close()


def clean() -> dict[str, str]:
    """Nothing of this machine's settings may reach a process: a key would choose another provider."""
    ours = ("RELAY_", "OPENAI_", "ANTHROPIC_", "AGENT_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours) and name != "PORT"}
    clean["PYTHONPATH"] = os.pathsep.join([*WATCHING, *filter(None, [clean.get("PYTHONPATH")])])
    return clean


def _begin(
    command: list[str], environment: dict[str, str], out: BinaryIO, err: BinaryIO
) -> Forked | subprocess.Popen[bytes]:
    for template in _templates:
        if template.serves(command, environment):
            return template.fork(command, environment, out, err)
    return subprocess.Popen(command, env=environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL)


class Process:
    """One process of ours; its log lines are JSON on stderr."""

    def __init__(self, command: list[str], directory: Path, name: str, environment: dict[str, str]) -> None:
        self.name = name
        self.expected: set[str] = set()  # events that may be logged as errors
        self.stderr = directory / f"{name}.err"
        self.stdout = directory / f"{name}.out"
        with self.stderr.open("wb") as err, self.stdout.open("wb") as out:
            self._popen = _begin([str(BIN / command[0]), *command[1:]], {**clean(), **environment}, out, err)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """Exit code; negative: killed by that signal; None: runs."""
        return self._popen.poll()

    def lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self.stderr.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [line for line in found if isinstance(line, dict)]

    def logged(self, event: str) -> dict[str, Any] | None:
        return next((line for line in self.lines() if line.get("event") == event), None)

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    async def exited(self, timeout_s: float = START_S) -> int:
        """Its exit code, once it has one; it may have just begun."""
        await until(lambda: self.code is not None, f"{self.name} exits", timeout_s)
        assert self.code is not None
        return self.code

    async def kill(self) -> None:
        """`kill -9`."""
        self.signal(signal.SIGKILL)
        await self.exited()

    async def end(self) -> None:
        """Ask it to end; insist if it does not."""
        if self.code is None:
            self.signal(signal.SIGTERM)
            try:
                await self.exited()
            except AssertionError:
                await self.kill()
                raise

    def check_log(self) -> None:
        """No traceback and nothing unexpected was logged."""
        text = self.stderr.read_text()
        assert "Traceback" not in text, f"{self.name}:\n{text[-3000:]}"
        if self.name.endswith(("-gateway", "-worker")):  # what others say is for a person
            plain = [line for line in text.splitlines() if not line.startswith(("{", "relay: ", "relay-worker: "))]
            assert not plain, f"{self.name}: {plain[:3]}"
        errors = [line for line in self.lines() if line.get("level") in ("error", "critical")]
        unexpected = [line for line in errors if line.get("event") not in self.expected]
        assert not unexpected, f"{self.name}: {unexpected[:3]}"
