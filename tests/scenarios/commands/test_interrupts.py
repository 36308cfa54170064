"""A Ctrl-C while a command is still being read: exit code 130, and nothing is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.processes import Process, customized

# As if the key were pressed in the moment in which this module is imported, or, read whole, the command is called and
# click is not there yet to take it; whatever shell runs the tests.
_PRESSED = """
import os, signal, sys

class Calling:
    def find_spec(self, name, path, target=None):
        if name == "relay.commands.errors":
            sys.meta_path.remove(self)
            import typer

            call = typer.Typer.__call__
            typer.Typer.__call__ = lambda *given: (os.kill(os.getpid(), signal.SIGINT), call(*given))

class Pressing:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Calling() if {module!r} == "its call" else Pressing())
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["relay", "send", "s", "q"], "typer"),
        (["relay", "send", "s", "q"], "websockets"),
        (["relay", "tail", "s"], "relay.commands.tail"),
        (["relay", "gateway"], "relay.gateway.server"),
        (["relay-worker"], "relay_workers.asking.provider_pool"),
        (["relay", "tail", "s"], "its call"),
    ],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)
async def test_an_interrupted_start_is_no_traceback(tmp_path: Path, command: list[str], module: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(_PRESSED.format(module=module))
    process = Process(command, tmp_path, "it", {"PYTHONPATH": customized(tmp_path)})
    assert await process.exited() == 130
    assert process.stderr.read_text() == ""
    assert process.stdout.read_text() == ""
