"""Soak and shaker for some minutes, each time with another seed: every promise is kept, nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 900.0  # a soak that cannot settle gives up long before


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["tests.soak", "--minutes", "2", "--sessions", "60"],
        ["tests.shaker", "--minutes", "1"],
    ],
    ids=["soak", "shaker"],
)
def test_every_promise_is_kept_under_faults_and_delays(command: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        told, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        left = _left_of(process.pid)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    print(told)  # with its seed
    assert process.returncode == 0, told
    assert not left


def _left_of(session: int) -> list[int]:
    """Processes of this one's session that still run, itself included (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue  # gone meanwhile
        if int(its_session) == session and state != "Z":
            found.append(int(path.parent.name))
    return found
