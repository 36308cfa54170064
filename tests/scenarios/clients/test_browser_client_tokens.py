"""relay-client.js in a real Node and a real gateway: tokens that run out in mid-answer, and one that is revoked."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.fakes.script import Script
from tests.scenarios.clients.test_browser_client_in_node import Program
from tests.scenarios.credentials import SECRET, token
from tests.scenarios.processes import START_S, until
from tests.scenarios.world import World
from tests.static.javascript import CLIENT, node_path, npm_packages

pytestmark = pytest.mark.slow

TOKENS = [f"wörd{number} 😀\n" for number in range(240)]
TEXT = "".join(TOKENS)
SCRIPT = """
import { WebSocket } from "ws";
import { connect } from "./relay-client.mjs";
const [address, ...tokens] = process.argv.slice(2);
const say = (...words) => console.log(JSON.stringify(words));
let asked = 0;
const relay = connect(address, { WebSocket, token: async () => tokens[Math.min(asked++, tokens.length - 1)] });
relay.addEventListener("error", ({ detail }) => say("error", detail.error.message));
relay.addEventListener("state", ({ detail }) => say("state", detail.state, asked));
const session = relay.session("s");
session.addEventListener("end", ({ detail }) => say("end", session.generations.get(detail.generation).text, asked));
say("asked", await session.submit({ content: "?" }));
"""


def lasting(seconds: int) -> str:
    """As a gateway counts, with the 30 s by which clocks may differ."""
    now = int(time.time())
    return token(iat=now - 60, exp=now - 30 + seconds)


async def test_short_tokens_cost_no_character_and_a_revoked_one_is_the_end(relay: World, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(npm_packages())
    (tmp_path / "relay-client.mjs").write_text(CLIENT)
    (tmp_path / "script.mjs").write_text(SCRIPT)
    relay.settings["RELAY_AUTH_SECRET"] = SECRET
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=40)
    gateway = await relay.gateway()
    await relay.worker()
    short = [lasting(4 + 2 * number) for number in range(4)]
    node = Program(node_path(), gateway.url, *short, lasting(3600))
    running = asyncio.create_task(node.run(tmp_path))
    try:
        await until(lambda: any(line[0] == "end" for line in node.said), "the end", START_S)
        revoke = relay.spawn("relay", "revoke", "alice")
        assert await revoke.exited() == 0
        assert await asyncio.wait_for(running, START_S) == (0, "")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    (end,) = [line for line in node.said if line[0] == "end"]
    assert end[1] == TEXT
    assert 2 <= end[2] <= 12, "it was asked for each that ran out, and in no loop"
    assert node.said[-1][0] == "error"
    assert [line[1] for line in node.said if line[0] == "state"][-1] == "closed"
