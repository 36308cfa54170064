"""A whole relay as the user of Redis that docs/operations.md describes, and what it says where a right is missing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.script import Script
from tests.scenarios import acl_user
from tests.scenarios.client import Client, check
from tests.scenarios.processes import until
from tests.scenarios.redis_servers import Server, running
from tests.scenarios.world import World, world

TOKENS = [f"wörd {number} " for number in range(30)]
TEXT = "".join(TOKENS)
HOLD_AT = 10


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Server]:
    async with running([Server(tmp_path)]) as (server,):
        await server.ask(*acl_user.user_line())
        yield server


@pytest.fixture
async def relay(redis: Server, tmp_path: Path) -> AsyncIterator[World]:
    """A world whose processes are that user; the test itself may do everything."""
    directory = tmp_path / "world"
    directory.mkdir()
    async with world(redis.url, directory) as made:
        made.prefix = acl_user.PREFIX
        made.redis_url = redis.url.replace("://", f"://{acl_user.USER}:{acl_user.PASSWORD}@")
        made.settings = {"RELAY_LEASE_S": "1", "RELAY_MAX_TAKEOVERS": "2"}
        yield made


async def held(relay: World, client: Client) -> str:
    """An answer that stands still in its middle."""
    relay.fake.script = Script(tokens=TOKENS, hold_before=HOLD_AT)
    generation = await client.submit("q", f"r{len(client.view.generations)}")
    await client.until(
        lambda: generation in client.view.generations and client.shown(generation).count == HOLD_AT, "half of it"
    )
    return generation


@pytest.mark.slow
async def test_everything_works_as_that_user_and_nothing_is_tried_that_it_may_not_do(
    relay: World, redis: Server
) -> None:
    gateway, worker = await relay.gateway(), await relay.worker()
    async with Client(gateway.url, "s") as client, Client(gateway.url, "s", "msgpack") as other:
        for viewer in (client, other):
            await viewer.subscribe()

        resumed = await held(relay, client)
        await client.cut()
        relay.fake.release()
        await client.connect()
        assert (await client.subscribe())["recovered"] is True
        for viewer in (client, other):
            await viewer.ended(resumed)
            check(viewer, resumed, TEXT)

        stopped = await held(relay, client)
        await other.stop(stopped)
        await client.ended(stopped)
        check(client, stopped, "".join(TOKENS[:HOLD_AT]), "stopped")

        taken_over = await held(relay, client)
        await worker.kill()
        relay.fake.script = Script(tokens=TOKENS)
        worker = await relay.worker()
        await client.ended(taken_over)
        check(client, taken_over, TEXT, voided=["".join(TOKENS[:HOLD_AT])])

        dead = await held(relay, client)
        await worker.kill()
        worker = await relay.worker()
        await client.until(
            lambda: client.shown(dead).attempt == 2 and client.shown(dead).count == HOLD_AT, "half of it again"
        )
        await worker.kill()
        await client.ended(dead)
        assert (client.shown(dead).end or {})["error"]["code"] == "worker_lost"

        relay.fake.script = Script(tokens=TOKENS)
        worker = await relay.worker()
        for arguments in (["--json"], ["list", "default", "--json"], ["retry", dead]):
            command = relay.spawn("relay", "queue", *arguments)
            assert await command.exited() == 0, command.stderr.read_text()
        again = command.stdout.read_text().strip()
        await client.ended(again)
        check(client, again, TEXT)

        assert (await gateway.http("GET", "/v1/sessions/s"))[0] == 200
        assert (await gateway.http("DELETE", "/v1/sessions/s"))[0] == 204
        await client.until(lambda: "unsubscribed" in client.kinds, "its viewers are told")
    denied = await redis.ask("ACL", "LOG")
    assert denied == [], json.dumps(denied, default=str)
    for process in (gateway, worker):
        assert process.logged("policy_hidden") is None


@pytest.mark.slow
async def test_a_right_that_is_missing_is_named_by_what_starts_and_by_what_runs(relay: World, redis: Server) -> None:
    gateway = await relay.gateway()
    gateway.expected = {"not_ready"}
    await redis.ask("ACL", "SETUSER", acl_user.USER, "-hset")
    for command in (["relay", "gateway", "--port", "0"], ["relay-worker"], ["relay", "dev", "--port", "0"]):
        process = relay.spawn(*command)
        assert await process.exited() == 2
        (line,) = process.stderr.read_text().splitlines()
        assert line == (
            f"{command[0]}: This Redis cannot be used: the Redis user lacks a right: "
            "+hset (docs/operations.md, A user of its own)"
        )
    async with Client(gateway.url, "s") as client:
        refused = await client.command(type="submit", session="s", content="q", request_id="r")
        assert refused["code"] == "unavailable"
    told = await until(lambda: gateway.logged("unavailable"), "it is told")
    assert "lacks a right: +hset (" in told["detail"]
    await redis.ask(*acl_user.user_line())
    await redis.ask("ACL", "SETUSER", acl_user.USER, "-zrange")
    process = relay.spawn("relay", "queue")
    assert await process.exited() == 2
    assert process.stderr.read_text() == (
        "relay: Redis refuses this (ZRANGE: the Redis user lacks a right: +zrange (docs/operations.md, A user of its"
        " own))\n"
    )
