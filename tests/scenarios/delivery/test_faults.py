"""What networks do between each pair of parts, at random points of an answer: viewers see no difference but time.

Each scenario has four viewers that are judged frame by frame, and a provider that may be asked only once. A failure
shows its seed; RELAY_TEST_SEED repeats it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from relay.client import Applied, Rebuilt, connect
from tests.fakes.provider import Script
from tests.scenarios.processes import TIMEOUT_S, until
from tests.scenarios.proxy import Proxy
from tests.scenarios.viewers import Viewers, watching
from tests.scenarios.wire import Direction, Wire, some_bytes
from tests.scenarios.world import World

TOKENS = [f"w{number} 🙂 " for number in range(250)]
TEXT = "".join(TOKENS)

Fault = Callable[[Wire, random.Random, World], Awaitable[None]]


@pytest.fixture(autouse=True)
def _paced(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100)


# The faults


async def cut(wire: Wire, chance: random.Random, relay: World) -> None:
    await _now_and_then(chance, lambda: wire.cut())


async def reset(wire: Wire, chance: random.Random, relay: World) -> None:
    await _now_and_then(chance, lambda: wire.cut(reset=True))


async def cut_at_a_byte_up(wire: Wire, chance: random.Random, relay: World) -> None:
    await _at_bytes(wire, chance, "up")


async def cut_at_a_byte_down(wire: Wire, chance: random.Random, relay: World) -> None:
    await _at_bytes(wire, chance, "down")


async def black_hole(wire: Wire, chance: random.Random, relay: World) -> None:
    async with wire.black_hole():
        await asyncio.sleep(3)


async def stalled_up(wire: Wire, chance: random.Random, relay: World) -> None:
    async with wire.stalled("up"):
        await asyncio.sleep(chance.uniform(0.2, 4))


async def stalled_down(wire: Wire, chance: random.Random, relay: World) -> None:
    async with wire.stalled("down"):
        await asyncio.sleep(chance.uniform(0.2, 4))


async def frozen(wire: Wire, chance: random.Random, relay: World) -> None:
    async with wire.frozen():
        await asyncio.sleep(5)


async def slow(wire: Wire, chance: random.Random, relay: World) -> None:
    async with wire.slow(0.2):
        await relay.fake.wait_for(lambda fake: fake.calls[0].finished, TIMEOUT_S)


async def away(wire: Wire, chance: random.Random, relay: World) -> None:
    async with wire.away():
        await asyncio.sleep(chance.uniform(0.2, 3))


async def longer_than_leases(wire: Wire, chance: random.Random, relay: World) -> None:
    async with wire.away():
        await asyncio.sleep(float(relay.settings["RELAY_LEASE_S"]) * 1.5)


async def _now_and_then(chance: random.Random, fault: Callable[[], object]) -> None:
    for _ in range(chance.randrange(1, 5)):
        fault()
        await asyncio.sleep(chance.uniform(0, 0.5))


async def _at_bytes(wire: Wire, chance: random.Random, direction: Direction) -> None:
    for _ in range(3):
        async with wire.cutting(direction, some_bytes(chance, 3000), reset=chance.random() < 0.5) as planned:
            await asyncio.wait([asyncio.ensure_future(planned.struck.wait())], timeout=1)


def faults(*default: Fault, slow_ones: tuple[Fault, ...] = ()) -> pytest.MarkDecorator:
    """A scenario for each; those that are long, or much like another one, only with everything."""
    chosen = [pytest.param(fault, id=fault.__name__) for fault in default]
    rest = [pytest.param(fault, id=fault.__name__, marks=pytest.mark.slow) for fault in slow_ones]
    return pytest.mark.parametrize("fault", [*chosen, *rest])


async def _in_mid_answer(viewers: Viewers, generation: str, chance: random.Random) -> None:
    await viewers.steady.shows(generation, chance.randrange(1, 150))


# Gateway and Redis


@faults(
    cut,
    slow_ones=(reset, cut_at_a_byte_up, cut_at_a_byte_down, black_hole, stalled_up, stalled_down, frozen, slow, away),
)  # fmt: skip
async def test_between_gateway_and_redis(relay: World, proxy: Proxy, chance: random.Random, fault: Fault) -> None:
    gateway = await relay.gateway(RELAY_REDIS_URL=proxy.url)
    await relay.worker()
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await _in_mid_answer(viewers, generation, chance)
        await fault(proxy, chance, relay)
        end = await viewers.saw(generation, TEXT)
        assert viewers.steady.connections == 1, "Redis is no reason to hang up on anybody"
    assert end["attempt"] == 1
    assert len(relay.fake.calls) == 1


# Worker and Redis


@faults(
    reset,
    slow_ones=(cut, cut_at_a_byte_up, cut_at_a_byte_down, black_hole, stalled_up, stalled_down, frozen, slow, away),
)  # fmt: skip
async def test_between_worker_and_redis(relay: World, proxy: Proxy, chance: random.Random, fault: Fault) -> None:
    gateway = await relay.gateway()
    await relay.worker(RELAY_REDIS_URL=proxy.url)
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await _in_mid_answer(viewers, generation, chance)
        await fault(proxy, chance, relay)
        end = await viewers.saw(generation, TEXT)
        assert viewers.steady.connections == 1
    assert end["attempt"] == 1
    assert len(relay.fake.calls) == 1


@faults(slow_ones=(longer_than_leases, frozen, black_hole))
async def test_a_worker_that_is_without_redis_for_longer_than_its_lease_goes_on_where_it_was(
    relay: World, proxy: Proxy, chance: random.Random, fault: Fault
) -> None:
    """It is the only one; the gateway, which has Redis, sees the lease run out and queues the job again."""
    relay.settings |= {"RELAY_LEASE_S": "0.5"}
    gateway = await relay.gateway()
    await relay.worker(RELAY_REDIS_URL=proxy.url)
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await _in_mid_answer(viewers, generation, chance)
        await fault(proxy, chance, relay)
        await viewers.saw(generation, TEXT)
        await _no_other_attempt(relay, viewers, generation)


@faults(slow_ones=(longer_than_leases, frozen))
async def test_while_redis_is_away_for_everybody_nobody_takes_an_answer_over(
    relay: World, proxy: Proxy, chance: random.Random, fault: Fault
) -> None:
    relay.settings |= {"RELAY_LEASE_S": "3", "RELAY_REDIS_URL": proxy.url}
    gateway = await relay.gateway()
    for _ in range(2):
        await relay.worker()
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await _in_mid_answer(viewers, generation, chance)
        await fault(proxy, chance, relay)
        await viewers.saw(generation, TEXT)
        await _no_other_attempt(relay, viewers, generation)
        assert viewers.steady.connections == 1


async def _no_other_attempt(relay: World, viewers: Viewers, generation: str) -> None:
    """Neither on the screen nor at the provider, until the job itself is gone."""
    queue = f"{relay.prefix}:q:{{default}}"

    async def is_done() -> bool:
        return not (await relay.redis.zcard(f"{queue}:open") or await relay.redis.hlen(f"{queue}:entries"))

    await until(is_done, "the job is gone")
    assert viewers.steady.client.shown(generation).attempt == 1
    assert len(relay.fake.calls) == 1


# Client and gateway


@faults(
    cut_at_a_byte_down,
    slow_ones=(cut, reset, cut_at_a_byte_up, black_hole, stalled_up, stalled_down, frozen, slow, away),
)  # fmt: skip
async def test_between_client_and_gateway(relay: World, chance: random.Random, fault: Fault) -> None:
    gateway = await relay.gateway(RELAY_HEARTBEAT_S="1")
    await relay.worker()
    async with Wire(gateway.url) as wire, watching(relay, wire.url, chance, silence_s=3) as viewers:
        program = asyncio.create_task(_follow(wire.url, viewers.session))
        generation = await viewers.ask(gateway)
        await _in_mid_answer(viewers, generation, chance)
        await fault(wire, chance, relay)
        end = await viewers.saw(generation, TEXT)
        assert await asyncio.wait_for(program, TIMEOUT_S) == TEXT
    assert end["attempt"] == 1
    assert len(relay.fake.calls) == 1
    assert relay.fake.calls[0].client_gone_at is None, "no viewer's connection has to do with the provider's"


async def _follow(url: str, session: str) -> str:
    """The text of the session's first answer as the Python client applied it, event by event."""
    texts: list[str] = []
    async with connect(url) as client, client.follow(session) as following:
        async for change in following:
            match change:
                case Rebuilt():
                    texts.clear()
                case Applied(events=events):
                    texts += [event["text"] for event in events if event["type"] == "tokens"]
                    if any(event["type"] == "end" for event in events):
                        break
    return "".join(texts)
