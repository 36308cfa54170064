"""A stop in every state that an answer can be in: one end at once, and no provider goes on or is asked after it."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import time

import pytest

from relay.store.scripts import Script as LuaScript
from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.leftovers import nothing_is_left
from tests.scenarios.processes import until
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import Gateway, World

TOKENS = [f"w{number} " for number in range(40)]
LEASE_S = 1.0
READ = hashlib.sha1(LuaScript("read").source.encode()).hexdigest().encode()


class NoHistory(Proxy):
    """Redis as it is, but nobody behind this wire gets to read the turns of a session while `hidden`."""

    hidden = True

    def fault_of(self, command: list[bytes], size_bytes: int) -> str:
        if self.hidden and command[:2] == [b"EVALSHA", READ] and b"answer_id" in command:
            return "fails"
        return super().fault_of(command, size_bytes)


@pytest.fixture(autouse=True)
def _short_leases(relay: World) -> None:
    relay.settings = {"RELAY_LEASE_S": str(LEASE_S)}
    relay.fake.script = Script(tokens=TOKENS, hold_before=5)


async def begun(client: Client, count: int = 5) -> str:
    """A generation of which so much is shown."""
    await client.subscribe()
    generation = await client.submit("q")
    await shows(client, generation, count)
    return generation


async def shows(client: Client, generation: str, count: int, attempt: int = 1) -> None:
    await client.until(
        lambda: (
            generation in client.view.generations
            and (client.shown(generation).attempt, client.shown(generation).count) == (attempt, count)
        ),
        f"{count} tokens of attempt {attempt}",
    )


async def stopped(gateway: Gateway, client: Client, generation: str, count: int) -> float:
    """Stop it by another connection, see its end; when that was (`time.monotonic`)."""
    async with Client(gateway.url, "s") as other:
        at_s = time.monotonic()
        assert (await other.stop(generation))["already_ended"] is False
        await client.ended(generation)
        assert (await other.stop(generation))["already_ended"] is True
    check(client, generation, "".join(TOKENS[:count]), "stopped")
    return at_s


async def settled(relay: World, gateway: Gateway, client: Client, calls: int, generation: str, count: int) -> None:
    """The queue goes on, nobody was asked for what was stopped, and that still stands as it did."""
    await nothing_is_left(relay)
    relay.fake.set_script(Script(tokens=["Fine."]), prompt="next")
    after = await client.submit("the next one", "after")
    await client.ended(after)
    check(client, after, "Fine.")
    assert [call.prompt for call in relay.fake.calls].count("q") == calls
    check(client, generation, "".join(TOKENS[:count]), "stopped")
    _, stored, _ = await gateway.http("GET", f"/v1/sessions/s/generations/{generation}")
    assert (stored["reason"], stored["text"]) == ("stopped", "".join(TOKENS[:count]))


async def test_while_the_question_is_prepared_means_that_the_provider_is_never_asked(relay: World) -> None:
    gateway = await relay.gateway()
    async with NoHistory(relay.redis_url) as proxy, Client(gateway.url, "s") as client:
        worker = await relay.worker(RELAY_REDIS_URL=proxy.url)
        await client.subscribe()
        relay.fake.set_script(Script(tokens=["Yes."]), prompt="before")
        await client.ended(await client.submit("before", "before"))  # nothing to read yet
        generation = await client.submit("q")
        await client.until(
            lambda: any(
                frame.get("generation") == generation and frame.get("state") == "preparing" for frame in client.frames
            ),
            "the worker prepares",
        )
        await stopped(gateway, client, generation, 0)
        await until(lambda: worker.logged("let_go"), "the worker lets go")
        proxy.hidden = False
        await settled(relay, gateway, client, 0, generation, 0)


@pytest.mark.parametrize("provider", ["openai", pytest.param("anthropic", marks=pytest.mark.slow)])
async def test_while_the_worker_hears_nothing_of_it_is_found_at_the_next_renewal(relay: World, provider: str) -> None:
    gateway = await relay.gateway()
    async with Proxy(relay.redis_url) as proxy, Client(gateway.url, "s") as client:
        await relay.worker(provider=provider, RELAY_REDIS_URL=proxy.url)
        generation = await begun(client)
        proxy.lose_subscriptions()
        at_s = await stopped(gateway, client, generation, 5)
        gone_s = await until(lambda: relay.fake.calls[0].client_gone_at, "the provider sees the connection closed")
        print(f"closed {gone_s - at_s:.3f} s after the stop")
        assert gone_s - at_s < LEASE_S
        await settled(relay, gateway, client, 1, generation, 5)


@pytest.mark.slow
async def test_while_the_worker_has_no_redis_is_found_when_it_is_back(relay: World) -> None:
    gateway = await relay.gateway()
    async with Proxy(relay.redis_url) as proxy, Client(gateway.url, "s") as client:
        await relay.worker(RELAY_REDIS_URL=proxy.url)
        generation = await begun(client)
        async with proxy.away():
            await stopped(gateway, client, generation, 5)
            relay.fake.release()  # what it says now nobody will see
        await until(lambda: relay.fake.calls[0].client_gone_at or relay.fake.calls[0].finished, "the stream is over")
        await settled(relay, gateway, client, 1, generation, 5)


@pytest.mark.slow
@pytest.mark.parametrize("replaced", [False, True])
async def test_while_the_worker_is_frozen_is_kept_when_it_wakes(relay: World, replaced: bool) -> None:
    gateway, worker = await relay.gateway(), await relay.worker()
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        worker.signal(signal.SIGSTOP)
        try:
            await stopped(gateway, client, generation, 5)
            if replaced:
                await relay.worker()
                await nothing_is_left(relay)
        finally:
            woke_s = time.monotonic()
            worker.signal(signal.SIGCONT)
        gone_s = await until(lambda: relay.fake.calls[0].client_gone_at, "the provider sees the connection closed")
        print(f"closed {gone_s - woke_s:.3f} s after it woke")
        assert gone_s - woke_s < LEASE_S
        let_go = await until(lambda: worker.logged("let_go"), "it lets go")
        assert let_go["why"] == "ended"
        await settled(relay, gateway, client, 1, generation, 5)


@pytest.mark.parametrize("another_waits", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_while_the_worker_is_dead_means_that_nobody_takes_over(relay: World, another_waits: bool) -> None:
    gateway, worker = await relay.gateway(), await relay.worker()
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        if another_waits:
            await relay.worker()
        await worker.kill()
        await stopped(gateway, client, generation, 5)
        if not another_waits:
            await relay.worker()
        await settled(relay, gateway, client, 1, generation, 5)
        assert client.shown(generation).attempt == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 0])
async def test_while_it_is_being_replaced_stops_the_replacement(relay: World, count: int) -> None:
    gateway, worker = await relay.gateway(), await relay.worker()
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        relay.fake.script = Script(tokens=TOKENS, hold_before=count)
        _, another = await asyncio.gather(worker.kill(), relay.worker())
        await relay.fake.wait_for(lambda fake: len(fake.calls) == 2 and fake.calls[1].held, 20)
        await shows(client, generation, count, attempt=2)
        at_s = await stopped(gateway, client, generation, count)
        gone_s = await until(lambda: relay.fake.calls[1].client_gone_at, "the provider sees the connection closed")
        assert gone_s - at_s < LEASE_S
        await until(lambda: another.logged("let_go"), "it lets go")
        await settled(relay, gateway, client, 2, generation, count)


@pytest.mark.slow
async def test_while_the_worker_is_told_to_go_lets_it_go_at_once(relay: World) -> None:
    relay.settings["RELAY_GRACE_S"] = "600"
    gateway, worker = await relay.gateway(), await relay.worker()
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        worker.signal(signal.SIGTERM)
        await until(lambda: worker.logged("finishing"), "it waits for its answer")
        await stopped(gateway, client, generation, 5)
        assert await worker.exited() == 0
        assert relay.fake.calls[0].client_gone_at is not None
        await relay.worker()
        await settled(relay, gateway, client, 1, generation, 5)
