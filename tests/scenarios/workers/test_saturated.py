"""A worker that is busy itself, or was stopped, takes nobody's silence for a failure, and asks nobody twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.fakes.script import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import START_S, Process, until
from tests.scenarios.world import World

LEASE_S = 1.0
BLOCKED_S = 3 * LEASE_S
ANSWERS = 3
OWN = f"""
import os, time

async def {{name}}(job):
    with open({{calls!r}}, "a") as calls:
        calls.write(job.generation + "\\n")
    yield "before "
    began = time.monotonic()
    while time.monotonic() - began < {BLOCKED_S}:
        {{work}}
    yield "after"
"""


@pytest.mark.parametrize(
    "work",
    [
        pytest.param("sum(range(1000))", id="computes", marks=pytest.mark.slow),
        pytest.param("time.sleep(0.1)", id="sleeps"),
    ],
)
async def test_a_generator_that_blocks_the_loop_for_longer_than_the_lease_is_called_once(
    relay: World, tmp_path: Path, work: str
) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "own_blocking.py").write_text(OWN.format(name="generate", calls=str(calls), work=work))
    relay.settings = {
        "RELAY_LEASE_S": str(LEASE_S),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }
    gateway = await relay.gateway()
    workers = [relay.spawn("relay-worker", "--app", "own_blocking:generate") for _ in range(2)]
    await until(lambda: all(worker.logged("serving") for worker in workers), "they serve", START_S)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        asked = [await client.submit("q", f"r{number}") for number in range(ANSWERS)]
        for generation in asked:
            await client.ended(generation)
            assert check(client, generation, "before after")["attempt"] == 1
    assert sorted(calls.read_text().split()) == sorted(asked)
    assert client.notices == []
    _nothing_was_lost(workers)


async def test_a_worker_that_was_stopped_for_longer_than_any_deadline_goes_on_where_it_was(relay: World) -> None:
    relay.settings = {"RELAY_LEASE_S": str(LEASE_S), "RELAY_TOKEN_TIMEOUT_S": "1", "RELAY_FIRST_TOKEN_TIMEOUT_S": "1"}
    gateway, worker = await asyncio.gather(relay.gateway(), relay.worker())
    relay.fake.script = Script(tokens=[f"w{number} " for number in range(40)], tokens_per_second=20)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: "tokens" in client.kinds, "its first token")
        worker.signal(signal.SIGSTOP)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > BLOCKED_S, "every deadline is over")
        worker.signal(signal.SIGCONT)
        await client.ended(generation)
        assert check(client, generation, "".join(f"w{number} " for number in range(40)))["attempt"] == 1
        assert client.notices == []
    assert len(relay.fake.calls) == 1
    _nothing_was_lost([worker])


def _nothing_was_lost(workers: list[Process]) -> None:
    for worker in workers:
        for event in ("let_go", "failover", "flush_retry", "spilled", "renewal_failed"):
            assert worker.logged(event) is None
