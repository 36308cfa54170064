"""The clock of a real Redis steps forward, past every deadline: what lives and what waits goes on."""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process, until
from tests.scenarios.redis_servers import missing
from tests.scenarios.server import Server
from tests.scenarios.world import World, world

AHEAD_S = 90
SETTINGS = {"RELAY_QUEUE_TIMEOUT_S": "60", "RELAY_LEASE_S": "5"}


class Clock:
    """Of a Redis, which is started with `environment`."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            missing("Linux and a C compiler (cc on PATH) are needed, to set Redis' clock")
        self._ahead, library = directory / "ahead", directory / "clock.so"
        self._ahead.write_bytes(struct.pack("l", 0))
        source = Path(__file__).with_name("clock.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_AHEAD_S": str(self._ahead)}

    def step(self) -> None:
        with self._ahead.open("r+b") as file:
            file.write(struct.pack("l", AHEAD_S))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
async def stepping(clock: Clock, tmp_path: Path) -> AsyncIterator[World]:
    """A world on a Redis whose clock can be set."""
    async with Server(tmp_path, clock.environment) as server:
        directory = tmp_path / "own"
        directory.mkdir()
        async with world(server.url, directory) as made:
            made.settings = dict(SETTINGS)
            yield made


async def stepped(relay: World, clock: Clock, *reapers: Process) -> None:
    """Once each of these processes has looked at what there is."""
    for reaper in reapers:
        await relay.metrics_once(reaper, {'relay_backlog_jobs{queues="all"}': 1})
    began_s, _ = await relay.redis.time()
    clock.step()
    await until(lambda: _is_ahead_of(relay, began_s), "Redis' clock is ahead")


async def _is_ahead_of(relay: World, began_s: int) -> bool:
    now_s, _ = await relay.redis.time()
    return bool(now_s - began_s >= AHEAD_S)


async def test_an_answer_that_waits_for_its_first_token_is_still_its_workers(stepping: World, clock: Clock) -> None:
    """A machine that slept: its workers were asleep as well, and come to renew their leases a moment later."""
    stepping.settings["RELAY_LEASE_S"] = "10"
    stepping.fake.script = Script(tokens=["Hello", " there"], hold_before=0)
    gateway = await stepping.gateway()
    worker = await stepping.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await stepping.fake.wait_for(lambda fake: fake.calls)
        worker.signal(signal.SIGSTOP)
        await stepped(stepping, clock, gateway)
        await until(lambda: client.ends[generation] or gateway.logged("clock_stepped"), "the reaper has looked")
        worker.signal(signal.SIGCONT)
        stepping.fake.release()
        await client.ended(generation)
        assert check(client, generation, "Hello there").get("attempt", 1) == 1
    assert len(stepping.fake.calls) == 1


@pytest.mark.slow
async def test_a_question_that_waits_for_a_worker_still_gets_one(stepping: World, clock: Clock) -> None:
    stepping.fake.script = Script(tokens=["Hello", " there"])
    gateway = await stepping.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await stepped(stepping, clock, gateway)

        async def judged() -> bool:
            """It looks twice within a lease: five times are more than its patience after a step."""
            looks = (await stepping.metrics(gateway)).get('relay_reaped_total{what="waiting"}', 0)
            return bool(looks >= 5 or client.ends[generation])

        await until(judged, "the reaper has looked", 60)
        await stepping.worker()
        await client.ended(generation)
        check(client, generation, "Hello there")
    assert len(stepping.fake.calls) == 1
