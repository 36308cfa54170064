"""Pub/sub is only a hint: whatever becomes of messages and of listeners, no viewer sees a difference but time."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from relay.follow.follower import IDLE_SYNC_S, SYNC_EVERY_S
from tests.fakes.provider import Script
from tests.scenarios.processes import TIMEOUT_S, until
from tests.scenarios.proxy import Proxy
from tests.scenarios.viewers import Viewers, watching
from tests.scenarios.world import Gateway, World

TOKENS = [f"w{number} 🙂 " for number in range(250)]
TEXT = "".join(TOKENS)
SOON_S = (SYNC_EVERY_S + IDLE_SYNC_S) / 2  # by the look at an open and silent answer, not by that at an idle session


@pytest.fixture(autouse=True)
def _paced(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100)


@pytest.fixture
async def gateway(relay: World, proxy: Proxy) -> Gateway:
    """Behind the proxy; the worker is not."""
    await relay.worker()
    return await relay.gateway(RELAY_REDIS_URL=proxy.url)


ONE_KIND: list[dict[str, float]] = [{"dropped": 0.3}, {"doubled": 0.3}, {"swapped": 0.3}, {"late": 0.3}]
ALL_KINDS: dict[str, float] = {"dropped": 0.1, "doubled": 0.1, "swapped": 0.1, "late": 0.1}


@pytest.mark.parametrize(
    "shares",
    [ALL_KINDS, *(pytest.param(shares, marks=pytest.mark.slow) for shares in ONE_KIND)],
    ids=lambda shares: "_and_".join(shares),
)
async def test_messages_meet_with_everything(
    relay: World, proxy: Proxy, gateway: Gateway, chance: random.Random, shares: dict[str, float]
) -> None:
    async with watching(relay, gateway.url, chance) as viewers, proxy.hints.muddled(chance, **shares):
        asked = 0
        while set(proxy.hints.met) != set(shares) and asked < 10:  # a busy machine tells an answer by few messages
            asked += 1
            await viewers.saw(await viewers.ask(gateway), TEXT)
    assert set(proxy.hints.met) == set(shares), "each of them was met"
    assert (len(relay.fake.calls), viewers.steady.connections) == (asked, 1)


async def test_viewers_see_two_answers_one_after_the_other(
    relay: World, gateway: Gateway, chance: random.Random
) -> None:
    relay.fake.script = Script(tokens=TOKENS[:20])
    async with watching(relay, gateway.url, chance) as viewers:
        for _ in range(2):
            await viewers.saw(await viewers.ask(gateway), "".join(TOKENS[:20]))
    assert (len(relay.fake.calls), viewers.steady.connections) == (2, 1)


@pytest.mark.slow
async def test_not_one_message_comes_from_some_token_on(
    relay: World, proxy: Proxy, gateway: Gateway, chance: random.Random
) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100, hold_before=len(TOKENS))
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await viewers.steady.shows(generation, chance.randrange(1, 150))
        async with proxy.hints.muddled(chance, dropped=1):
            await _shows_soon(relay, viewers, generation)
            await viewers.saw(generation, TEXT)
    _asked_once(relay, viewers)


@pytest.mark.slow
async def test_a_subscription_that_is_silently_gone_and_silently_back(
    relay: World, proxy: Proxy, gateway: Gateway, chance: random.Random
) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100, hold_before=len(TOKENS))
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        for _ in range(3):
            await viewers.steady.shows(generation, chance.randrange(1, 150))
            async with proxy.deaf():
                sent = relay.fake.calls[0].sent
                due = min(sent + 20, len(TOKENS))
                await until(lambda due=due: relay.fake.calls[0].sent >= due, "20 tokens")  # type: ignore[misc]
        async with proxy.deaf():
            await _shows_soon(relay, viewers, generation)
        await viewers.saw(generation, TEXT)
    _asked_once(relay, viewers)


async def test_a_subscription_that_is_half_open(
    relay: World, proxy: Proxy, gateway: Gateway, chance: random.Random
) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100, hold_before=len(TOKENS))
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await viewers.steady.shows(generation, chance.randrange(1, 150))
        proxy.lose_subscriptions()
        await _shows_soon(relay, viewers, generation)
        await viewers.saw(generation, TEXT)
        await until(lambda: gateway.logged("subscription_lost"), "it is noticed for what it is")
    _asked_once(relay, viewers)


@pytest.mark.slow
async def test_redis_drops_its_subscribers_again_and_again(
    relay: World, gateway: Gateway, chance: random.Random
) -> None:
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        killed = 0
        while not relay.fake.calls or not relay.fake.calls[0].finished:
            killed += int(await relay.redis.client_kill_filter(_type="pubsub"))
            await asyncio.sleep(chance.uniform(0.05, 0.5))
        await viewers.saw(generation, TEXT)
    assert killed > 0
    _asked_once(relay, viewers)


@pytest.mark.slow
async def test_a_subscriber_that_redis_drops_for_being_slow(
    relay: World, proxy: Proxy, gateway: Gateway, chance: random.Random
) -> None:
    tokens = [f"{number:>8000}" for number in range(400)]  # more than sockets hold
    relay.fake.script = Script(tokens=tokens, hold_before=20)
    limit, dropped = await _pubsub_limit(relay), await _has_dropped(relay)
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await viewers.steady.shows(generation, 20)
        await relay.redis.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
        try:
            async with proxy.stalled("down"):
                relay.fake.release()
                await until(lambda: _has_dropped(relay, dropped), "Redis has dropped it")
        finally:
            await relay.redis.config_set("client-output-buffer-limit", limit)
        await viewers.saw(generation, "".join(tokens))
    _asked_once(relay, viewers)


async def _shows_soon(relay: World, viewers: Viewers, generation: str) -> None:
    """The provider holds back its finish: everything before it is shown although nothing more is heard."""
    await relay.fake.wait_for(lambda fake: fake.calls and fake.calls[0].held, TIMEOUT_S)
    held_at = time.monotonic()
    await viewers.steady.shows(generation, len(TOKENS))
    assert time.monotonic() - held_at < SOON_S
    relay.fake.release()


def _asked_once(relay: World, viewers: Viewers) -> None:
    assert len(relay.fake.calls) == 1
    assert viewers.steady.connections == 1


async def _pubsub_limit(relay: World) -> str:
    limits = (await relay.redis.config_get("client-output-buffer-limit"))["client-output-buffer-limit"]
    return str(limits)[str(limits).index("pubsub") :]


async def _has_dropped(relay: World, than: int = 0) -> int:
    """Clients that Redis dropped for their output, beyond so many; older servers do not count them."""
    stats = await relay.redis.info("stats")
    return int(stats.get("client_output_buffer_limit_disconnections", than + 1)) - than
