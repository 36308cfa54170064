"""Connections to Redis that were idle: closed by the server, or dropped without a word; a submit notices neither."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fakes.script import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process, until
from tests.scenarios.proxy import Proxy
from tests.scenarios.redis_servers import Server
from tests.scenarios.world import Gateway, World, world

AT_ONCE = 8
FORGETS_AFTER_S = 3.0  # a worker waits up to 2 s for a job on a connection that is silent meanwhile

Pause = Callable[[], Awaitable[object]]


async def test_a_server_that_closes_idle_connections_costs_no_submit(tmp_path: Path) -> None:
    server = Server(tmp_path, "--timeout", "1")
    await server.start()
    try:
        async with world(server.url, tmp_path) as relay:
            gateway, worker = await asyncio.gather(relay.gateway(), relay.worker())

            async def some_were_closed() -> None:
                before = await _connections(server)
                await until(lambda: _left(server, before), "the server has closed idle connections")

            await _questions_after_pauses(relay, gateway, worker, some_were_closed)
    finally:
        await server.redis.aclose()
        server.kill()


@pytest.mark.slow
async def test_a_firewall_that_drops_idle_connections_without_a_word_costs_no_submit(
    relay: World, proxy: Proxy
) -> None:
    relay.settings = {"RELAY_REDIS_URL": proxy.url}
    proxy.forgets_after_s = FORGETS_AFTER_S
    gateway, worker = await asyncio.gather(relay.gateway(), relay.worker())

    async def some_were_dropped() -> None:
        await until(
            lambda: sum(each.idle_s > FORGETS_AFTER_S for each in proxy.connections) > 1, "some have been idle for long"
        )

    await _questions_after_pauses(relay, gateway, worker, some_were_dropped)
    assert any(connection.dead for connection in proxy.connections)


async def _questions_after_pauses(relay: World, gateway: Gateway, worker: Process, pause: Pause) -> None:
    """So many at once that there are connections which the processes' own rounds do not keep busy."""
    relay.fake.script = Script(tokens=["Hello", " there"])
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(gateway.url, f"s{n}")) for n in range(AT_ONCE)]
        await asyncio.gather(*(client.subscribe() for client in clients))
        for number in range(3):
            asked = await asyncio.gather(*(client.submit("q", f"r{number}") for client in clients))
            await asyncio.gather(*(client.ended(one) for client, one in zip(clients, asked, strict=True)))
            for client, generation in zip(clients, asked, strict=True):
                check(client, generation, "Hello there")
            if number < 2:
                await pause()
    assert len(relay.fake.calls) == 3 * AT_ONCE
    assert gateway.logged("unavailable") is None
    for event in ("flush_retry", "renewal_failed", "job_left"):
        assert worker.logged(event) is None


async def _connections(server: Server) -> set[str]:
    return {str(each["id"]) for each in await server.redis.client_list()}


async def _left(server: Server, before: set[str]) -> bool:
    return bool(before - await _connections(server))
