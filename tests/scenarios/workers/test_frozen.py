"""Two workers, one frozen for longer than its lease and woken: it closes its stream and asks nobody any more."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.fakes.provider import Call, Script
from tests.fakes.script import Body
from tests.scenarios.client import Client, check
from tests.scenarios.leftovers import nothing_is_left
from tests.scenarios.processes import Process, free_port, until
from tests.scenarios.stops.test_stop_states import NoHistory
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(30)]
OTHERS = [f"other {number} " for number in range(20)]
TEXT = "".join(OTHERS)
LEASE_S = 1.0


class Two:
    """Workers with both providers each; the fake knows by the key who asks."""

    def __init__(self, relay: World) -> None:
        self.relay = relay
        self._asking = Script(tokens=OTHERS)
        relay.fake.script = self._script
        relay.settings = {
            "RELAY_LEASE_S": str(LEASE_S), "RELAY_PROVIDER_RETRY_MS": "1", "RELAY_BREAKER_FAILURES": "1",
            "ANTHROPIC_BASE_URL": relay.fake.anthropic_base_url,
        }  # fmt: skip

    async def worker(self, name: str, **settings: Any) -> Process:
        keys: dict[str, Any] = {"OPENAI_API_KEY": f"sk-{name}", "ANTHROPIC_API_KEY": f"sk-{name}"}
        flags = ("--metrics-port", str(free_port()))
        return await self.relay.worker(*flags, provider="openai,anthropic", **keys, **settings)

    def calls(self, name: str) -> list[Call]:
        return [call for call in self.relay.fake.calls if f"sk-{name}" in repr(call.headers)]

    def _script(self, body: Body) -> Script:
        return self._asking

    def says(self, script: Script) -> None:
        """From now on."""
        self._asking = script


@pytest.fixture
def two(relay: World) -> Two:
    return Two(relay)


@asynccontextmanager
async def frozen(worker: Process) -> AsyncIterator[None]:
    worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.signal(signal.SIGCONT)


async def shows(client: Client, generation: str, attempt: int, count: int) -> None:
    await client.until(
        lambda: (
            generation in client.view.generations
            and (client.shown(generation).attempt, client.shown(generation).count) == (attempt, count)
        ),
        f"{count} tokens of attempt {attempt}",
    )


@pytest.mark.slow
@pytest.mark.parametrize("meanwhile", ["its stream is cut", "its stream is open", "its stream is reset", "it is late"])
async def test_a_worker_that_was_replaced_while_it_was_frozen_asks_nobody_again(
    relay: World, two: Two, meanwhile: str
) -> None:
    faults: dict[str, Any] = {"its stream is cut": {"cut_after": 11}, "its stream is reset": {"reset_after": 11}}
    deadline_s = 3 if meanwhile == "it is late" else 60
    two.says(Script(tokens=TOKENS, hold_before=11, **faults.get(meanwhile, {})))
    gateway, sleeper = await asyncio.gather(
        relay.gateway(), two.worker("sleeper", RELAY_TOKEN_TIMEOUT_S=str(deadline_s))
    )
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await shows(client, generation, 1, 11)
        two.says(Script(tokens=OTHERS, hold_before=7))
        async with frozen(sleeper):
            await two.worker("other")
            await shows(client, generation, 2, 7)
            if meanwhile in faults:
                relay.fake.release(0)
                await relay.fake.wait_for(lambda fake: fake.calls[0].finished)
            if meanwhile == "it is late":
                began_s = relay.fake.calls[0].started_at
                await until(lambda: time.monotonic() - began_s > deadline_s + 0.2, "its deadline is over")
            woke_s = time.monotonic()
        let_go = await until(lambda: sleeper.logged("let_go"), "it lets go")
        assert let_go["why"] == "stale"
        if meanwhile not in faults:
            gone_s = await until(lambda: relay.fake.calls[0].client_gone_at, "it closes its stream")
            print(f"closed {gone_s - woke_s:.3f} s after it woke")
            assert gone_s - woke_s < LEASE_S
        relay.fake.release()
        await client.ended(generation)
        assert check(client, generation, TEXT, voided=["".join(TOKENS)])["attempt"] == 2
        await nothing_is_left(relay)
        assert (len(two.calls("sleeper")), len(two.calls("other"))) == (1, 1)
        await _is_blamed_on_nobody(relay, sleeper)


@pytest.mark.slow
async def test_a_worker_that_was_frozen_before_it_had_asked_asks_nobody(relay: World, two: Two) -> None:
    async with NoHistory(relay.redis_url) as proxy:
        gateway, sleeper = await asyncio.gather(relay.gateway(), two.worker("sleeper", RELAY_REDIS_URL=proxy.url))
        async with Client(gateway.url, "s") as client:
            await client.subscribe()
            generation = await client.submit("q")
            await client.ended(generation)  # the next one has a history, which this worker is kept from
            before = len(two.calls("sleeper"))
            generation = await client.submit("q", "r2")
            await client.until(lambda: _prepares(client, generation), "it prepares")
            two.says(Script(tokens=OTHERS, hold_before=7))
            async with frozen(sleeper):
                proxy.hidden = False
                await two.worker("other")
                await shows(client, generation, 1, 7)
            let_go = await until(lambda: sleeper.logged("let_go"), "it lets go")
            assert let_go["why"] == "stale"
            relay.fake.release()
            await client.ended(generation)
            assert check(client, generation, TEXT)["attempt"] == 1, "nothing was shown before"
            await nothing_is_left(relay)
            assert (len(two.calls("sleeper")), len(two.calls("other"))) == (before, 1)
            await _is_blamed_on_nobody(relay, sleeper)


@pytest.mark.slow
async def test_a_worker_that_nobody_has_replaced_goes_on_when_it_wakes(relay: World, two: Two) -> None:
    two.says(Script(tokens=OTHERS, hold_before=11))
    gateway, sleeper = await asyncio.gather(relay.gateway(), two.worker("sleeper"))
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await shows(client, generation, 1, 11)
        async with frozen(sleeper):
            froze_s = time.monotonic()
            await until(lambda: time.monotonic() - froze_s > 1.5 * LEASE_S, "its lease is over")
            relay.fake.release()
            await relay.fake.wait_for(lambda fake: fake.calls[0].finished)
        await client.ended(generation)
        check(client, generation, TEXT)
        await nothing_is_left(relay)
        assert len(relay.fake.calls) == 1


def _prepares(client: Client, generation: str) -> bool:
    return any((one.get("generation"), one.get("state")) == (generation, "preparing") for one in client.frames)


async def _is_blamed_on_nobody(relay: World, worker: Process) -> None:
    """That it was frozen says nothing of its providers."""
    metrics = await relay.metrics_once(worker, {"relay_generations_running": 0})
    assert not [name for name, value in metrics.items() if name.startswith("relay_breaker_opened_total") and value]
