"""What networks do between worker and provider: one clear end, and the text exact as far as it came."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.provider import Script
from tests.scenarios.processes import TIMEOUT_S, Process
from tests.scenarios.viewers import watching
from tests.scenarios.wire import Wire
from tests.scenarios.world import World

TOKENS = [f"w{number} 🙂 " for number in range(250)]
TEXT = "".join(TOKENS)


@pytest.fixture
async def wire(relay: World) -> AsyncIterator[Wire]:
    """Between the worker and the fake provider."""
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100)
    async with Wire(relay.fake.openai_base_url) as wire:
        yield wire


async def behind(wire: Wire, relay: World, **settings: Any) -> Process:
    return await relay.worker(OPENAI_BASE_URL=wire.url, **settings)


def come(wire: Wire) -> str:
    """The text of every whole event that has passed."""
    events = re.findall(rb"data: (\{.*?\})\n\n", bytes(wire.record))
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.slow
async def test_without_a_fault_the_wire_makes_no_difference(relay: World, wire: Wire, chance: random.Random) -> None:
    gateway, _ = await relay.gateway(), await behind(wire, relay)
    async with watching(relay, gateway.url, chance) as viewers:
        await viewers.saw(await viewers.ask(gateway), TEXT)
    assert come(wire) == TEXT


@pytest.mark.parametrize("reset", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_a_stream_that_is_cut_behind_any_byte_is_truncated(
    relay: World, wire: Wire, chance: random.Random, reset: bool
) -> None:
    gateway, _ = await relay.gateway(), await behind(wire, relay)
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await viewers.steady.shows(generation, chance.randrange(1, 100))
        async with wire.cutting("down", chance.randrange(1, 10_000), reset=reset) as planned:
            await planned.struck.wait()
        await viewers.steady.ended(generation)
        shown = viewers.steady.client.shown(generation).text
        # A reset may take what had arrived and was not read yet.
        assert come(wire).startswith(shown) if reset else shown == come(wire)
        end = await viewers.saw(generation, shown, "failed")
    assert (end["error"]["code"], end["error"]["retryable"]) == ("truncated", True)
    assert len(relay.fake.calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["black_hole", "stalled_down"])
async def test_a_stream_that_falls_silent_fails_at_its_deadline(
    relay: World, wire: Wire, chance: random.Random, fault: str
) -> None:
    gateway, _ = await relay.gateway(), await behind(wire, relay, RELAY_TOKEN_TIMEOUT_S="2")
    async with watching(relay, gateway.url, chance) as viewers:
        generation = await viewers.ask(gateway)
        await viewers.steady.shows(generation, chance.randrange(1, 150))
        async with wire.black_hole() if fault == "black_hole" else wire.stalled("down"):
            end = await viewers.saw(generation, come(wire), "failed")
    assert (end["error"]["code"], end["error"]["retryable"]) == ("provider_timeout", True)
    assert len(relay.fake.calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["reset", "cut", "black_hole", "away"])
async def test_a_provider_that_is_lost_before_its_first_byte_fails_without_text(
    relay: World, wire: Wire, chance: random.Random, fault: str
) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_status=True)
    settings = {"RELAY_PROVIDER_RETRIES": "0"}
    if fault == "black_hole":
        settings["RELAY_FIRST_TOKEN_TIMEOUT_S"] = "5"
    gateway, _ = await relay.gateway(), await behind(wire, relay, **settings)
    async with watching(relay, gateway.url, chance) as viewers:
        if fault == "away":
            async with wire.away():
                end = await viewers.saw(await viewers.ask(gateway, provider_is_asked=False), "", "failed")
        else:
            generation = await viewers.ask(gateway)
            await relay.fake.wait_for(lambda fake: fake.calls and fake.calls[0].held, TIMEOUT_S)
            if fault == "black_hole":
                async with wire.black_hole():
                    end = await viewers.saw(generation, "", "failed")
            else:
                wire.cut(reset=fault == "reset")
                end = await viewers.saw(generation, "", "failed")
    assert (end["error"]["code"], end["error"]["retryable"]) == ("provider_timeout", True)
    assert len(relay.fake.calls) == (fault != "away")
