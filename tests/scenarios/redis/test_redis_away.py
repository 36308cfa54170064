"""Redis does not answer for a while: everybody waits, nothing is lost and nothing is done twice."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay import embedded
from tests.fakes.provider import Script
from tests.scenarios.browser import chromium, client_page
from tests.scenarios.client import Client, check
from tests.scenarios.processes import until
from tests.scenarios.world import World, world

TOKENS = [f"w{number} " for number in range(200)]


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[World]:
    """A world with a server of its own, which may be frozen."""
    with embedded.embedded_server() as url:
        async with world(url, tmp_path) as made:
            yield made


@pytest.mark.slow
async def test_a_frozen_redis_costs_time_but_no_text(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100)
    gateway = await relay.gateway()
    worker = await relay.worker()
    server = (await relay.redis.info("server"))["process_id"]
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count > 20, "20")
        os.kill(server, signal.SIGSTOP)
        try:
            await relay.fake.wait_for(lambda fake: fake.calls[0].finished)
            refused = await client.command(type="submit", session="s", request_id="r2", content="now?")
            assert (refused["code"], refused["retryable"]) == ("unavailable", True)
            stopped = await client.command(type="stop", session="s", generation=generation)
            assert stopped["code"] == "unavailable"
            await until(lambda: worker.logged("flush_retry"), "the worker has noticed")
            assert (await gateway.http("GET", "/readyz"))[0] == 503
            assert (await gateway.http("GET", "/healthz"))[0] == 200
        finally:
            os.kill(server, signal.SIGCONT)
        shown = await client.ended(generation)
        assert shown.end is not None
        # The stop may have been waiting in the frozen server: then it holds, and what is shown is exact all the same.
        assert shown.end["reason"] in ("complete", "stopped")
        check(client, generation, shown.text, shown.end["reason"])
        assert "".join(TOKENS).startswith(shown.text)
        again = await client.submit("now?", "r2")
        relay.fake.script = Script(tokens=["Yes."])
        await client.ended(again)
        assert client.ends[again] == 1
        assert len(client.view.generations) == 2


@pytest.mark.slow
async def test_what_a_page_could_not_send_goes_out_when_redis_is_back(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    server = (await relay.redis.info("server"))["process_id"]
    async with chromium() as browser:
        tab = await client_page(browser, gateway.url + "/healthz")
        await tab.follow("s")
        generation = await tab.ask("s", "Count")
        await tab.shows("s", generation, "".join(TOKENS[:20]))
        os.kill(server, signal.SIGSTOP)
        try:
            await tab.until("sessions.s.degraded")
            await tab.submit("s", "asked", content="And?")
            await tab.run(f"promise('stopped', sessions.s.stop('{generation}'))")
            await tab.until("new Set(frames.filter(({ type }) => type === 'error').map(({ id }) => id)).size === 2")
        finally:
            os.kill(server, signal.SIGCONT)
        assert (await tab.settled("stopped"))["value"]["generation"] == generation
        assert (await tab.ended("s", generation))["state"] == "stopped"
        later = (await tab.settled("asked"))["value"]["generation"]
        await until(lambda: len(relay.fake.calls) == 2, "the model is asked, once")
        relay.fake.release()
        shown = await tab.ended("s", later)
        assert (shown["state"], shown["text"]) == ("complete", "".join(TOKENS))
        assert len(relay.fake.calls) == 2
