"""The previous release beside the working tree: its code out of git's history, its processes in the same world.

`previous_release.txt` names its commit. It runs on the libraries of this tree, and sees none of this tree's modules.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TypeVar

import pytest

from tests.scenarios.processes import ROOT, Process, until
from tests.scenarios.redis_servers import missing
from tests.scenarios.world import World

COMMIT = Path(__file__).with_name("previous_release.txt").read_text().strip()
# An editable install would find this tree's modules where that release has none of the name.
_START = """
import importlib, json, os, sys
sys.meta_path[:] = [one for one in sys.meta_path if not getattr(one, "__module__", "").startswith("__editable__")]
import relay
found = {"event": "release", "level": "info", "relay": os.path.dirname(relay.__file__), "path": sys.path}
print(json.dumps(found), file=sys.stderr, flush=True)
module, _, function = sys.argv[1].partition(":")
sys.argv[:] = sys.argv[2:]
getattr(importlib.import_module(module), function)()
"""

P = TypeVar("P", bound=Process)


def unpack(directory: Path) -> Path:
    """The previous release's code; skips the test where there is no history, or it does not reach as far."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]
    try:
        archive = subprocess.run([*git, "archive", COMMIT], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode().strip()
        if not (ROOT / ".git").exists() or (ROOT / ".git" / "shallow").exists():
            pytest.skip(f"the previous release {COMMIT[:12]} wants a clone with its history: {said or error}")
        missing(f"the previous release {COMMIT[:12]} is not in the history here: {said or error}")
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive, check=True)
    return directory


class PreviousRelease(World):
    """A world whose processes are of that release; it shares Redis, prefix and provider with another one."""

    def __init__(self, beside: World, code: Path, directory: Path) -> None:
        super().__init__(beside.redis_url, directory, beside.fake)
        self.prefix = beside.prefix
        self._code = code
        project = tomllib.loads((code / "pyproject.toml").read_text())["project"]
        self._commands: dict[str, str] = project["scripts"]  # name → module:function

    def _spawn(self, kind: type[P], command: list[str], name: str, settings: dict[str, str]) -> P:
        path = os.pathsep.join([str(self._code / "tests" / "hooks"), str(self._code)])
        started = [Path(sys.executable).name, "-P", "-c", _START, self._commands[command[0]], *command]
        return super()._spawn(kind, started, name, {"PYTHONPATH": path, **settings})

    async def check_code(self, process: Process) -> None:
        """That it is really the previous release's that runs, and can be no other."""
        told = await until(lambda: process.logged("release"), "it says what it is")
        assert told["relay"] == str(self._code / "relay")
        assert not {"", ".", str(ROOT)} & set(told["path"]), told["path"]
