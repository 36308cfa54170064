"""A stop really stops: from any device, whatever the worker is doing, and nothing else does."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import until
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(40)]


@pytest.mark.parametrize("provider", ["openai", pytest.param("anthropic", marks=pytest.mark.slow)])
async def test_a_stop_from_a_second_connection_ends_it_and_closes_the_upstream_request(
    relay: World, provider: str
) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateways = [await relay.gateway(), await relay.gateway()]
    await relay.worker(provider=provider)
    async with Client(gateways[0].url, "s") as viewer, Client(gateways[1].url, "s") as other:
        await viewer.subscribe()
        generation = await viewer.submit("q")
        await viewer.until(lambda: generation in viewer.view.generations and viewer.shown(generation).count == 20, "20")
        stopped_at = time.monotonic()
        reply = await other.stop(generation)
        assert (reply["type"], reply["already_ended"]) == ("stopping", False)
        await viewer.ended(generation)
        gone_at = await until(lambda: relay.fake.calls[0].client_gone_at, "the provider sees the connection closed")
        assert gone_at - stopped_at < 0.5
        assert (await other.stop(generation))["already_ended"] is True
        relay.fake.release()
        await viewer.command(type="ping")
        end = check(viewer, generation, "".join(TOKENS[:20]), "stopped")
        assert "error" not in end
        status, body, _ = await gateways[0].http("POST", f"/v1/sessions/s/generations/{generation}/stop")
        assert (status, body["already_ended"]) == (202, True)
        _, snapshot, _ = await gateways[0].http("GET", f"/v1/sessions/s/generations/{generation}")
        assert (snapshot["state"], snapshot["reason"], snapshot["text"]) == ("ended", "stopped", "".join(TOKENS[:20]))
        _, session, _ = await gateways[0].http("GET", "/v1/sessions/s")
        assert session["messages"] == []


async def test_a_stop_before_any_worker_runs_means_that_the_provider_is_never_called(relay: World) -> None:
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        stopped = await client.submit("Never mind", "r1")
        assert (await client.stop(stopped))["already_ended"] is False
        await client.ended(stopped)
        await relay.worker()
        answered = await client.submit("This one", "r2")
        await client.ended(answered)
        check(client, stopped, "", "stopped")
        check(client, answered, "Hello there")
        assert [call.prompt for call in relay.fake.calls] == ["This one"]


@pytest.mark.parametrize("provider", [pytest.param("openai", marks=pytest.mark.slow), "anthropic"])
async def test_a_stop_while_the_provider_is_silent_closes_its_connection(relay: World, provider: str) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_status=True)
    gateway = await relay.gateway()
    await relay.worker(provider=provider)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await relay.fake.wait_for(lambda fake: bool(fake.calls))
        await client.stop(generation)
        await client.ended(generation)
        check(client, generation, "", "stopped")
        await until(lambda: relay.fake.calls[0].client_gone_at, "the provider sees the connection closed")


async def test_a_stop_holds_while_the_worker_is_frozen(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100)
    gateway = await relay.gateway()
    worker = await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count > 3, "4")
        worker.signal(signal.SIGSTOP)
        try:
            await client.stop(generation)
            shown = await client.ended(generation)
            text = shown.text
        finally:
            worker.signal(signal.SIGCONT)
        await until(lambda: relay.fake.calls[0].client_gone_at or relay.fake.calls[0].finished, "the stream is closed")
        await client.command(type="ping")
        check(client, generation, text, "stopped")
        assert len(relay.fake.calls) == 1


async def test_closing_every_tab_stops_nothing(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=5)
    gateway = await relay.gateway(RELAY_FOLLOWER_LINGER_S="0")
    await relay.worker()
    client = Client(gateway.url, "s")
    async with client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 5, "5")
    relay.fake.release()
    await relay.fake.wait_for(lambda fake: fake.calls[0].finished)
    async with client:
        assert (await client.subscribe())["recovered"] is True
        await client.ended(generation)
        check(client, generation, "".join(TOKENS))


async def test_ctrl_c_in_relay_send_stops_the_answer(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await relay.gateway()
    await relay.worker()
    send = relay.send(gateway, "s", "q")
    await until(lambda: send.stdout.read_bytes() == "".join(TOKENS[:10]).encode(), "ten tokens on the terminal")
    send.signal(signal.SIGINT)
    assert await send.exited() == 130
    assert send.stdout.read_bytes() == "".join(TOKENS[:10]).encode()
    await until(lambda: relay.fake.calls[0].client_gone_at, "the provider sees the connection closed")


async def test_stops_racing_with_the_end_leave_exactly_one_end(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS[:12], tokens_per_second=400)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        for number in range(24):
            generation = await client.submit("q", f"r{number}")
            if number % 2:
                wanted = number // 2
                await client.until(
                    lambda g=generation, n=wanted: (
                        g in client.view.generations and (client.shown(g).count >= n or client.shown(g).end)
                    ),
                    "some tokens",
                )
            await asyncio.gather(*(client.stop(generation) for _ in range(3)))
            shown = await client.ended(generation)
            assert shown.end is not None
            check(client, generation, shown.text, shown.end["reason"])
            assert "".join(TOKENS[:12]).startswith(shown.text)
            assert shown.end["reason"] in ("stopped", "complete")
            assert (shown.end["reason"] == "complete") <= (shown.text == "".join(TOKENS[:12]))
