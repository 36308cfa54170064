"""Model servers that others wrote, started on loopback and ended by pid. None of them sends anything elsewhere.

Each has only the environment that is given here. Whatever it asks an HTTP proxy for is counted, and fails the test.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from relay.embedded import die_with_parent
from tests.scenarios.processes import START_S
from tests.static.javascript import node_path, npm_packages

HERE = Path(__file__).parent
VENV = HERE.parents[2] / ".venv-foreign"

STARTS_WITHIN_S = 3 * START_S  # LiteLLM reads some thousand modules

LITELLM_KEY = "sk-litellm-of-these-tests-0123456789"
LLAMA_KEY = "sk-llama"


@contextmanager
def aimock(directory: Path, fixtures: Sequence[dict[str, Any]]) -> Iterator[str]:
    """aimock, which answers a question as the first fixture says that has a part of it. Yields its URL."""
    path = directory / "fixtures.json"
    path.write_text(json.dumps({"fixtures": fixtures}))
    script = npm_packages() / "@copilotkit" / "aimock" / "dist" / "cli.js"
    command = [node_path(), str(script), "--host", "127.0.0.1", "--port", "0", "--fixtures", str(path), "--strict"]
    with _running(command, directory, "aimock", r"listening on (http://\S+)") as url:
        yield url


@contextmanager
def litellm(directory: Path, models: Sequence[dict[str, Any]]) -> Iterator[str]:
    """LiteLLM's proxy with these models. Yields its URL."""
    config = directory / "litellm.json"  # JSON without escaped surrogates is YAML
    settings = {"model_list": models, "router_settings": {"num_retries": 0}, "litellm_settings": {"telemetry": False}}
    config.write_text(json.dumps(settings, ensure_ascii=False))
    command = [str(_python().with_name("litellm")), "--config", str(config), "--host", "127.0.0.1", "--port", "0"]
    environment = {
        "LITELLM_MASTER_KEY": LITELLM_KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise it is fetched from GitHub
        "LITELLM_TELEMETRY": "False",
        "DISABLE_ADMIN_UI": "True",
        "HF_HUB_OFFLINE": "1",
    }
    with _running(command, directory, "litellm", r"running on (http://\S+)", environment) as url:
        yield url


@contextmanager
def llama_cpp(directory: Path, template: Literal["plain", "thinks", "strict"]) -> Iterator[str]:
    """llama.cpp's server with a tiny random model. Yields its URL."""
    command = [str(_python()), str(HERE / "llama_server.py"), str(directory), template]
    with _running(command, directory, "llama", r"serving at (http://\S+)") as url:
        yield url


def _python() -> Path:
    """That of .venv-foreign; skips the test where that was not installed, except in CI."""
    if not (VENV / ".installed").exists():
        missing = f"{VENV.name} is not installed; `tasks.py test --all` does it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return VENV / "bin" / "python"


@contextmanager
def _running(
    command: list[str], directory: Path, name: str, says: str, environment: dict[str, str] | None = None
) -> Iterator[str]:
    """A server, from the line of its output that names its URL until the block is left."""
    log = directory / f"{name}.log"
    with _nobody_asks_a_proxy() as proxied, log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=directory, env={**_bare(directory), **proxied, **(environment or {})},
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent,
        )  # fmt: skip
        try:
            yield _url(process, log, says)
        finally:
            _end(process)


def _bare(directory: Path) -> dict[str, str]:
    """No key of this machine, and no file of its user."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "HOME": str(directory), "XDG_CACHE_HOME": str(directory), "TMPDIR": str(directory)}


@contextmanager
def _nobody_asks_a_proxy() -> Iterator[dict[str, str]]:
    """An environment that sends what leaves loopback to a proxy; a connection to that is an error."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        names = [f"{scheme}_proxy" for scheme in ("http", "https", "all")]
        environment = {"NODE_USE_ENV_PROXY": "1", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        yield environment | {spelt: url for name in names for spelt in (name, name.upper())}
        listening.settimeout(0)
        try:
            asking, _ = listening.accept()
        except BlockingIOError:
            return
        with asking:
            asking.settimeout(1)
            pytest.fail(f"sent off this machine: {asking.recv(200)!r}")


def _url(process: subprocess.Popen[bytes], log: Path, says: str) -> str:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while (found := re.search(says, log.read_text(errors="replace"))) is None:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.02)
    return found[1]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
