"""Redis fails under a worker: the provider is read on, the text is exact, and there is one end."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.scenarios.client import Client, check
from tests.scenarios.flushes import Flushes, flushes, restored, spilled
from tests.scenarios.processes import Process, free_port, until
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import Script, World

TOKENS = [f"w{number} " for number in range(300)]
TEXT = "".join(TOKENS)


async def behind(proxy: Proxy, relay: World, **settings: Any) -> Process:
    """A worker that has Redis through the proxy only."""
    return await relay.worker("--metrics-port", str(free_port()), RELAY_REDIS_URL=proxy.url, **settings)


async def begun(client: Client, tokens: int = 20) -> str:
    """A generation of which so many tokens are shown."""
    await client.subscribe()
    generation = await client.submit("q")
    await client.until(
        lambda: generation in client.view.generations and client.shown(generation).count >= tokens, f"{tokens} tokens"
    )
    return generation


# Some appends fail


@pytest.mark.slow
async def test_appends_that_fail_are_tried_again(relay: World, proxy: Proxy) -> None:
    relay.fake.script = Script(tokens=TOKENS[:100], tokens_per_second=100)
    gateway, worker = await relay.gateway(), await behind(proxy, relay)
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        before = await flushes(relay, worker)
        async with proxy.failing(3):
            await client.ended(generation)
            assert proxy.faults_left == 0
        check(client, generation, "".join(TOKENS[:100]))
    assert (await flushes(relay, worker)).since(before) == Flushes(retries=3)


async def test_appends_whose_replies_are_lost_are_written_once(relay: World, proxy: Proxy) -> None:
    relay.fake.script = Script(tokens=TOKENS[:100], tokens_per_second=100)
    gateway, worker = await relay.gateway(), await behind(proxy, relay)
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        before = await flushes(relay, worker)
        async with proxy.losing_replies(3):
            await client.ended(generation)
            assert proxy.faults_left == 0
        check(client, generation, "".join(TOKENS[:100]))
    assert (await flushes(relay, worker)).since(before) == Flushes(retries=3)


@pytest.mark.slow
async def test_a_batch_that_landed_unseen_and_whose_tokens_land_unseen_is_written_once(
    relay: World, proxy: Proxy
) -> None:
    relay.fake.script = Script(tokens=TOKENS[:100], hold_before=20)
    gateway, worker = await relay.gateway(), await behind(proxy, relay)
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        before = await flushes(relay, worker)
        async with proxy.losing_replies(7):
            relay.fake.release()
            await client.ended(generation)
            assert proxy.faults_left == 0
        check(client, generation, "".join(TOKENS[:100]))
    seen = (await flushes(relay, worker)).since(before)
    assert (seen.retries, seen.failures, seen.fallbacks, seen.tokens) == (3, 1, 1, 1)
    assert (seen.spills, seen.restored) == (1, 1)


async def test_batches_that_are_refused_for_their_size_go_token_by_token(relay: World, proxy: Proxy) -> None:
    tokens = [f"{number:>50}" for number in range(80)]
    relay.fake.script = Script(tokens=tokens, hold_before=20)
    gateway, worker = await relay.gateway(), await behind(proxy, relay)
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        before = await flushes(relay, worker)
        async with proxy.refusing(larger_than_bytes=1000):  # a token's append has 600
            relay.fake.release()
            await client.ended(generation)
        check(client, generation, "".join(tokens))
        last = [frame for frame in client.frames if frame["type"] == "tokens"][-20:]
        assert [frame["count"] for frame in last] == [1] * 20
    seen = (await flushes(relay, worker)).since(before)
    assert seen.retries == 3 * seen.failures > 0
    assert seen.fallbacks == seen.failures
    assert seen.tokens >= 40
    assert seen.spills == 0


@pytest.mark.slow
async def test_an_append_that_is_refused_for_ever_ends_the_answer_where_it_stands(relay: World, proxy: Proxy) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=40)
    gateway, worker = await relay.gateway(), await behind(proxy, relay, RELAY_LOST_AFTER_S="1")
    async with Client(gateway.url, "s") as client:
        generation = await begun(client, 40)
        before = await flushes(relay, worker)
        async with proxy.refusing(larger_than_bytes=0):
            relay.fake.release()
            await client.ended(generation)
        end = check(client, generation, "".join(TOKENS[:40]), "failed")
        assert (end["error"]["code"], end["error"]["retryable"]) == ("storage", True)
    assert (await flushes(relay, worker)).since(before).restored == 0


# Redis is away


async def test_a_redis_that_is_away_holds_up_no_provider(relay: World, proxy: Proxy) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100)
    gateway, worker = await relay.gateway(), await behind(proxy, relay)
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        before = await flushes(relay, worker)
        async with proxy.away():
            await spilled(worker)
            await relay.fake.wait_for(lambda fake: fake.calls[0].finished)
            assert relay.fake.calls[0].sent == len(TOKENS)
            shown = len(client.shown(generation).text)
            assert shown < len(TEXT) / 2
        await client.ended(generation)
        check(client, generation, TEXT)
        assert max(frame["count"] for frame in client.frames if frame["type"] == "tokens") > 100
    seen = (await flushes(relay, worker)).since(before)
    assert (seen.retries, seen.failures, seen.spills, seen.restored) == (3, 1, 1, 1)
    assert seen.tokens <= 1
    # All that the provider sent was in the worker's hands, not in a socket's buffer, when Redis came back.
    assert seen.restored_bytes >= len(TEXT) - shown
    assert len(relay.fake.calls) == 1


@pytest.mark.slow
async def test_appends_that_arrive_when_nobody_waits_for_them_any_more_change_nothing(
    relay: World, proxy: Proxy
) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=150)
    gateway, worker = await relay.gateway(), await behind(proxy, relay, RELAY_FLUSH_RETRIES="1")
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        before = await flushes(relay, worker)
        async with proxy.frozen():
            await spilled(worker)
            await relay.fake.wait_for(lambda fake: fake.calls[0].finished)
        await client.ended(generation)
        check(client, generation, TEXT)
    seen = (await flushes(relay, worker)).since(before)
    assert (seen.retries, seen.failures, seen.spills, seen.restored) == (1, 1, 1, 1)


@pytest.mark.slow
async def test_a_redis_that_comes_and_goes_costs_time_but_no_text(relay: World, proxy: Proxy) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100)
    gateway, worker = await relay.gateway(), await behind(proxy, relay, RELAY_FLUSH_RETRIES="0")
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        for number in range(1, 5):
            async with proxy.away():
                await spilled(worker, number)
            await restored(worker, number)
        await client.ended(generation)
        check(client, generation, TEXT)


@pytest.mark.slow
async def test_more_than_the_spill_holds_closes_the_provider_and_fails_when_redis_is_back(
    relay: World, proxy: Proxy
) -> None:
    relay.fake.script = Script(tokens=[f"{number:>50}" for number in range(1000)], tokens_per_second=100)
    gateway, worker = await relay.gateway(), await behind(proxy, relay, RELAY_SPILL_BYTES="10000")
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        before = await flushes(relay, worker)
        async with proxy.away():
            await until(lambda: relay.fake.calls[0].client_gone_at, "the provider sees the connection closed")
            shown = client.shown(generation).count
        ended = await client.ended(generation)
        end = check(client, generation, ended.text, "failed")
        assert (end["error"]["code"], end["error"]["retryable"]) == ("storage", True)
        assert "".join(relay.fake.script.tokens).startswith(ended.text)
        assert 180 <= ended.count - shown <= 200, "what was spilled is written all the same"
    assert (await flushes(relay, worker)).since(before).restored == 1


# Others act while something is spilled


async def test_a_stop_while_something_is_spilled_holds(relay: World, proxy: Proxy) -> None:
    relay.fake.script = Script(tokens=TOKENS * 10, tokens_per_second=100)
    gateway, worker = await relay.gateway(), await behind(proxy, relay)
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        before = await flushes(relay, worker)
        async with proxy.away():
            await spilled(worker)
            assert (await client.stop(generation))["already_ended"] is False
            text = (await client.ended(generation)).text
        await until(lambda: relay.fake.calls[0].client_gone_at, "the provider sees the connection closed")
        assert (await until(lambda: worker.logged("let_go"), "the worker lets go"))["why"] == "ended"
        await client.command(type="ping")
        check(client, generation, text, "stopped")
        assert TEXT.startswith(text)
    assert (await flushes(relay, worker)).since(before).restored == 0


@pytest.mark.slow
async def test_a_worker_that_is_told_to_go_while_something_is_spilled_still_writes_it(
    relay: World, proxy: Proxy
) -> None:
    relay.fake.script = Script(tokens=TOKENS[:150], tokens_per_second=100)
    gateway, worker = await relay.gateway(), await behind(proxy, relay)
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        async with proxy.away():
            await spilled(worker)
            worker.signal(signal.SIGTERM)
            await until(lambda: worker.logged("finishing"), "the worker is told")
        await client.ended(generation)
        end = check(client, generation, "".join(TOKENS[:150]))
        assert end["attempt"] == 1
        assert await worker.exited() == 0


@pytest.mark.slow
async def test_a_worker_that_may_not_wait_goes_and_another_one_begins_anew(relay: World, proxy: Proxy) -> None:
    relay.fake.script = Script(tokens=TOKENS * 10, tokens_per_second=100)
    relay.settings |= {"RELAY_LEASE_S": "1"}
    gateway, worker = await relay.gateway(), await behind(proxy, relay, RELAY_GRACE_S="0")
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        async with proxy.away():
            await spilled(worker)
            worker.signal(signal.SIGTERM)
            assert await worker.exited() == 0
            assert relay.fake.calls[0].client_gone_at
            relay.fake.script = Script(tokens=TOKENS)
            await relay.worker()
            await client.ended(generation)
        assert check(client, generation, TEXT)["attempt"] == 2
