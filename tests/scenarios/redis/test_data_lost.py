"""What a loss of data looks like from outside, word by word, and the end of what nobody brings back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay import embedded
from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.event_source import EventSource
from tests.scenarios.processes import until
from tests.scenarios.world import Gateway, World, world

TOKENS = [f"w{number} " for number in range(100)]
TEXT = "".join(TOKENS)
LOST_AFTER_S = 3


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[World]:
    """A world with a server of its own, which may be emptied."""
    with embedded.embedded_server() as url:
        async with world(url, tmp_path) as made:
            made.fake.script = Script(tokens=TOKENS, hold_before=50)
            made.settings["RELAY_LOST_AFTER_S"] = str(LOST_AFTER_S)
            yield made


def _count(client: Client, generation: str) -> int:
    return client.shown(generation).count if generation in client.view.generations else 0


async def half_shown(client: Client) -> str:
    await client.subscribe()
    generation = await client.submit("q")
    await client.until(lambda: _count(client, generation) == 50, "half")
    return generation


async def restored(client: Client) -> None:
    await client.until(lambda: client.kinds[-1] == "restored" or "restored" in client.kinds, "restored")


async def test_viewers_are_told_in_this_order_and_everything_is_as_if_nothing_had_been(relay: World) -> None:
    gateway, _ = await relay.gateway(), await relay.worker()
    async with Client(gateway.url, "s") as client:
        generation = await half_shown(client)
        before, shown = client.view.epoch, len(client.kinds)
        await relay.redis.flushall()
        await client.until(lambda: client.view.epoch != before and _count(client, generation) == 50, "half, again")
        await restored(client)
        kinds = client.kinds[shown:]
        assert [kind for kind in kinds if kind in ("degraded", "subscribed", "restored")] == [
            "degraded",
            "subscribed",
            "restored",
        ]
        assert any(kind in ("tokens", "catchup") for kind in kinds[: kinds.index("restored")])
        relay.fake.release()
        await client.ended(generation)
        check(client, generation, TEXT)
        assert [message["content"] for message in client.view.messages] == ["q"]
        assert len(relay.fake.calls) == 1
        assert await client.submit("q") == generation  # a submit that is tried again finds it
    status, found, _ = await gateway.http("GET", f"/v1/sessions/s/generations/{generation}")
    assert (status, found["text"], found["reason"], found["message"]["content"]) == (200, TEXT, "complete", "q")
    assert all(ttl > 0 for ttl in (await relay.ttls()).values())


@pytest.mark.slow
async def test_an_answer_whose_worker_died_with_the_data_has_one_clear_end_at_every_gateway(relay: World) -> None:
    gateway, second, worker = await relay.gateway(), await relay.gateway(), await relay.worker()
    async with Client(gateway.url, "s") as client, Client(second.url, "s") as other:
        await other.subscribe()
        generation = await half_shown(client)
        await other.until(lambda: _count(other, generation) == 50, "half")
        await worker.kill()
        began = time.monotonic()
        await relay.redis.flushall()
        for one in (client, other):
            end = (await one.ended(generation)).end
            took_s = time.monotonic() - began
            assert end is not None
            assert (end["error"]["code"], end["error"]["retryable"]) == ("storage", True)
            assert took_s < LOST_AFTER_S + 10  # by the look at an open answer, not by that at an idle session, 20 s
            check(one, generation, "", "failed")
            await restored(one)
    status, found, _ = await gateway.http("GET", f"/v1/sessions/s/generations/{generation}")
    assert (status, found["state"], found["error"]["code"]) == (200, "ended", "storage")


@pytest.mark.slow
async def test_a_queued_answer_that_only_redis_knew_has_its_end_even_if_nobody_watches_any_more(relay: World) -> None:
    gateway = await relay.gateway(RELAY_FOLLOWER_LINGER_S="0")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations, "queued")
        await relay.redis.flushall()
        await client.until(lambda: "degraded" in client.kinds, "degraded")
    async with Client(gateway.url, "s") as later:
        await later.subscribe()
        await later.ended(generation)
        check(later, generation, "", "failed")


async def waits(gateway: Gateway, generation: str) -> tuple[int, str]:
    body = {"content": "q", "request_id": "r1"}
    status, found, _ = await gateway.http("POST", "/v1/sessions/s/generations?wait=20", body)
    return status, found.get("text", "")


@pytest.mark.slow
async def test_who_waits_by_http_or_streams_one_answer_gets_it_all_the_same(relay: World) -> None:
    gateway, _ = await relay.gateway(), await relay.worker()
    async with Client(gateway.url, "s") as client:
        generation = await half_shown(client)
        waiting = asyncio.create_task(waits(gateway, generation))
        follower = Client(gateway.url, "s")
        path = f"{gateway.url}/v1/sessions/s/events?generation={generation}"
        async with EventSource(path, follower) as stream:
            await stream.until(lambda: "catchup" in stream.types() or "tokens" in stream.types(), "text")
            before = client.view.epoch
            await relay.redis.flushall()
            await client.until(lambda: client.view.epoch != before, "another life")
            relay.fake.release()
            await stream.ended()
            assert follower.shown(generation).text == TEXT
            assert follower.shown(generation).end is not None
        assert await waiting == (200, TEXT)
    assert len(relay.fake.calls) == 1


async def test_a_stop_between_the_loss_and_the_rebuild_holds_and_closes_the_upstream_request(relay: World) -> None:
    gateway, _ = await relay.gateway(), await relay.worker(RELAY_LEASE_S="6")
    async with Client(gateway.url, "s") as client:
        generation = await half_shown(client)
        await relay.redis.flushall()
        reply = await client.stop(generation)
        assert (reply["type"], reply["already_ended"]) == ("stopping", False)
        end = (await client.ended(generation)).end
        assert end is not None
        assert end["reason"] == "stopped"
        await relay.fake.wait_for(lambda fake: fake.calls[0].client_gone_at)
        assert client.ends[generation] == 1
        assert (await client.stop(generation))["already_ended"] is True


@pytest.mark.slow
async def test_a_delete_between_the_loss_and_the_rebuild_holds(relay: World) -> None:
    gateway, worker = await relay.gateway(), await relay.worker(RELAY_LEASE_S="6")
    async with Client(gateway.url, "s") as client:
        await half_shown(client)
        await relay.redis.flushall()
        assert (await gateway.http("DELETE", "/v1/sessions/s"))[0] == 204
        await client.until(lambda: client.unsubscribed == 1, "unsubscribed")
        await relay.fake.wait_for(lambda fake: fake.calls[0].client_gone_at)
        await until(lambda: worker.logged("let_go"), "the worker lets go")
    assert (await gateway.http("GET", "/v1/sessions/s"))[0] == 404


@pytest.mark.slow
async def test_an_answer_that_no_queue_knows_of_any_more_is_ended_by_who_follows_it(relay: World) -> None:
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations, "queued")
        await relay.redis.delete(*[key for key in await relay.keys() if ":q:" in key])
        end = (await client.ended(generation)).end
        assert end is not None
        assert (end["reason"], end["error"]["code"]) == ("failed", "storage")
