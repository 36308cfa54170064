"""Private folders: gone with their process, by the next start at the latest, and never one of a living process."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from relay import private_folder
from relay.errors import SettingsError
from relay.private_folder import private_folder as folder

OWNER = """
import subprocess, sys
from relay.private_folder import private_folder

with private_folder("dev", "sock|log") as path:
    (path / "log").touch()
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdout=subprocess.DEVNULL)
    print(path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder, and with a child that outlives it, until our end of its input is closed."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield process, Path(process.stdout.readline().rstrip("\n"))


def test_it_is_private_and_gone_at_the_end(temporary: Path) -> None:
    with folder("dev", "sock|log") as path:
        assert path.parent == temporary
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        (path / "log").touch()
        (path / "anything").mkdir()
    assert list(temporary.iterdir()) == []


def test_two_that_live_side_by_side_leave_each_other_alone_and_the_killed_one_goes(temporary: Path) -> None:
    with owner() as (first, of_first), owner() as (second, of_second), folder("dev", "sock|log") as ours:
        assert {*temporary.iterdir()} == {of_first, of_second, ours}
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert of_first.exists()
        with folder("dev", "sock|log") as last:
            assert {*temporary.iterdir()} == {of_second, ours, last}
        second.communicate()
        assert {*temporary.iterdir()} == {ours}
        assert second.returncode == 0


@pytest.mark.parametrize(
    "name",
    ["relay-dev-short", "relay-dev-abcdefghi", "relay-gateway-abcdefgh", "relay-abcdefgh", "my-relay-dev-abcdefgh"],
)
def test_what_is_called_otherwise_is_nobodys_business(temporary: Path, name: str) -> None:
    (temporary / name).mkdir()
    with folder("dev", "sock|log"):
        pass
    assert [path.name for path in temporary.iterdir()] == [name]


def test_a_folder_that_holds_anything_else_is_left_as_it_is(temporary: Path) -> None:
    theirs = temporary / "relay-dev-abcdefgh"
    theirs.mkdir()
    for name in ("sock", "log", "thesis.txt"):
        (theirs / name).touch()
    below = temporary / "relay-dev-12345678"
    (below / "log").mkdir(parents=True)
    with folder("dev", "sock|log"):
        pass
    assert {path.name for path in theirs.iterdir()} == {"sock", "log", "thesis.txt"}
    assert (below / "log").is_dir()


def test_a_link_is_not_followed(temporary: Path) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "log").touch()
    (temporary / "relay-dev-abcdefgh").symlink_to(elsewhere)
    with folder("dev", "sock|log"):
        pass
    assert (elsewhere / "log").exists()


def test_an_owner_whose_folder_is_taken_for_a_dead_ones_makes_another(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's start comes between the folder and its lock: it holds it at first, then has removed it."""
    make, held = tempfile.mkdtemp, ExitStack()
    spoiled: list[str] = []

    def mkdtemp(prefix: str) -> str:
        path = make(prefix=prefix)
        if len(spoiled) == 0:
            lock = os.open(path, os.O_RDONLY)
            held.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        elif len(spoiled) == 1:
            private_folder._remove_abandoned("dev", re.compile("sock|log"))
            assert not Path(path).exists()
        spoiled.append(path)
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with held, folder("dev", "sock|log") as path:
        assert str(path) == spoiled[2]
        assert [*temporary.iterdir()] == [path]
        monkeypatch.setattr(tempfile, "mkdtemp", make)
        with folder("dev", "sock|log"):
            assert path.exists(), "it is locked"


def test_an_owner_whose_folder_is_gone_when_it_has_the_lock_makes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock
    gone: list[Path] = []

    def flock(fd: int, how: int) -> None:
        if not gone:
            (path,) = Path(tempfile.gettempdir()).iterdir()
            path.rmdir()
            gone.append(path)
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with folder("dev", "sock|log") as path:
        assert path.exists()
        assert path not in gone


def test_many_that_start_and_end_at_once_never_lose_theirs(temporary: Path) -> None:
    lost: list[Path] = []

    def live() -> None:
        for _ in range(50):
            with folder("dev", "sock|log") as path:
                (path / "log").touch()
                with folder("dev", "sock|log"):
                    if not (path / "log").exists():
                        lost.append(path)

    threads = [threading.Thread(target=live) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []
    assert list(temporary.iterdir()) == []


def test_without_locks_there_is_a_folder_all_the_same_and_nothing_is_removed(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError("not here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with folder("dev", "sock|log") as first, folder("dev", "sock|log") as second:
        assert {*temporary.iterdir()} == {first, second}


def test_where_none_can_be_made_that_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    for found in ("/nowhere/at/all", "No usable"):
        with (
            pytest.raises(SettingsError, match=rf"^no temporary folder can be made; is TMPDIR right\? \(.*{found}"),
            folder("dev", "sock|log"),
        ):
            pass
        monkeypatch.setattr(tempfile, "gettempdir", none)
