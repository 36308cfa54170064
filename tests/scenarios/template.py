"""Processes forked from one that has read our modules already.

A start costs about a second of CPU, nearly all of it spent on imports, and the scenarios start a thousand processes. So
each of pytest's processes has a template: it reads the modules once, and whoever is to run is a fork of it, with
environment, files, memory, sockets and end of its own, seen and killed by its pid as any other. What a start by itself
does is seen by soaks, and by the tests that give the interpreter or its loader settings of their own.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

_MODULES = {
    "relay": [
        "relay.commands.entry", "relay.commands.main", "relay.commands.dev", "relay.commands.send",
        "relay.commands.tail", "relay.gateway.supervisor",
    ],
    "relay-worker": [
        "relay_workers.cli", "relay_workers.worker", "relay_workers.providers.agent",
        "relay_workers.providers.anthropic",
        "relay_workers.providers.app", "relay_workers.providers.demo", "relay_workers.providers.openai",
        "relay_workers.providers.openai_background",
        "anthropic.resources.messages", "openai.resources.chat.completions",
        "openai.resources.responses",
    ],
}  # fmt: skip
_MAX_MESSAGE = 256 * 1024


class Forked:
    """A process by its pid, with as much of Popen as the scenarios want."""

    def __init__(self, template: Template, pid: int) -> None:
        self.pid = pid
        self._template = template
        self._handle = os.pidfd_open(pid)  # a number may be given to another process later

    def poll(self) -> int | None:
        code = self._template.code(self.pid)
        if code is not None and self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            try:
                signal.pidfd_send_signal(self._handle, number)
            except ProcessLookupError:
                pass  # it has just ended


class Template:
    """One process, begun at the first fork; it ends with whoever holds it. Not for several threads."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._settings = _of_the_interpreter(environment)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._codes: dict[int, int | None] = {}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def serves(self, command: list[str], environment: dict[str, str]) -> bool:
        """Whether a fork is as good as a process that is begun from nothing."""
        return Path(command[0]).name in _MODULES and _of_the_interpreter(environment) == self._settings

    def fork(self, command: list[str], environment: dict[str, str], out: BinaryIO, err: BinaryIO) -> Forked:
        body = json.dumps([command, environment, os.getcwd()]).encode()
        files = array.array("i", [out.fileno(), err.fileno()])
        self._ours.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        while (pid := self._take(0)) is None:
            pass
        return Forked(self, pid)

    def code(self, pid: int) -> int | None:
        """As Popen.returncode."""
        try:
            while self._codes[pid] is None:
                self._take(socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        return self._codes[pid]

    def close(self) -> None:
        self._ours.close()
        self._process.wait()

    def _take(self, flags: int) -> int | None:
        """One message: the pid of one that has begun; None for one that has ended."""
        message = self._ours.recv(_MAX_MESSAGE, flags)
        if not message:
            raise RuntimeError("the template has died; what it says stands above")
        pid, code = json.loads(message)
        self._codes[pid] = code
        return pid if code is None else None


def _of_the_interpreter(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(("PYTHON", "LD_"))}


def main() -> None:
    """The template's own part: fork whom it is told to, and tell how each has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for pytest, which then closes the socket
    asked = socket.socket(fileno=int(sys.argv[1]))
    for module in [name for names in _MODULES.values() for name in names]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a fork would else copy every page
    running: dict[int, int] = {}  # handle → pid
    while True:
        ready, _, _ = select.select([asked.fileno(), *running], [], [])
        for handle in running.keys() & set(ready):
            pid = running.pop(handle)
            os.close(handle)
            _, status = os.waitpid(pid, 0)
            asked.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())
        if asked.fileno() in ready:
            body, files, _, _ = socket.recv_fds(asked, _MAX_MESSAGE, 2)
            if not body:
                return
            pid = os.fork()
            if pid == 0:
                break
            for file in files:
                os.close(file)
            running[os.pidfd_open(pid)] = pid
            asked.send(json.dumps([pid, None]).encode())
    for handle in (asked.detach(), *running):
        os.close(handle)
    _be(*json.loads(body), *files)


def _be(command: list[str], environment: dict[str, str], directory: str, out: int, err: int) -> None:
    """As if Python had just begun with this command. Returns, or raises what ends a process, as that would."""
    for number, file in ((1, out), (2, err)):
        os.dup2(file, number)
        os.close(file)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    from relay import crashpoints
    from relay.commands import entry

    importlib.reload(crashpoints)  # it reads the environment when it is read
    {"relay": entry.relay, "relay-worker": entry.worker}[Path(command[0]).name]()


if __name__ == "__main__":
    main()
