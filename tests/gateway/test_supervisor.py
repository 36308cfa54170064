"""The parent of several gateway processes, where starting one fails."""

from __future__ import annotations

import asyncio
import sys
import urllib.request
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.gateway.server import listen_shared
from relay.gateway.supervisor import Supervisor
from relay.settings import load
from tests.scenarios.processes import until


def _healthy(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/healthz", timeout=20) as answer:
            return bool(answer.status == 200)
    except OSError:  # it does not listen yet
        return False


async def test_a_process_that_cannot_be_started_is_tried_again_and_takes_nobody_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, launcher = sys.executable, tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(launcher))
    (sock,) = listen_shared("127.0.0.1", 0, 1)
    port = sock.getsockname()[1]
    processes = Supervisor(load(redis_url="redis://127.0.0.1:1/0"), [sock], str(tmp_path))
    with capture_logs() as logged:
        running = asyncio.create_task(processes.run())
        await until(lambda: sum(line["event"] == "process_died" for line in logged) > 1, "two failed starts")
        ready = tmp_path / "ready"
        ready.write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
        ready.chmod(0o700)
        ready.rename(launcher)
        await until(lambda: any(line["event"] == "process_started" for line in logged), "a start that works")
    while not await asyncio.to_thread(_healthy, port):
        assert not running.done()
    processes._on_signal()
    await asyncio.wait_for(running, 20)
    assert {line["detail"] for line in logged if line["event"] == "process_died"} == {
        f"[Errno 2] No such file or directory: '{launcher}'"
    }
