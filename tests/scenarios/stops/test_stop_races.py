"""A stop against the next token, and against the end, at every token: one end, the text exact, the stream closed."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.provider import Call, Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process, free_port, until
from tests.scenarios.world import World

TOKENS = [f"w{number} 🙂 " for number in range(8)]
TEXT = "".join(TOKENS)
LAST = len(TOKENS)  # the finish mark; behind it comes what follows it
PLACES = range(LAST + 2)

COMPLETE = 'relay_generations_total{code="",reason="complete"}'
STOPS, LATE = "relay_stop_seconds_count", "relay_tokens_after_stop_total"


async def held(relay: World, client: Client, place: int, request_id: str) -> str:
    """A generation whose viewer shows all that comes before `place`, and whose provider waits there."""
    relay.fake.script = Script(tokens=TOKENS, hold_before=place)
    asked = len(relay.fake.calls)
    generation = await client.submit("q", request_id)
    await relay.fake.wait_for(lambda fake: len(fake.calls) > asked and fake.calls[asked].held, 20)
    if place:
        shown = min(place, LAST)
        await client.until(
            lambda: generation in client.view.generations and client.shown(generation).count == shown, f"{shown} tokens"
        )
    return generation


async def _over(call: Call) -> None:
    await until(lambda: call.client_gone_at or call.finished, "the stream is over")


async def _let_go(worker: Process, generation: str) -> None:
    await until(
        lambda: any(line["event"] == "let_go" and line["generation"] == generation for line in worker.lines()),
        "the worker lets go",
    )


@pytest.mark.parametrize("provider", ["openai", pytest.param("anthropic", marks=pytest.mark.slow)])
async def test_a_stop_between_any_two_tokens_keeps_what_was_shown_and_closes_the_stream(
    relay: World, provider: str
) -> None:
    gateway, worker = await asyncio.gather(
        relay.gateway(), relay.worker("--metrics-port", str(free_port()), provider=provider)
    )
    async with Client(gateway.url, "s") as client, Client(gateway.url, "s") as other:
        await client.subscribe()
        for place in PLACES:
            generation = await held(relay, client, place, f"r{place}")
            assert (await other.stop(generation))["already_ended"] is False
            await client.ended(generation)
            check(client, generation, "".join(TOKENS[:place]), "stopped")
            call = relay.fake.calls[-1]
            await _over(call)
            assert call.client_gone_at is not None, "the provider sees the connection closed"
            await _let_go(worker, generation)
    metrics = await relay.metrics_once(worker, {STOPS: len(PLACES), "relay_generations_running": 0})
    assert metrics[LATE] == 0, "nothing came after a stop"
    assert metrics.get(COMPLETE, 0) == 0
    assert len(relay.fake.calls) == len(PLACES)


@pytest.mark.parametrize("provider", ["openai", pytest.param("anthropic", marks=pytest.mark.slow)])
async def test_a_stop_that_races_with_any_token_and_with_the_end_leaves_one_of_two_outcomes(
    relay: World, provider: str
) -> None:
    gateway, worker = await asyncio.gather(
        relay.gateway(), relay.worker("--metrics-port", str(free_port()), provider=provider)
    )
    reasons, unseen = [], 0
    async with Client(gateway.url, "s") as client, Client(gateway.url, "s") as other:
        await client.subscribe()
        for place in PLACES:
            for stop_goes_first in (True, False):
                generation = await held(relay, client, place, f"r{place}{stop_goes_first}")
                call = relay.fake.calls[-1]
                if stop_goes_first:
                    stopping = await other.begin(type="stop", session="s", generation=generation)
                    call.released.set()
                else:
                    call.released.set()
                    stopping = await other.begin(type="stop", session="s", generation=generation)
                reply = await asyncio.wait_for(stopping, 20)
                end = (await client.ended(generation)).end
                assert end is not None
                text = client.shown(generation).text
                check(client, generation, text, end["reason"])
                assert end["reason"] == ("complete" if reply["already_ended"] else "stopped")
                if end["reason"] == "complete":
                    assert text == TEXT
                else:
                    assert text in ["".join(TOKENS[:count]) for count in range(min(place, LAST), LAST + 1)]
                    await _let_go(worker, generation)
                    unseen += LAST - client.shown(generation).count
                await _over(call)
                reasons.append(end["reason"])
    stopped = reasons.count("stopped")
    metrics = await relay.metrics_once(worker, {STOPS: stopped, "relay_generations_running": 0})
    assert metrics.get(COMPLETE, 0) == len(reasons) - stopped
    assert metrics[LATE] <= unseen
    assert len(relay.fake.calls) == len(reasons)
