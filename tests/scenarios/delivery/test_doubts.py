"""The log is the truth: whatever pub/sub says, whoever gets a job, however full Redis is, nobody shows anything else.

Each of these scenarios is the one that turns red when the rule that it is about is taken out (tests/mutants).
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from relay import embedded
from relay.store.keys import Keys
from relay.store.queue.queue import Queue
from tests.scenarios.client import Client, check
from tests.scenarios.flushes import spilled
from tests.scenarios.processes import free_port, until
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import Script, World, world

pytestmark = pytest.mark.slow

TOKENS = [f"w{number} " for number in range(60)]
TEXT = "".join(TOKENS)


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[World]:
    """A world with a server of its own, which may be filled."""
    with embedded.embedded_server() as url:
        async with world(url, tmp_path) as made:
            yield made


async def head(relay: World) -> int:
    return int(await relay.redis.hget(Keys(relay.prefix).session("s"), "seq") or 0)


async def begun(client: Client, tokens: int) -> str:
    await client.subscribe()
    generation = await client.submit("q")
    await client.until(
        lambda: generation in client.view.generations and client.shown(generation).count >= tokens, f"{tokens} tokens"
    )
    return generation


async def test_what_pub_sub_says_twice_early_or_of_another_life_is_not_shown(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        generation = await begun(client, 20)
        channel, epoch = Keys(relay.prefix).session("s", "events"), client.view.epoch
        false = msgspec.json.encode(
            {"type": "tokens", "generation": generation, "attempt": 1, "index": 20, "count": 1, "text": "FALSE"}
        ).decode()
        last = client.view.last
        for said in (f"{epoch} {last} {false}", f"{epoch} {last + 5} {false}", f"other {last + 1} {false}"):
            assert await relay.redis.publish(channel, said) == 1
        relay.fake.release()
        await client.ended(generation)
        check(client, generation, TEXT)
        assert "FALSE" not in client.shown(generation).text


async def test_a_log_that_began_anew_as_long_as_the_old_one_is_told_as_another_life(relay: World) -> None:
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        await client.submit("before", "r1")
        await client.until(lambda: client.view.last == 2, "question and status")
        epoch = client.view.epoch
        await relay.redis.delete(*await relay.keys())
        generation = await client.submit("after", "r2")
        await client.until(lambda: client.view.epoch != epoch, "another epoch")
        await relay.worker()
        await client.ended(generation)
        check(client, generation, "Hello there")
        assert [event["content"] for event in client.view.messages] == ["after"]


async def test_a_redis_that_is_full_is_shown_no_further_than_it_holds(alone: World) -> None:
    alone.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await alone.gateway()
    worker = await alone.worker()
    async with Client(gateway.url, "s") as client:
        generation = await begun(client, 20)
        limit = str((await alone.redis.config_get("maxmemory"))["maxmemory"])
        await alone.redis.config_set("maxmemory", "1")
        try:
            alone.fake.release()
            await spilled(worker)
            assert (await client.command(type="ping"))["type"] == "pong"
            assert client.view.last == await head(alone)
            assert client.shown(generation).text == "".join(TOKENS[:20])
        finally:
            await alone.redis.config_set("maxmemory", limit)
        await client.ended(generation)
        check(client, generation, TEXT)


async def test_statuses_whose_replies_are_lost_are_written_once(relay: World, redis_url: str) -> None:
    gateway = await relay.gateway()
    async with Proxy(redis_url) as proxy, Client(gateway.url, "s") as client:
        await relay.worker(RELAY_REDIS_URL=proxy.url)
        await client.subscribe()
        await client.ended(await client.submit("first", "r0"))  # from here on Redis has the script
        async with proxy.losing_replies(3):
            generation = await client.submit("q")
            await client.ended(generation)
            assert proxy.faults_left == 0
        check(client, generation, "Hello there")
        statuses = [frame for frame in client.frames if frame["type"] == "status" and frame["generation"] == generation]
        assert [frame["state"] for frame in statuses] == ["queued", "preparing", "thinking"]


async def test_a_job_that_a_second_worker_gets_stays_with_the_first_while_it_lives(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker("--concurrency", "1")
    async with Client(gateway.url, "s") as client:
        generation = await begun(client, 20)
        second = await relay.worker("--metrics-port", str(free_port()))
        queue = Queue(relay.redis, relay.redis, Keys(relay.prefix), max_backlog=9, ttl_s=60, trim_after_s=60)
        await queue.requeue("default", "s", generation, 0)
        refused = 'relay_claims_total{outcome="leased"}'

        async def decided() -> bool:
            samples = await relay.metrics(second)
            return samples.get(refused, 0) > 0 or samples.get('relay_claims_total{outcome="claimed"}', 0) > 0

        await until(decided, "the second worker has tried to claim it")
        assert (await relay.metrics(second)).get(refused) == 1
        relay.fake.release()
        await client.ended(generation)
        assert check(client, generation, TEXT)["attempt"] == 1
        assert len(relay.fake.calls) == 1


async def test_a_frozen_worker_that_wakes_up_cannot_end_what_another_one_writes(relay: World) -> None:
    relay.settings = {"RELAY_LEASE_S": "1"}
    relay.fake.script = Script(tokens=TOKENS[:30], hold_before=30)
    gateway, frozen = await relay.gateway(), await relay.worker()
    async with Client(gateway.url, "s") as client:
        generation = await begun(client, 30)
        frozen.signal(signal.SIGSTOP)
        relay.fake.script = Script(tokens=TOKENS, hold_before=40)
        await relay.worker()
        await client.until(lambda: client.shown(generation).attempt == 2 and client.shown(generation).count == 40, "40")
        frozen.signal(signal.SIGCONT)
        relay.fake.release(0)
        await until(lambda: frozen.logged("let_go") or frozen.logged("ended"), "the frozen worker is done with it")
        relay.fake.release()
        await client.ended(generation)
        assert check(client, generation, TEXT)["attempt"] == 2


async def test_a_cursor_into_what_was_merged_since_is_not_honoured(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=40, tokens_per_second=400)
    relay.settings = {"RELAY_TRIM_AFTER_S": "1", "RELAY_FOLLOWER_LINGER_S": "0", "RELAY_BATCH_SIZE": "5"}
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        generation = await begun(client, 40)
        await client.cut()
        relay.fake.release()
        log = Keys(relay.prefix).session("s", "log")
        await until(lambda: _merged(relay, log), "the batches are merged")
        await client.connect()
        assert (await client.subscribe())["recovered"] is False
        await client.ended(generation)
        check(client, generation, TEXT)


async def _merged(relay: World, log: str) -> bool:
    """Of the batches one is left, beside the question, three statuses and the end."""
    return bool(await relay.redis.xlen(log) == 6)
