"""An agent over HTTP answers whole, and is shown as any model is: the same bytes, for everybody."""

from __future__ import annotations

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.delivery.test_answers import HARD, HARD_TEXT
from tests.scenarios.world import World

LONG = [f"w{number} " for number in range(400)]


async def test_relay_send_prints_what_an_agent_answered_byte_for_byte(relay: World) -> None:
    relay.fake.script = Script(tokens=HARD)
    gateway = await relay.gateway()
    await relay.worker(provider="agent")
    send = relay.send(gateway, "s", "Something hard")
    assert await send.exited() == 0
    assert send.stdout.read_bytes() == HARD_TEXT.encode()

    call = relay.fake.calls[0]
    assert (call.api, call.headers["authorization"]) == ("agent", "Bearer agent-scenario")
    assert (call.body["session"], call.body["messages"]) == ("s", [{"role": "user", "content": "Something hard"}])
    assert call.body["generation"]


async def test_every_viewer_has_an_agents_long_answer_and_its_finish(relay: World) -> None:
    relay.fake.script = Script(tokens=LONG, usage={"prompt_tokens": 3, "completion_tokens": 400})
    gateway = await relay.gateway()
    await relay.worker(provider="agent")
    async with Client(gateway.url, "s") as first, Client(gateway.url, "s") as second:
        for client in (first, second):
            await client.subscribe()
        generation = await first.submit("Something long")
        for client in (first, second):
            await client.ended(generation)
            check(client, generation, "".join(LONG))
        end = first.shown(generation).end
    assert end is not None
    assert (end["provider"], end["finish"], end["usage"]) == (
        "agent",
        "stop",
        {"input_tokens": 3, "output_tokens": 400},
    )


async def test_an_agent_that_is_silent_fails_at_its_own_deadline(relay: World) -> None:
    relay.fake.script = Script(tokens=["x"], hold_before=0)
    gateway = await relay.gateway()
    await relay.worker(provider="agent", RELAY_AGENT_TIMEOUT_S="0.3")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("Something slow")
        await client.ended(generation)
        end = client.shown(generation).end
    assert end is not None
    assert (end["error"]["code"], end["error"]["retryable"]) == ("provider_timeout", True)
