"""Everybody comes back at once: a gateway is killed, another one stands in its place, and two thousand viewers call."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from tests.fakes.script import Body
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process
from tests.scenarios.world import Script, World

SESSIONS, VIEWERS, HELD_AT = 40, 50, 1000
CONNECTING_AT_ONCE = 500  # a client waits for its handshake; the backlog of the listening socket is not endless


def _tokens(question: str) -> list[str]:
    return [f"{question} {number} 🙂 " for number in range(HELD_AT + 100)]


def _answer(body: Body) -> Script:
    return Script(tokens=_tokens(body["messages"][-1]["content"]), hold_before=HELD_AT)


def _cpu_s(process: Process) -> float:
    """Processor time that it has had (Linux)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
async def test_two_thousand_viewers_who_come_back_at_once_read_each_log_once_and_are_all_exact(relay: World) -> None:
    relay.fake.script = _answer
    gateway = await relay.gateway()
    await relay.worker("--concurrency", str(SESSIONS), RELAY_TOKEN_TIMEOUT_S="300")
    chance = random.Random(7)
    witnesses = [Client(gateway.url, f"s{number}") for number in range(SESSIONS)]
    generations = []
    for witness in witnesses:
        await witness.connect()
        await witness.subscribe()
        generations.append(await witness.submit(witness.session))
    for witness, generation in zip(witnesses, generations, strict=True):
        await witness.until(lambda w=witness, g=generation: _count(w, g) == HELD_AT, "the beginning", 60)

    others = []
    for witness in witnesses:
        for _ in range(VIEWERS - 1):
            other = Client(gateway.url, witness.session)
            for frame in witness.frames[: chance.randrange(len(witness.frames))]:
                other.take({**frame, "id": None})
            other.frames.clear()
            others.append(other)

    await gateway.kill()
    await asyncio.gather(*(witness.disconnect() for witness in witnesses))
    gateway = await relay.gateway("--port", gateway.url.rpartition(":")[2])
    cpu_s, began, refused = _cpu_s(gateway), time.monotonic(), 0
    clients, door = [*others, *witnesses], asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def comes_back(client: Client) -> None:
        nonlocal refused
        had_a_cursor = client.view.cursor is not None
        async with door:
            await client.connect()
        while (reply := await client.subscribe())["type"] == "error":
            assert reply["code"] == "unavailable"  # where this machine is busy with something else
            refused += 1
            await asyncio.sleep(reply["retry_after_s"])
        assert (reply["type"], reply.get("recovered")) == ("subscribed", had_a_cursor), reply
        generation = generations[int(client.session[1:])]
        await client.until(lambda: _count(client, generation) == HELD_AT, "what was missed", 60)

    await asyncio.gather(*(comes_back(client) for client in clients))
    took_s, cpu_s = time.monotonic() - began, _cpu_s(gateway) - cpu_s
    pages = (await relay.metrics(gateway)).get('relay_replay_pages_total{what="read"}', 0)
    print(
        f"{took_s:.1f} s, {cpu_s / len(clients) * 1e6:.0f} µs of the gateway's per client, {refused} refused,"
        f" {pages / SESSIONS:.1f} pages read per session"
    )
    # One for each client that brought a lower cursor than all before it: in a random order about 4 of 50.
    assert pages <= 10 * SESSIONS

    relay.fake.release()
    for client in clients:
        generation = generations[int(client.session[1:])]
        await client.ended(generation, 60)
        check(client, generation, "".join(_tokens(client.session)))
    assert (await relay.metrics(gateway))["relay_followers"] == SESSIONS
    await asyncio.gather(*(client.disconnect() for client in clients))


def _count(client: Client, generation: str) -> int:
    shown = client.view.generations.get(generation)
    return shown.count if shown is not None else 0
