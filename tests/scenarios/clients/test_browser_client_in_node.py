"""relay-client.js in real Nodes, old and new: what is refused, away and back again ends no process and leaves none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.scripted_gateway import Frame, ScriptedGateway
from tests.scenarios.clients.test_browser_client_rules import MESSAGE, TOKENS, end, live, obliging
from tests.scenarios.processes import START_S, free_port, until
from tests.static.javascript import CLIENT, node_path, npm_packages

pytestmark = pytest.mark.slow

SCRIPT = """
import { connect } from "./relay-client.mjs";
const [refusing, address, handed] = process.argv.slice(2);
const options = handed ? { WebSocket: (await import("ws")).WebSocket } : {};
const say = (...words) => console.log(JSON.stringify(words));
const refused = connect(refusing, options);
refused.addEventListener("trouble", ({ detail }) => { say("refused", detail.trouble); refused.close(); });
const relay = connect(address, options);
relay.addEventListener("trouble", ({ detail }) => say("trouble", detail.trouble));
relay.addEventListener("state", ({ detail }) => say("state", detail.state));
relay.addEventListener("error", ({ detail }) => say("error", detail.error.message));
const session = relay.session("s");
session.addEventListener("end", ({ detail }) => say("end", session.generations.get(detail.generation).text));
say("asked", await session.submit({ content: "?" }));
"""


class Program:
    """One Node with the client in it; `said`: what it has printed so far."""

    def __init__(self, node: str, *arguments: str) -> None:
        self._command = [node, "script.mjs", *arguments]
        self.said: list[list[Any]] = []

    async def run(self, directory: Path) -> tuple[int, str]:
        """Its exit code, and what it complained of."""
        process = await asyncio.create_subprocess_exec(
            *self._command, cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            async for line in process.stdout:
                self.said.append(json.loads(line))
            complaint = (await process.stderr.read()).decode()
            return await process.wait(), complaint
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def answers(command: Frame) -> list[Frame]:
    events = [live(1, MESSAGE), live(2, TOKENS), live(3, end())] if command["type"] == "submit" else []
    return [*obliging(command), *events]


async def test_each_node_waits_out_a_relay_that_is_refused_or_away_and_ends_by_itself(tmp_path: Path) -> None:
    packages = npm_packages()
    (tmp_path / "node_modules").symlink_to(packages)
    (tmp_path / "relay-client.mjs").write_text(CLIENT)
    (tmp_path / "script.mjs").write_text(SCRIPT)
    pinned = str(next(packages.glob("node-*/bin/node")))  # 22: a WebSocket of its own, whose failures have no `close`
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    async with ScriptedGateway(obliging, refuses=403) as refusing:
        programs = [
            Program(node, refusing.url, address, *handed)
            for node, handed in ((node_path(), ["ws"]), (pinned, ["ws"]), (pinned, []))
        ]

        async def all_said(*line: Any) -> None:
            await until(lambda: all([*line] in one.said for one in programs), str(line), START_S)

        running = [asyncio.create_task(one.run(tmp_path)) for one in programs]
        try:
            await all_said("trouble", f"Nothing answers at {address}. The address may be wrong, or the relay down.")
            await all_said(
                "refused",
                f"The relay at {refusing.url} answers, but no WebSocket to it opens."
                " A proxy before it may not pass WebSockets on, or not the Host that was asked for.",
            )
            async with ScriptedGateway(answers, port=port):
                await all_said("end", "é")
                await all_said("asked", {"generation": "g1", "duplicate": False})
            await all_said("state", "reconnecting")
            async with ScriptedGateway(answers, port=port) as back:
                await until(lambda: len(back.named("subscribe")) == len(programs), "all are back", START_S)
                assert {command["cursor"]["seq"] for command in back.named("subscribe")} == {3}
                for connection in list(back.connections):
                    await connection.close(4503, "Not you.")
                assert await asyncio.gather(*running) == [(0, "")] * len(programs)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    for one in programs:
        said = [line for line in one.said if line[0] != "refused" and line[0] != "trouble"]
        assert [line for line in said if line[0] == "state"] == [
            ["state", state] for state in ("open", "reconnecting", "open", "closed")
        ]
        assert said[-1] == ["error", "Not you."]
