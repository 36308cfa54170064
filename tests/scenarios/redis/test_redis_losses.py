"""Redis loses its data, all or a part, in mid-answer: the whole text comes again, and the model is not asked again."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.fakes.provider import Script
from tests.scenarios.server import Server
from tests.scenarios.viewers import Viewers, watching
from tests.scenarios.world import Gateway, World

TOKENS = [f"w{number} 🙂 " for number in range(250)]
TEXT = "".join(TOKENS)


@pytest.fixture
async def gateway(own: World) -> Gateway:
    own.fake.script = Script(tokens=TOKENS, tokens_per_second=100)
    gateway = await own.gateway()
    for _ in range(2):
        await own.worker()
    return gateway


async def test_it_comes_back_without_any(own: World, server: Server, gateway: Gateway, chance: random.Random) -> None:
    async with watching(own, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await viewers.steady.shows(generation, chance.randrange(1, 150))
        server.kill()
        server.lose()
        await asyncio.sleep(chance.uniform(0, 3))
        await server.start()
        await _is_whole_again(own, viewers, generation)


@pytest.mark.slow
async def test_it_comes_back_with_what_it_had_some_tokens_before(
    own: World, server: Server, gateway: Gateway, chance: random.Random
) -> None:
    own.fake.script = Script(tokens=TOKENS, tokens_per_second=100, hold_before=100)
    async with watching(own, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await viewers.steady.shows(generation, chance.randrange(1, 100))
        old = server.copy()
        own.fake.release()
        await viewers.steady.shows(generation, 100 + chance.randrange(1, 60))
        server.kill()
        server.lose(instead=old)
        await asyncio.sleep(chance.uniform(0, 3))
        await server.start()
        await _is_whole_again(own, viewers, generation)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
async def test_it_forgets_everything_while_it_runs(
    own: World, gateway: Gateway, chance: random.Random, times: int
) -> None:
    async with watching(own, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await viewers.steady.shows(generation, chance.randrange(1, 150))
        for _ in range(times):
            await own.redis.flushall()
            await asyncio.sleep(chance.uniform(0, 0.4))
        await _is_whole_again(own, viewers, generation)


async def _is_whole_again(own: World, viewers: Viewers, generation: str) -> None:
    end = await viewers.saw(generation, TEXT)
    begun = [frame for frame in viewers.steady.client.record if frame["type"] == "subscribed"]
    assert not any(frame["recovered"] for frame in begun)
    assert begun[-1]["epoch"] != begun[0]["epoch"], "what was lost began a new life"
    assert viewers.steady.connections == 1
    assert end["attempt"] == 1
    assert len(own.fake.calls) == 1
