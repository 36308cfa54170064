"""On a real Cluster: every command finds its server, and what moves or fails over is met again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from relay.errors import StorageError
from relay.redis.connections import Connections, call, publish_verb
from relay.settings import load
from relay.store import factory
from relay.store.requirements import check_requirements
from relay.store.scripts import read_atomically
from relay.store.session.session_log import SessionLog
from tests.scenarios.processes import until
from tests.scenarios.redis_cluster import Cluster, cluster, leads
from tests.scenarios.redis_servers import Server
from tests.store.in_memory import Writer, admitted_and_claimed

pytestmark = pytest.mark.slow

KEYS = [f"k{number}" for number in range(30)]


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path, replicas=1) as made:
        yield made


@pytest.fixture
async def redis(servers: Cluster) -> AsyncIterator[Connections]:
    redis = Connections(servers.url)
    yield redis
    await redis.aclose()


@pytest.fixture
def session_log(redis: Connections) -> SessionLog:
    return factory.session_log(redis, load())


@pytest.fixture
async def writer(session_log: SessionLog) -> Writer:
    return await admitted_and_claimed(session_log)


async def text_of(session_log: SessionLog) -> str:
    found = await session_log.snapshots.generation("s", "g1")
    assert found is not None
    return str(found["text"])


async def key_on(servers: Cluster, server: Server) -> str:
    for key in KEYS:
        if await servers.owner(key) is server:
            return key
    raise AssertionError("none of the keys is there")


@pytest.mark.parametrize("seed", [0, 1, 2])
async def test_a_server_of_a_cluster_leads_to_all_of_it_under_a_plain_address(servers: Cluster, seed: int) -> None:
    redis = Connections(f"redis://127.0.0.1:{servers.masters[seed].port}/0")
    await check_requirements(redis.commands, "t")
    assert await publish_verb(redis.append) == "SPUBLISH"
    for key in KEYS:
        await call(redis.commands, "SET", key, key)
        assert await read_atomically(redis.commands, ("GET", key), ("GET", f"{{{key}}}n")) == [key.encode(), None]
    assert [len(await server.redis.keys()) for server in servers.masters] == [
        sum([await servers.owner(key) is server for key in KEYS]) for server in servers.masters
    ]
    await redis.aclose()


async def test_who_asks_the_wrong_server_is_led_on_and_learns(servers: Cluster, redis: Connections) -> None:
    await call(redis.commands, "SET", "k", "1")
    found = redis.topology.slot_map
    assert found is not None
    right = found.owner(b"k")
    found.owners[:] = [next(iter(found.masters() - {right}))] * len(found.owners)
    assert await call(redis.commands, "GET", "k") == b"1"
    assert found.owner(b"k") == right
    await until(
        lambda: redis.topology.slot_map is not None and len(redis.topology.slot_map.masters()) == 3, "the whole map"
    )


async def test_an_append_waits_for_a_slot_that_is_on_its_way_and_is_done_once(
    servers: Cluster, session_log: SessionLog, writer: Writer
) -> None:
    source = await servers.owner("{s}")
    target = next(server for server in servers.masters if server is not source)
    await writer.tokens("a")
    appending: list[asyncio.Task[object]] = []

    async def begin_to_append() -> None:
        appending.append(asyncio.create_task(writer.tokens("b")))
        await until(lambda: _turned_away(servers), "the append has been turned away")

    await servers.move("{s}", target, begin_to_append)
    await appending[0]
    assert (await writer.tokens("c")).what == "written"
    assert await text_of(session_log) == "abc"
    assert await servers.owner("{s}") is target


async def test_a_slot_that_stays_open_is_an_outage_and_nothing_is_written_by_half(
    servers: Cluster, session_log: SessionLog, writer: Writer
) -> None:
    await writer.tokens("a")
    source = await servers.owner("{s}")
    target = next(server for server in servers.masters if server is not source)
    slot = key_slot(b"{s}")
    await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", await servers.name(source))
    await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", await servers.name(target))
    # The log alone has gone: a script that began would store the text and then find no log.
    log = session_log.keys.session("s", "log")
    await source.ask("MIGRATE", "127.0.0.1", target.port, log, 0, 5000)
    with pytest.raises(StorageError, match="TryAgain") as error:
        await writer.tokens("b")
    assert error.value.refused is False
    writer.n -= 1
    writer.written["tokens"].pop()
    assert await source.redis.get(session_log.keys.generation("s", "g1", "text")) == "a"
    assert await target.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
    await servers.move("{s}", target)
    assert (await writer.tokens("b")).what == "written"
    assert await text_of(session_log) == "ab"


async def test_a_master_that_steps_down_is_left_for_the_new_one(
    servers: Cluster, session_log: SessionLog, redis: Connections
) -> None:
    master, replica = servers.masters[0], servers.replicas[0]
    key = await key_on(servers, master)
    await call(redis.commands, "SET", key, "1")
    await servers.hand_over(replica)
    assert await call(redis.commands, "INCR", key) == 2


async def test_while_a_master_is_away_only_its_slots_are_and_then_none(servers: Cluster, redis: Connections) -> None:
    master, replica = servers.masters[0], servers.replicas[0]
    lost = await key_on(servers, master)
    kept = await key_on(servers, servers.masters[1])
    for key in (lost, kept):
        await call(redis.commands, "SET", key, "1")
    await servers.caught_up(master)
    master.kill()
    with pytest.raises(StorageError) as error:
        await call(redis.commands, "GET", lost)
    assert error.value.refused is False
    assert await call(redis.commands, "GET", kept) == b"1"

    async def answers() -> bool:
        try:
            return bool(await call(redis.commands, "GET", lost) == b"1")
        except StorageError:
            await asyncio.sleep(0.05)
            return False

    await until(answers, "the replica answers in its place")
    assert await leads(replica)


async def test_a_task_that_waits_for_a_slot_can_be_cancelled(servers: Cluster, writer: Writer) -> None:
    source = await servers.owner("{s}")
    target = next(server for server in servers.masters if server is not source)
    await source.ask("CLUSTER", "SETSLOT", key_slot(b"{s}"), "MIGRATING", await servers.name(target))
    task = asyncio.create_task(writer.tokens("a"))
    await until(lambda: _turned_away(servers), "the append has been turned away")
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def _turned_away(servers: Cluster) -> bool:
    """Whether a script of ours has answered TRYAGAIN."""
    stats = [await server.redis.info("errorstats") for server in servers.masters]
    return any("errorstat_TRYAGAIN" in found for found in stats)
