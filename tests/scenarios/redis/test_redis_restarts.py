"""Redis dies and comes back with its data, at random points of an answer: viewers see no difference but time."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.fakes.provider import Script
from tests.scenarios.server import Server
from tests.scenarios.viewers import watching
from tests.scenarios.world import World

TOKENS = [f"w{number} 🙂 " for number in range(250)]
TEXT = "".join(TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
async def test_a_redis_that_is_killed_and_comes_back_with_its_data(
    own: World, server: Server, chance: random.Random, times: int
) -> None:
    own.fake.script = Script(tokens=TOKENS, tokens_per_second=100)
    gateway = await own.gateway()
    for _ in range(2):
        await own.worker()
    async with watching(own, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await viewers.steady.shows(generation, chance.randrange(1, 150))
        for _ in range(times):
            server.kill()
            await asyncio.sleep(chance.uniform(0, 3))
            await server.start()
            await asyncio.sleep(chance.uniform(0, 0.5))
        end = await viewers.saw(generation, TEXT)
        assert viewers.steady.connections == 1
        assert end["attempt"] == 1
        assert len(own.fake.calls) == 1
        assert (await gateway.http("GET", "/v1/sessions/s"))[1]["epoch"] == viewers.steady.client.view.epoch
        first = next(frame for frame in viewers.steady.client.record if frame["type"] == "subscribed")
        assert first["epoch"] == viewers.steady.client.view.epoch, "nothing was lost, so no new life began"
