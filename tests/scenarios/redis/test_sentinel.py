"""Behind Sentinels: the master is found by asking them, and found again when another server has become it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import until
from tests.scenarios.redis_sentinel import Watched, watched
from tests.scenarios.world import World, world

pytestmark = pytest.mark.slow

TOKENS = [f"w{number} " for number in range(400)]


@pytest.mark.parametrize("password", ["", "geheim%/@:x"], ids=["open", "with passwords"])
async def test_an_answer_goes_on_after_the_master_has_died(tmp_path: Path, password: str) -> None:
    async with watched(tmp_path, password=password) as servers, world(servers.url, tmp_path) as relay:
        relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100)
        gateway, worker = await relay.gateway(), await relay.worker()
        async with Client(gateway.url, "s") as client:
            await client.subscribe()
            generation = await client.submit("q")
            await client.until(
                lambda: generation in client.view.generations and client.shown(generation).count > 50, "half of it"
            )
            await servers.caught_up()
            servers.master.kill()
            await client.ended(generation, 40)
            check(client, generation, "".join(TOKENS))
            await _subscribes_there(relay, servers)
            relay.fake.script = Script(tokens=["a", "b"], hold_before=1)
            again = await client.submit("q2", "r2")
            await client.until(lambda: again in client.view.generations and client.shown(again).count == 1, "a token")
            assert (await client.stop(again))["already_ended"] is False
            await until(lambda: relay.fake.calls[-1].client_gone_at, "the worker hears of the stop from the new master")
            await client.ended(again)
            check(client, again, "a", "stopped")
        for process in (gateway, worker):
            assert password == "" or password not in process.stderr.read_text()


async def _subscribes_there(relay: World, servers: Watched) -> None:
    """Gateway and worker hear the new master."""

    async def both() -> bool:
        found = await servers.replica.ask("PUBSUB", "CHANNELS")
        return {f"{relay.prefix}:s:{{s}}:events"} < set(found) and any(":w:" in channel for channel in found)

    await until(both, "both channels are asked of the new master")
