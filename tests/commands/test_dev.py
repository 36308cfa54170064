"""What `relay dev` tells the person who started it."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from relay.commands import dev
from relay.settings import load

RULE = "-" * 72


async def _silent(capsys: pytest.CaptureFixture[str]) -> bool:
    await asyncio.sleep(0.05)  # it looks every 10 ms; a slow machine only makes this easier
    return capsys.readouterr().out == ""


async def test_the_banner_comes_last_and_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where to click stands alone between blank lines; nothing is said before both parts serve."""
    monkeypatch.setattr("sys.argv", [".venv/bin/relay"])
    gateway: Any = SimpleNamespace(started=False)
    asked: Any = SimpleNamespace(names=["anthropic", "demo"])
    serving = asyncio.Event()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        announcing = asyncio.create_task(dev._announce(gateway, serving, sock, load(host="0.0.0.0"), asked))
        assert await _silent(capsys)
        gateway.started = True
        assert await _silent(capsys)
        serving.set()
        await asyncio.wait_for(announcing, 20)
    said = capsys.readouterr()
    assert (
        said.out
        == f"""
{RULE}

  The relay is running: {url}/

  Answers come from: anthropic, demo. From another terminal:
  .venv/bin/relay send demo 'Hello' --url {url}

  Another port: --port. The end: Ctrl-C.

{RULE}

"""
    )
    assert said.err == ""
