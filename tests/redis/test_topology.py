"""Which server is asked: learned at the first use, by whoever answers, and anew only in measure."""

from __future__ import annotations

import asyncio

import pytest

from relay.errors import RelayError, StorageError
from relay.redis.connections import Connections, call, publish_verb
from relay.redis.topology import AGAIN_AFTER_S, SLOTS
from relay.store.requirements import check_requirements
from tests.redis.answering import pong, saying, server_that
from tests.scenarios.processes import free_port

MASTER = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
REPLICA = b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n$9\r\nconnected\r\n:0\r\n"


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].split("/")[0])


def names(url: str) -> bytes:
    """What a Sentinel says of this server."""
    port = str(port_of(url)).encode()
    return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(port), port)


def mode(name: bytes) -> bytes:
    return b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$4\r\nmode\r\n$%d\r\n%s\r\n" % (len(name), name)


def all_slots(host: bytes, port: int) -> bytes:
    return b"*1\r\n*3\r\n:0\r\n:%d\r\n*3\r\n%s:%d\r\n$2\r\nid\r\n" % (SLOTS - 1, host, port)


@pytest.mark.parametrize("hello", [mode(b"standalone"), b"-ERR unknown command 'HELLO'\r\n", b"+OK\r\n"])
async def test_a_server_that_does_not_say_that_it_is_of_a_cluster_is_one_server(hello: bytes) -> None:
    async with server_that(saying(HELLO=hello)) as url:
        redis = Connections(url)
        assert await publish_verb(redis.commands) == "PUBLISH"
        assert await call(redis.commands, "GET", "k") == b"PONG"
        await redis.aclose()


@pytest.mark.parametrize("host", [b"$9\r\n127.0.0.1\r\n", b"$0\r\n\r\n", b"$-1\r\n", b"$1\r\n?\r\n"])
async def test_a_server_of_a_cluster_that_does_not_say_its_host_is_where_it_was_found(host: bytes) -> None:
    async with server_that(saying()) as other:
        slots = all_slots(host, port_of(other))
        async with server_that(saying(HELLO=mode(b"cluster"), CLUSTER=slots, GET=b"+wrong\r\n")) as url:
            redis = Connections(url)
            assert await publish_verb(redis.commands) == "SPUBLISH"
            assert await call(redis.commands, "GET", "k") == b"PONG"
            await redis.aclose()


async def test_a_cluster_without_sharded_pub_sub_is_refused_by_name() -> None:
    answers = {"HELLO": mode(b"cluster"), "CLUSTER": b"", "COMMAND": b"*1\r\n*-1\r\n"}
    async with server_that(lambda r, w: saying(**answers)(r, w)) as url:
        answers["CLUSTER"] = all_slots(b"$9\r\n127.0.0.1\r\n", port_of(url))
        redis = Connections(url)
        with pytest.raises(RelayError, match=r"7\.0 or newer"):
            await check_requirements(redis.commands, "t")
        await redis.aclose()


async def test_an_address_of_a_cluster_at_a_server_that_is_none_is_an_outage_that_says_so() -> None:
    answer = b"-ERR This instance has cluster support disabled\r\n"
    async with server_that(saying(CLUSTER=answer)) as url:
        redis = Connections(url.replace("redis:", "redis+cluster:"))
        with pytest.raises(StorageError, match="cluster support disabled") as error:
            await call(redis.commands, "GET", "k")
        assert error.value.refused is False
        await redis.aclose()


async def test_a_slot_without_a_server_is_an_outage_and_the_others_are_not() -> None:
    answers = {"HELLO": mode(b"cluster"), "CLUSTER": b""}
    async with server_that(lambda r, w: saying(**answers)(r, w)) as url:
        slots = all_slots(b"$9\r\n127.0.0.1\r\n", port_of(url))
        answers["CLUSTER"] = slots.replace(b":%d\r\n" % (SLOTS - 1), b":%d\r\n" % (SLOTS // 2))
        redis = Connections(url)
        answered = [
            await asyncio.gather(call(redis.commands, "GET", f"k{n}"), return_exceptions=True) for n in range(20)
        ]
        outages = [reply for (reply,) in answered if isinstance(reply, StorageError)]
        assert 0 < len(outages) < 20
        assert {error.refused for error in outages} == {False}
        await redis.aclose()


async def test_the_master_is_asked_of_any_sentinel_that_answers() -> None:
    async with (
        server_that(saying(ROLE=MASTER, GET=b"+yes\r\n")) as master,
        server_that(saying(SENTINEL=names(master))) as sentinel,
    ):
        redis = Connections(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port_of(sentinel)}/m")
        assert await call(redis.commands, "GET", "k") == b"yes"
        await redis.aclose()


async def test_what_a_sentinel_names_and_is_no_master_is_not_used() -> None:
    async with (
        server_that(saying(ROLE=REPLICA)) as replica,
        server_that(saying(SENTINEL=names(replica))) as sentinel,
    ):
        redis = Connections(f"redis+sentinel://127.0.0.1:{port_of(sentinel)}/m")
        with pytest.raises(StorageError, match="is no master"):
            await call(redis.commands, "GET", "k")
        await redis.aclose()


async def test_a_service_that_no_sentinel_knows_is_named() -> None:
    async with server_that(saying(SENTINEL=b"*-1\r\n")) as sentinel:
        redis = Connections(f"redis+sentinel://127.0.0.1:{port_of(sentinel)}/mine")
        with pytest.raises(StorageError, match="knows no service mine"):
            await check_requirements(redis.commands, "t")
        await redis.aclose()


async def test_many_that_come_at_once_learn_it_once_and_doubts_are_looked_into_in_measure() -> None:
    asked = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await saying(SENTINEL=names(master))(reader, writer)

    async with server_that(saying(ROLE=MASTER)) as master, server_that(counted) as sentinel:
        redis = Connections(f"redis+sentinel://127.0.0.1:{port_of(sentinel)}/m")
        await asyncio.gather(*(call(redis.commands, "GET", "k") for _ in range(50)))
        assert asked == 1
        loop = asyncio.get_running_loop()
        began = loop.time()
        while asked < 4:
            redis.topology.refresh()
            await asyncio.sleep(0.001)
        assert loop.time() - began >= 2 * AGAIN_AFTER_S
        await redis.aclose()


async def test_a_plain_server_is_never_asked_again() -> None:
    async with server_that(pong) as url:
        redis = Connections(url)
        await call(redis.commands, "PING")
        known = redis.topology.slot_map
        redis.topology.refresh()
        await call(redis.commands, "PING")
        assert redis.topology.slot_map is known
        await redis.aclose()
