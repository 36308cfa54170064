"""Redis is not next door: what every viewer is shown is exact however long a command is on its way.

The default tier has it 8 ms away in each direction, everything else runs with all of the tests.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tests.fakes.provider import Script
from tests.fakes.script import Body, prompt_of
from tests.scenarios.client import Client, check
from tests.scenarios.event_source import EventSource
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import Gateway, World

DISTANCES_MS = [0, 2, 8, 25]
SESSIONS = 8

at_every_distance = pytest.mark.parametrize(
    "far", [pytest.param(ms, marks=[] if ms == 8 else [pytest.mark.slow]) for ms in DISTANCES_MS], indirect=True
)


@pytest.fixture
async def far(relay: World, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A world whose processes have Redis so many milliseconds away in each direction."""
    async with Proxy(relay.redis_url) as proxy, proxy.slow(request.param / 1000):
        relay.settings |= {
            "RELAY_REDIS_URL": proxy.url, "RELAY_BATCH_SIZE": "5", "RELAY_BATCH_LINGER_MS": "10",
        }  # fmt: skip
        relay.fake.script = _answer
        yield relay


def said(question: str) -> str:
    return "".join(_tokens(question))


def _tokens(question: str) -> list[str]:
    return [f"{question}/{number} " for number in range(400)]


def _answer(body: Body) -> Script:
    return Script(tokens=_tokens(prompt_of(body)), tokens_per_second=300)


async def _asked(gateway: Gateway, session: str) -> str:
    status, reply, _ = await gateway.http("POST", f"/v1/sessions/{session}/generations", {"content": session})
    assert status == 202, reply
    return str(reply["generation"])


async def _sent(relay: World, question: str, tokens: int) -> None:
    """Until the provider has said so much."""
    await relay.fake.wait_for(
        lambda fake: any(call.prompt == question and call.sent >= tokens for call in fake.calls), 60
    )


@at_every_distance
async def test_tabs_that_join_in_mid_answer_at_a_gateway_that_follows_nothing_yet(
    far: World, chance: random.Random
) -> None:
    """A second one joins while the first look of the follower is on its way, or just after."""
    asked, joined = await asyncio.gather(far.gateway(), far.gateway())
    await far.worker()

    async def one(session: str) -> None:
        generation = await _asked(asked, session)
        await _sent(far, session, chance.randint(20, 200))
        async with Client(joined.url, session) as first, Client(joined.url, session, "msgpack") as second:
            await first.subscribe()
            await asyncio.sleep(0.12 * chance.choice([0, 0.3, 1, 1]))
            await second.subscribe()
            for client in (first, second):
                await client.ended(generation, 60)
                check(client, generation, said(session))

    await asyncio.gather(*(one(f"s{number}") for number in range(SESSIONS)))


@pytest.mark.slow
@at_every_distance
async def test_viewers_that_leave_and_come_back_elsewhere_with_their_cursor(far: World, chance: random.Random) -> None:
    """To a gateway that may have heard less than they have, or nothing at all."""
    gateways = await asyncio.gather(far.gateway(), far.gateway(RELAY_FOLLOWER_LINGER_S="0"))
    await far.worker()

    async def one(session: str) -> None:
        generation = await _asked(chance.choice(gateways), session)
        client = Client("http://none", session, chance.choice(["json", "msgpack"]))
        while generation not in client.view.generations or client.shown(generation).end is None:
            client.url = chance.choice(gateways).url.replace("http", "ws", 1) + "/v1/ws"
            await client.connect()
            await client.subscribe()
            leaves = len(client.frames) + chance.choice([0, 1, 1, 5, 20])
            await client.until(
                lambda leaves=leaves: len(client.frames) >= leaves or client.ends[generation], "more frames", 60
            )
            await client.cut()
        check(client, generation, said(session))

    await asyncio.gather(*(one(f"s{number}") for number in range(SESSIONS)))


@pytest.mark.slow
@at_every_distance
async def test_live_streams_of_one_answer_that_begin_around_its_end_are_over_with_it(
    far: World, chance: random.Random
) -> None:
    asked, joined = await asyncio.gather(far.gateway(), far.gateway(RELAY_FOLLOWER_LINGER_S="0"))
    await far.worker()

    async def one(session: str) -> None:
        generation = await _asked(asked, session)
        await _sent(far, session, 370)
        streams = [asyncio.create_task(live(session, generation, chance.uniform(0, 0.4))) for _ in range(5)]
        await asyncio.gather(*streams)

    async def live(session: str, generation: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        client = Client("http://none", session)
        url = f"{joined.url}/v1/sessions/{session}/events?generation={generation}&from=live"
        for _ in range(20):  # a busy machine is late by more than a gateway waits for Redis; a client comes again then
            async with EventSource(url, client) as stream:
                await stream.ended()
            if stream.status != 503:
                break
        assert (stream.status, stream.types()[-1:]) in [(204, []), (200, ["end"])]

    await asyncio.gather(*(one(f"s{number}") for number in range(SESSIONS)))


@at_every_distance
async def test_nobody_who_comes_after_an_answered_delete_is_shown_what_was_deleted(
    far: World, chance: random.Random
) -> None:
    """Not by way of a gateway either that follows the session for others, and hears of it later than they have."""
    here, there = await asyncio.gather(far.gateway(RELAY_REDIS_URL=far.redis_url), far.gateway())
    await far.worker()

    async def one(session: str) -> None:
        generation = await _asked(here, session)
        watching, *newcomers = [Client(there.url, session) for _ in range(4)]
        for client in (watching, *newcomers):
            await client.connect()
        await watching.subscribe()
        await watching.until(lambda: watching.view.last > 5, "some of it", 60)
        status, _, _ = await here.http("DELETE", f"/v1/sessions/{session}")
        assert status == 204
        await asyncio.gather(*(comes(client, generation) for client in newcomers))
        await watching.until(lambda: watching.unsubscribed, "unsubscribed", 60)
        for client in (watching, *newcomers):
            await client.disconnect()

    async def comes(client: Client, deleted: str) -> None:
        await client.subscribe()
        question = f"{client.session} again {chance.random()}"
        generation = await client.submit(question, question)
        await client.until(
            lambda: client.ends[generation] or client.unsubscribed or deleted in client.view.generations, "the end", 60
        )
        assert deleted not in client.view.generations
        assert not client.unsubscribed
        check(client, generation, said(question))

    await asyncio.gather(*(one(f"s{number}") for number in range(SESSIONS)))
