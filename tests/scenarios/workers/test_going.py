"""A worker is told to go while Redis, at a distance, hands it what it has just asked for: nobody waits for a lease."""

from __future__ import annotations

import asyncio
import hashlib
import signal

import pytest

from relay.store.scripts import Script as LuaScript
from relay.store.scripts import queue_script, session_script
from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import until
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import World

QUESTIONS = 8  # as many as a worker is handed at once
LONG = {"RELAY_LEASE_S": "600", "RELAY_QUEUE_TIMEOUT_S": "600", "RELAY_GRACE_S": "0"}


def sha(script: LuaScript) -> bytes:
    return hashlib.sha1(script.source.encode()).hexdigest().encode()


TAKE, CLAIM = sha(queue_script("take")), sha(session_script("claim"))


@pytest.mark.slow
async def test_what_a_take_brings_to_a_worker_that_goes_is_answered_by_another(relay: World, proxy: Proxy) -> None:
    relay.settings = dict(LONG)
    gateway = await relay.gateway()
    asked = [await _asked(relay, gateway.url, f"s{number}") for number in range(QUESTIONS)]
    async with proxy.slow(0.2):
        going = await relay.worker(wait=False, RELAY_REDIS_URL=proxy.url)
        await until(lambda: proxy.seen[TAKE], "its take is on its way")
        going.signal(signal.SIGTERM)
        assert await going.exited() == 0
    assert len([line for line in going.lines() if line["event"] == "handed_over"]) == QUESTIONS
    assert not relay.fake.calls
    await relay.worker()
    await asyncio.gather(*(_answered(gateway.url, f"s{number}", name) for number, name in enumerate(asked)))
    assert sorted(call.prompt for call in relay.fake.calls) == [f"s{number}" for number in range(QUESTIONS)]


@pytest.mark.slow
async def test_a_claim_of_a_worker_that_goes_is_released_and_no_lost_worker(relay: World, proxy: Proxy) -> None:
    relay.settings = dict(LONG)
    gateway = await relay.gateway()
    generation = await _asked(relay, gateway.url, "s")
    async with proxy.slow(0.2):
        going = await relay.worker(wait=False, RELAY_REDIS_URL=proxy.url)
        await until(lambda: proxy.seen[CLAIM], "its claim is on its way")
        going.signal(signal.SIGTERM)
        assert await going.exited() == 0
    assert not relay.fake.calls
    await relay.worker()
    await _answered(gateway.url, "s", generation)
    assert len(relay.fake.calls) == 1
    counts = await relay.redis.hmget(f"{relay.prefix}:s:{{s}}:g:{generation}", "claims", "handed")
    assert counts == [b"2", b"1"]  # the difference is that of the worker which has ended it


async def _asked(relay: World, url: str, session: str) -> str:
    relay.fake.script = Script(tokens=["Hello", " there"])
    async with Client(url, session) as client:
        return await client.submit(session)


async def _answered(url: str, session: str, generation: str) -> None:
    async with Client(url, session) as client:
        await client.subscribe()
        await client.ended(generation)
        assert check(client, generation, "Hello there").get("attempt", 1) == 1
