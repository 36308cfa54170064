"""The browser client finds the gateway under whatever path a proxy serves it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.static.javascript import CLIENT

_DIAL = """
import { connect } from "./relay-client.mjs";
class Deaf { constructor(url) { Deaf.dialled.push(url); } send() {} close() {} addEventListener() {} }
Deaf.dialled = [];
for (const url of JSON.parse(process.argv[2])) connect(url ?? undefined, { WebSocket: Deaf }).close();
console.log(JSON.stringify(Deaf.dialled));
"""


def test_addresses_are_under_the_path_that_they_were_given(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on PATH")
    folder = tmp_path / "relay"
    folder.mkdir()
    (folder / "relay-client.mjs").write_text(CLIENT)
    (folder / "dial.mjs").write_text(_DIAL)
    expected = {
        None: f"{folder.resolve().as_uri()}/v1/ws",  # the module stands beside /v1
        "https://chat.example.com": "wss://chat.example.com/v1/ws",
        "http://chat.example.com/relay": "ws://chat.example.com/relay/v1/ws",
        "https://chat.example.com/a/relay/": "wss://chat.example.com/a/relay/v1/ws",
        "wss://chat.example.com/relay/v1/ws?ticket=t": "wss://chat.example.com/relay/v1/ws?ticket=t",
    }
    command = [node, "dial.mjs", json.dumps(list(expected))]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == list(expected.values())
