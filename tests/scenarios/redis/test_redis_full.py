"""Redis takes no writes for a while, because its memory or its disk is full or it is a replica: as in an outage,
everybody waits, nothing is lost, nothing is done twice, and nothing is shown that the log does not hold."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from relay import embedded
from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.flushes import flushes, restored, spilled
from tests.scenarios.processes import Process, free_port, until
from tests.scenarios.world import World, world

pytestmark = pytest.mark.slow

TOKENS = [f"w{number} " for number in range(300)]
TEXT = "".join(TOKENS)


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[World]:
    """A world with a server of its own, which has a disk."""
    data = tmp_path / "data"
    data.mkdir()
    port = free_port()
    command = [embedded.find_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data), "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=embedded.die_with_parent)  # noqa: ASYNC220
    try:
        async with world(f"redis://127.0.0.1:{port}/0", tmp_path) as made:
            await until(lambda: _answers(made.redis), "the server answers")
            yield made
    finally:
        server.terminate()
        server.wait()


@asynccontextmanager
async def memory_full(redis: Redis) -> AsyncIterator[None]:
    """`maxmemory` a little below what is used."""
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used // 2)
    try:
        yield
    finally:
        await redis.config_set("maxmemory", 0)


@asynccontextmanager
async def disk_full(redis: Redis) -> AsyncIterator[None]:
    """A snapshot that failed: Redis takes no writes until one succeeds."""
    config = await redis.config_get("dir")
    in_its_place = anyio.Path(str(config["dir"])) / "dump.rdb" / "not a file"
    await in_its_place.mkdir(parents=True)
    await redis.config_set("save", "3600 1")
    await redis.bgsave()
    await until(lambda: _last_snapshot(redis, "err"), "the snapshot has failed")
    try:
        yield
    finally:
        await in_its_place.rmdir()
        await in_its_place.parent.rmdir()
        await redis.bgsave()
        await until(lambda: _last_snapshot(redis, "ok"), "a snapshot has succeeded")
        await redis.config_set("save", "")


@asynccontextmanager
async def read_only(redis: Redis) -> AsyncIterator[None]:
    """A replica of a master that is nowhere, as after half a failover."""
    await redis.replicaof("127.0.0.1", str(free_port()))
    try:
        yield
    finally:
        await redis.replicaof("NO", "ONE")


Trouble = Callable[[Redis], AbstractAsyncContextManager[None]]
TROUBLES = [memory_full, disk_full, read_only]


async def worker_of(relay: World, **settings: Any) -> Process:
    return await relay.worker("--metrics-port", str(free_port()), **settings)


async def begun(client: Client, tokens: int = 20) -> str:
    """A generation of which so many tokens are shown."""
    await client.subscribe()
    generation = await client.submit("q")
    await client.until(
        lambda: generation in client.view.generations and client.shown(generation).count >= tokens, f"{tokens} tokens"
    )
    return generation


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_an_answer_in_the_middle_waits_and_goes_on(relay: World, trouble: Trouble) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100)
    gateway, worker = await relay.gateway(), await worker_of(relay)
    async with Client(gateway.url, "s") as client, Client(gateway.url, "s") as late:
        generation = await begun(client)
        async with trouble(relay.redis):
            await spilled(worker)
            asked_at = time.monotonic()
            refused = await client.command(type="submit", session="s", request_id="r2", content="now?")
            assert (refused["code"], refused["retryable"]) == ("unavailable", True)
            assert time.monotonic() - asked_at < 5
            await relay.fake.wait_for(lambda fake: fake.calls[0].finished)
            await _shows_just_what_the_log_holds(relay, client, generation)
            await late.subscribe()
            await _shows_just_what_the_log_holds(relay, late, generation)
        await restored(worker)
        await asyncio.gather(client.ended(generation), late.ended(generation))
        check(client, generation, TEXT)
        check(late, generation, TEXT)
        assert len(relay.fake.calls) == 1
        relay.fake.script = Script(tokens=["Yes."])
        again = await client.submit("now?", "r2")
        await client.ended(again)
        check(client, again, "Yes.")
        assert len(client.view.generations) == 2
    seen = await flushes(relay, worker)
    assert (seen.spills, seen.restored) == (1, 1)
    samples = await relay.metrics(worker)
    assert samples["relay_tokens_total"] == len(TOKENS) + 1


@pytest.mark.parametrize("trouble", [disk_full, read_only])
async def test_a_stop_that_cannot_be_stored_says_so_and_holds_when_sent_again(relay: World, trouble: Trouble) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=50)
    gateway, worker = await relay.gateway(), await worker_of(relay)
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        async with trouble(relay.redis):
            await spilled(worker)
            assert (await client.stop(generation))["code"] == "unavailable"
        stopping = await client.stop(generation)
        assert (stopping["type"], stopping["already_ended"]) == ("stopping", False)
        shown = await client.ended(generation)
        check(client, generation, shown.text, "stopped")
        await relay.fake.wait_for(lambda fake: fake.calls[0].client_gone_at is not None)
    assert TEXT.startswith(shown.text)


async def test_a_stop_holds_although_memory_is_full(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=40)
    gateway, worker = await relay.gateway(), await worker_of(relay)
    async with Client(gateway.url, "s") as client:
        generation = await begun(client, 40)
        async with memory_full(relay.redis):
            stopping = await client.stop(generation)
            assert (stopping["type"], stopping["already_ended"]) == ("stopping", False)
            await client.ended(generation)
            check(client, generation, "".join(TOKENS[:40]), "stopped")
            await relay.fake.wait_for(lambda fake: fake.calls[0].client_gone_at is not None)
            await until(lambda: worker.logged("let_go"), "the worker lets go")
            assert (await gateway.http("DELETE", "/v1/sessions/s"))[0] == 204


async def test_more_than_the_spill_holds_ends_the_answer_once_redis_takes_it(relay: World) -> None:
    long = [f"{number:>100}" for number in range(1000)]
    relay.fake.script = Script(tokens=long, tokens_per_second=100)
    gateway, worker = await relay.gateway(), await worker_of(relay, RELAY_SPILL_BYTES="20000")
    async with Client(gateway.url, "s") as client:
        generation = await begun(client)
        async with memory_full(relay.redis):
            await until(lambda: worker.logged("failed"), "the spill is full")
            await relay.fake.wait_for(lambda fake: fake.calls[0].client_gone_at is not None)
            assert client.shown(generation).end is None
        shown = await client.ended(generation)
        end = check(client, generation, shown.text, "failed")
        assert (end["error"]["code"], end["error"]["retryable"]) == ("storage", True)
        assert "".join(long).startswith(shown.text)
        assert len(relay.fake.calls) == 1


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_job_that_waits_is_claimed_as_soon_as_redis_takes_writes(relay: World, trouble: Trouble) -> None:
    relay.fake.script = Script(tokens=["Yes."])
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        async with trouble(relay.redis):
            worker = await worker_of(relay)
            await until(lambda: worker.logged("claim_failed") or worker.logged("take_failed"), "it has tried")
            assert relay.fake.calls == []
        back_at = time.monotonic()
        await client.ended(generation)
        assert time.monotonic() - back_at < 8  # not after a lease, 10 s
        check(client, generation, "Yes.")
        assert len(relay.fake.calls) == 1


async def test_a_disk_error_does_not_cost_the_subscription(relay: World) -> None:
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        before = await _subscriptions(relay.redis)
        async with disk_full(relay.redis):
            await until(lambda: _pings_are_refused(relay.redis), "its pings are refused")
            assert (await gateway.http("GET", "/readyz"))[0] == 503
        assert await _subscriptions(relay.redis) == before
    assert gateway.logged("subscription_lost") is None


async def _answers(redis: Redis) -> bool:
    try:
        return bool(await redis.ping())
    except RedisError:
        return False


async def _last_snapshot(redis: Redis, status: str) -> bool:
    return bool((await redis.info("persistence"))["rdb_last_bgsave_status"] == status)


async def _subscriptions(redis: Redis) -> list[str]:
    return [client["id"] for client in await redis.client_list(_type="pubsub")]


async def _pings_are_refused(redis: Redis) -> bool:
    return bool((await redis.info("commandstats"))["cmdstat_ping"]["rejected_calls"] >= 3)


async def _shows_just_what_the_log_holds(relay: World, client: Client, generation: str) -> None:
    stored = await relay.redis.get(f"{relay.prefix}:s:{{s}}:t:{generation}")
    assert isinstance(stored, bytes)
    await until(
        lambda: generation in client.view.generations and client.shown(generation).text.encode() == stored,
        "the viewer has what is stored",
    )
