"""The proxy's faults are what they say: otherwise the scenarios behind it prove nothing."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest

from relay.errors import StorageError
from relay.redis.connections import Connections, call
from relay.store.keys import Keys
from relay.store.session.session_log import SessionLog
from tests.scenarios.proxy import APPEND, Proxy
from tests.store.in_memory import Writer, admitted_and_claimed, whole_log


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
async def redis(proxy: Proxy) -> AsyncIterator[Connections]:
    redis = Connections(proxy.url)
    yield redis
    await redis.aclose()


@pytest.fixture
async def writer(redis: Connections) -> Writer:
    keys = Keys(f"p{secrets.token_hex(4)}")
    log = SessionLog(redis.commands, redis.append, keys, session_ttl_s=60, max_generations=200, max_requests=1000)
    return await admitted_and_claimed(log)


async def texts(writer: Writer) -> list[str]:
    return [event["text"] for event in await whole_log(writer.log) if event["type"] == "tokens"]


async def test_without_a_fault_everything_passes(proxy: Proxy, writer: Writer) -> None:
    await writer.status("thinking")  # this server has learned the script now
    seen = proxy.seen[APPEND]
    assert (await writer.tokens("日\r\n", "b")).what == "written"
    assert await texts(writer) == ["日\r\nb"]
    assert proxy.seen[APPEND] == seen + 1


async def test_an_append_that_fails_has_not_landed_and_one_whose_reply_is_lost_has(
    proxy: Proxy, writer: Writer
) -> None:
    async with proxy.failing(1):
        with pytest.raises(StorageError) as failed:
            await writer.tokens("a")
        assert proxy.faults_left == 0
    assert await texts(writer) == []
    writer.n, writer.written = 0, {"tokens": [], "reasoning": []}
    async with proxy.losing_replies(1):
        with pytest.raises(StorageError) as lost:
            await writer.tokens("b")
    assert await texts(writer) == ["b"]
    assert (failed.value.refused, lost.value.refused) == (False, False)


async def test_only_appends_that_are_too_large_are_refused_and_the_connection_stays(
    proxy: Proxy, writer: Writer
) -> None:
    async with proxy.refusing(larger_than_bytes=2000):
        with pytest.raises(StorageError) as refused:
            await writer.tokens("x" * 2000)
        assert refused.value.refused
        assert (await writer.end("failed")).what == "behind"
        writer.n, writer.written = 0, {"tokens": [], "reasoning": []}
        assert (await writer.tokens("x")).what == "written"
    assert await texts(writer) == ["x"]


async def test_away_refuses_connections_and_its_end_lets_them_in_again(proxy: Proxy, redis: Connections) -> None:
    await call(redis.commands, "PING")
    async with proxy.away():
        for _ in range(3):
            with pytest.raises(StorageError):
                await call(redis.commands, "PING")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(proxy.url.rsplit(":")[-1].split("/")[0]))
    await call(redis.commands, "PING")


async def test_what_was_sent_while_it_was_frozen_arrives_when_nobody_waits_any_more(
    proxy: Proxy, writer: Writer
) -> None:
    await writer.tokens("first")  # so that there is a connection: one that is still to be made sends nothing
    async with proxy.frozen():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await writer.tokens("late")
    async with asyncio.timeout(10):
        while await texts(writer) != ["first", "late"]:
            pass


async def test_a_cut_is_for_once_and_slowness_goes_both_ways(proxy: Proxy, redis: Connections) -> None:
    await call(redis.commands, "PING")
    proxy.cut()
    with pytest.raises(StorageError):
        await call(redis.commands, "PING")
    await call(redis.commands, "PING")
    async with proxy.slow(0.1):
        before = time.monotonic()
        await call(redis.commands, "PING")
        assert time.monotonic() - before >= 0.2
