"""An agent over HTTP answers whole, and is shown as any model is: the same bytes, for everybody."""

from __future__ import annotations

from typing import Any

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.delivery.test_answers import HARD, HARD_TEXT
from tests.scenarios.world import Gateway, World

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
    await relay.worker(provider="agent", RELAY_OPTIONS='{"agent": {"temperature": 0.9, "effort": "low"}}')
    async with Client(gateway.url, "s") as first, Client(gateway.url, "s", "msgpack") as second:
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
        assert relay.fake.calls[0].body["options"] == {"temperature": 0.9, "effort": "low"}
        await options_reach_the_agent(relay, gateway, first, second)


async def options_reach_the_agent(relay: World, gateway: Gateway, first: Client, second: Client) -> None:
    """Over each transport; what is not known of them is named, and what cannot be is refused."""
    assert all(client.welcome["features"] == ["options"] for client in (first, second))
    path, as_stream = "/v1/sessions/s/generations", {"Accept": "text/event-stream"}
    asked: dict[str, Any] = {"content": "Briefly", "request_id": "r2", "options": {"stop": "END", "temperature": 1}}
    submit = {"type": "submit", "session": "s", **asked}
    generation = await first.submit(**asked)
    await first.ended(generation)
    assert relay.fake.calls[1].body["options"] == {"temperature": 1, "stop": ["END"], "effort": "low"}

    same = {"temperature": 1.0, "stop": ["END"], "seed": None, "top_k": 40}
    accepted = {"session": "s", "generation": generation, "duplicate": True, "ignored": ["options.top_k"]}
    again = await second.command(**submit | {"options": same})
    assert {name: again[name] for name in accepted} == accepted
    assert (await gateway.http("POST", path, asked | {"options": same}))[:2] == (202, accepted)
    _, stream, _ = await gateway.http("POST", path, asked | {"options": same}, as_stream)
    assert '"ignored":["options.top_k"]' in stream

    other, bad = {"stop": "END", "temperature": 1.5}, {"temperature": 2.5}
    for options, status, code in ((other, 409, "conflict"), (bad, 400, "bad_message")):
        for client in (first, second):
            assert (await client.command(**submit | {"options": options}))["code"] == code
        for headers in ({}, as_stream):
            found, body, _ = await gateway.http("POST", path, asked | {"options": options}, headers)
            assert (found, body["error"]["code"]) == (status, code)
    assert body["error"]["message"].startswith("options.temperature: ")
    assert len(relay.fake.calls) == 2


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
