"""On a real Cluster of three masters: the same promises, with sharded pub/sub, while slots move and masters fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process, until
from tests.scenarios.redis_cluster import Cluster, cluster
from tests.scenarios.redis_servers import Server
from tests.scenarios.world import World, world

pytestmark = pytest.mark.slow

TOKENS = [f"w{number} " for number in range(200)]
TEXT = "".join(TOKENS)


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as made:
        yield made


@pytest.fixture
async def relay(servers: Cluster, tmp_path: Path) -> AsyncIterator[World]:
    async with world(servers.url, tmp_path) as made:
        yield made


async def session_on(servers: Cluster, server: Server, besides: str = "") -> str:
    """The name of a session whose slot this server has, and which is not in the slot of `besides`."""
    for number in range(1000):
        if str(number) != besides and await servers.owner(f"{{{number}}}") is server:
            return str(number)
    raise AssertionError("this server has no slots")


async def channels(servers: Cluster, verb: str = "SHARDCHANNELS") -> list[str]:
    return [channel for server in servers.masters for channel in await server.ask("PUBSUB", verb)]


@pytest.mark.parametrize("named", ["as a Cluster", "as one server"])
async def test_sessions_on_every_master_are_exact_and_all_pub_sub_is_sharded(
    tmp_path: Path, servers: Cluster, named: str
) -> None:
    async with world(servers.url, tmp_path) as relay:
        if named == "as one server":
            relay.redis_url = f"redis://127.0.0.1:{servers.masters[1].port}/0"
        relay.fake.script = Script(tokens=TOKENS, hold_before=50)
        gateway, _worker = await relay.gateway(), await relay.worker()
        names = [str(number) for number in range(12)]
        assert {await servers.owner(f"{{{name}}}") for name in names} == set(servers.masters)
        clients = [Client(gateway.url, name) for name in names]
        for client in clients:
            await client.connect()
            await client.subscribe()
        generations = [await client.submit("q") for client in clients]
        for client, generation in zip(clients, generations, strict=True):
            await client.until(lambda c=client, g=generation: g in c.view.generations and c.shown(g).count == 50, "50")
        sharded = await channels(servers)
        assert sorted(channel for channel in sharded if ":s:" in channel) == sorted(
            f"{relay.prefix}:s:{{{name}}}:events" for name in names
        )
        assert len([channel for channel in sharded if ":w:" in channel]) == 1, "the worker's control channel"
        assert await channels(servers, "CHANNELS") == []
        relay.fake.release()
        for client, generation in zip(clients, generations, strict=True):
            await client.ended(generation)
            check(client, generation, TEXT)
            await client.disconnect()
        for server in servers.masters:
            published = await server.redis.info("commandstats")
            assert "cmdstat_spublish" in published
            assert "cmdstat_publish" not in published


async def test_a_viewer_that_is_cut_goes_on_by_its_cursor_at_another_gateway(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=200)
    gateways = [await relay.gateway(), await relay.gateway()]
    await relay.worker()
    clients = [Client(gateway.url, "s") for gateway in gateways]
    client = clients[0]
    await client.connect()
    await client.subscribe()
    generation = await client.submit("q")
    for turn in range(1, 5):
        seen = len(client.frames)
        await client.until(lambda seen=seen: len(client.frames) > seen + 2, "more frames")
        await client.cut()
        client.url = clients[turn % 2].url
        await client.connect()
        assert (await client.subscribe())["recovered"] is True
    await client.ended(generation)
    check(client, generation, TEXT)
    await client.disconnect()


async def test_a_stop_reaches_the_worker_through_its_sharded_channel(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    relay.settings["RELAY_LEASE_S"] = "60"  # so that no renewal tells the worker first
    gateway, _worker = await relay.gateway(), await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 20, "20")
        assert (await client.stop(generation))["already_ended"] is False
        await client.ended(generation)
        await until(lambda: relay.fake.calls[0].client_gone_at, "the provider sees the connection closed", 5)
        check(client, generation, "".join(TOKENS[:20]), "stopped")


async def test_a_slot_that_moves_in_the_middle_of_its_answer_costs_no_byte(servers: Cluster, relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS * 3, tokens_per_second=100)
    gateway, worker = await relay.gateway(), await relay.worker(RELAY_BATCH_SIZE="2")
    first, second, _ = servers.masters
    session = await session_on(servers, first)
    async with Client(gateway.url, session) as client:
        await client.subscribe()
        generation = await client.submit("q")
        for target in (second, first):
            await client.until(partial(has_grown, client, generation, shown_of(client, generation)), "text meanwhile")
            await servers.move(f"{{{session}}}", target, partial(appends_are_held_up, worker))
            await until(partial(is_heard_at, session, target), "the channel is asked for where its slot is")
        await client.ended(generation, 30)
        check(client, generation, TEXT * 3)
        assert [frame["recovered"] for frame in client.frames if frame["type"] == "subscribed"] == [False]


@pytest.mark.parametrize("provider", ["waits", "goes on"])
async def test_a_master_that_dies_in_the_middle_of_an_answer_is_replaced_and_nothing_is_lost(
    tmp_path: Path, provider: str
) -> None:
    async with cluster(tmp_path, replicas=3) as servers, world(servers.url, tmp_path) as relay:
        hold_before = 100 if provider == "waits" else None
        relay.fake.script = Script(tokens=TOKENS * 2, tokens_per_second=100, hold_before=hold_before)
        gateway, _worker = await relay.gateway(), await relay.worker()
        master = servers.masters[0]
        session, other = await session_on(servers, master), await session_on(servers, servers.masters[1])
        async with Client(gateway.url, session) as client, Client(gateway.url, other) as elsewhere:
            generations = []
            for viewer in (client, elsewhere):
                await viewer.subscribe()
                generations.append(await viewer.submit("q"))
            await client.until(partial(has_grown, client, generations[0], 50), "half of it")
            if provider == "waits":
                await client.until(partial(has_grown, client, generations[0], 99), "all that comes before the hold")
            await servers.caught_up(master)
            master.kill()
            relay.fake.release()
            for viewer, generation in zip((client, elsewhere), generations, strict=True):
                await viewer.ended(generation, 30)
                check(viewer, generation, TEXT * 2)
            # Everything is as before: what is new goes through at once, on both of them.
            relay.fake.script = Script(tokens=["a", "b"])
            for viewer in (client, elsewhere):
                again = await viewer.submit("q2", "r2")
                await viewer.ended(again)
                check(viewer, again, "ab")
        assert await servers.owner(f"{{{session}}}") in servers.replicas


def shown_of(client: Client, generation: str) -> int:
    return client.shown(generation).count if generation in client.view.generations else 0


def has_grown(client: Client, generation: str, shown: int) -> bool:
    return shown_of(client, generation) > shown


async def appends_are_held_up(worker: Process) -> None:
    """Until the worker has tried to append in vain: it is served by nobody while the keys lie on two servers."""
    before = retries(worker)
    await until(lambda: retries(worker) > before, "an append that has to wait")


def retries(worker: Process) -> int:
    return sum(line.get("event") == "flush_retry" for line in worker.lines())


async def is_heard_at(session: str, server: Server) -> bool:
    return any(f"{{{session}}}:events" in channel for channel in await server.ask("PUBSUB", "SHARDCHANNELS"))
