"""The wheel as a stranger gets it: built from the files here, installed where nothing else is, and asked something."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import relay
import relay_workers
from tests.scenarios.processes import START_S, clean, free_port, until

ROOT = Path(__file__).parents[1]
CONSTRAINTS = str(ROOT / "constraints.txt")
ENDS_WITHIN_S = 30.0
_LEFT_OUT = shutil.ignore_patterns(
    ".venv*", ".git", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "node_modules", "build", "dist"
)


@pytest.mark.slow
async def test_the_wheel_has_every_file_and_answers_where_it_is_installed_alone(tmp_path: Path) -> None:
    wheel = _built(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"relay-{relay.__version__}.dist-info/METADATA").decode()
    assert {name for name in names if ".dist-info/" not in name} ^ _ours() == set()
    assert f"relay-{relay.__version__}.dist-info/licenses/LICENSE" in names
    assert "License-Expression: Apache-2.0" in metadata.splitlines()

    commands = _installed(wheel, tmp_path)
    assert _said(commands / "relay", "--version") == f"{relay.__version__}\n"
    assert "--queue" in _said(commands / "relay-worker", "--help")
    url = f"http://127.0.0.1:{free_port()}"
    with _dev(commands / "relay", url, tmp_path) as process:
        await until(lambda: process.poll() is not None or _is_ready(url), "it is ready", START_S)
        assert process.poll() is None, (tmp_path / "dev.err").read_text()
        assert len(_said(commands / "relay", "send", "s", "Hello", "--url", url)) > 100
        for page, piece in (("/", b"<title>"), ("/relay-client.js", b"export ")):
            assert piece in _got(url + page)
    assert process.returncode == 0, (tmp_path / "dev.err").read_text()


def _built(tmp_path: Path) -> Path:
    """From the sdist, so that it is whole, too. Of a copy: a build leaves files behind that the next one takes up."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=_LEFT_OUT)
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", source])
    [wheel] = (tmp_path / "dist").glob("*.whl")
    assert list((tmp_path / "dist").glob("*.tar.gz"))
    return wheel


def _ours() -> set[str]:
    """All files of both packages, as a wheel names them."""
    return {
        f"{package.__name__}/{path.relative_to(folder).as_posix()}"
        for package in (relay, relay_workers)
        for folder in [Path(str(package.__file__)).parent]
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _installed(wheel: Path, tmp_path: Path) -> Path:
    """The commands of a venv that holds the wheel, its dependencies and the embedded server."""
    alone = tmp_path / "alone"
    _run([sys.executable, "-m", "venv", "--without-pip", alone])
    pip = [sys.executable, "-m", "pip", "--python", str(alone / "bin" / "python"), "--disable-pip-version-check"]
    try:
        _run([*pip, "install", "-q", "--no-compile", "-c", CONSTRAINTS, f"{wheel}[dev]"])
    except AssertionError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the dependencies cannot be installed here: {error}"[:300])
    return alone / "bin"


@contextmanager
def _dev(command: Path, url: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "dev.err").open("wb") as err:
        process = subprocess.Popen(
            [command, "dev", "--port", url.rpartition(":")[2]], env=_environment(), cwd=tmp_path, stderr=err,
            stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(ENDS_WITHIN_S)
    finally:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    """No settings of this machine, and nothing of the repo to be imported."""
    return {name: value for name, value in clean().items() if name != "PYTHONPATH"}


def _said(*command: str | Path) -> str:
    return _run(command)


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run(
        command, env=_environment(), cwd=Path(sys.executable).anchor, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    return done.stdout


def _is_ready(url: str) -> bool:
    try:
        return bool(_got(f"{url}/readyz"))
    except OSError:
        return False


def _got(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as answer:
        body: bytes = answer.read()
    return body
