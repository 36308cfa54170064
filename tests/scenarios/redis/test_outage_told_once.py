"""What an outage of Redis leaves in the logs: its beginning and its end, however long it lasts and whoever tries on."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fakes.provider import Script
from tests.scenarios.client import Client
from tests.scenarios.processes import Process, until
from tests.scenarios.server import Server
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(1000)]
TRIES = 4  # of each kind, in one outage
GATEWAYS = {
    ("reaper", "sweep_failed"),
    ("snapshot", "unavailable"),
    ("subscription", "subscription_failed"),
}
WORKERS = {
    ("generation", "renewal_failed"),
    ("offers", "offer_failed"),
    ("reaper", "sweep_failed"),
    ("subscription", "subscription_failed"),
}
LOST = {("subscription", "subscription_lost")}


def counted(process: Process, *levels: str) -> Counter[tuple[str, str]]:
    return Counter((line["part"], line["event"]) for line in process.lines() if not levels or line["level"] in levels)


def over(process: Process) -> Counter[tuple[str, str]]:
    return Counter((line["part"], line["what"]) for line in process.lines() if line["event"] == "recovered")


def once(events: set[tuple[str, str]]) -> Counter[tuple[str, str]]:
    return Counter(dict.fromkeys(events, 1))


def of(events: set[tuple[str, str]], counts: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    return Counter({event: counts[event] for event in events})


@pytest.mark.slow
async def test_an_outage_is_one_line_of_each_kind_when_it_begins_and_one_when_it_is_over(
    own: World, server: Server
) -> None:
    own.fake.script = Script(tokens=TOKENS, tokens_per_second=10)
    own.settings = {"RELAY_LOG_LEVEL": "debug", "RELAY_LEASE_S": "3"}
    gateway, worker = await own.gateway(), await own.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count > 2, "some")
        server.kill()

        async def tried() -> bool:
            await gateway.http("GET", "/v1/sessions/s")
            of_gateway, of_worker = counted(gateway), counted(worker)
            return all(of_gateway[event] >= TRIES for event in GATEWAYS) and all(
                of_worker[event] >= TRIES for event in WORKERS
            )

        await until(tried, "all have tried again and again", 60)
        await server.start()

        async def told() -> bool:
            await gateway.http("GET", "/v1/sessions/s")
            return over(gateway).keys() >= GATEWAYS | LOST and over(worker).keys() >= WORKERS | LOST

        await until(told, "all say that it is over", 60)
        await client.stop(generation)
        await client.ended(generation)
    for process, events in ((gateway, GATEWAYS | LOST), (worker, WORKERS | LOST)):
        assert of(events, counted(process, "warning", "error")) == once(events)
        assert of(events, over(process)) == once(events)
