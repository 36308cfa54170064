"""A sick provider is not the user's problem: another one answers, and no two texts are ever mixed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.provider import FakeProvider, Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process, until
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(30)]
TEXT = "".join(TOKENS)
HERE = ["Another ", "answer."]


async def both(relay: World, *, provider: str = "anthropic,openai", **settings: Any) -> Process:
    """A worker with two providers: the world's fake is both."""
    keys: dict[str, Any] = {"ANTHROPIC_BASE_URL": relay.fake.anthropic_base_url, "ANTHROPIC_API_KEY": "sk-ant-scenario"}
    return await relay.worker("--metrics-port", "0", provider=provider, **keys, **settings)


def scripts(fake: FakeProvider, **by_api: Script) -> None:
    """What each API answers; requests tell them apart by whether their messages have a model of Anthropic's."""
    fake.script = lambda body: by_api["anthropic" if str(body["model"]).startswith("claude") else "openai"]


async def test_before_the_first_token_the_next_provider_answers_and_nobody_sees_a_restart(relay: World) -> None:
    scripts(relay.fake, anthropic=Script(status=529), openai=Script(tokens=TOKENS))
    gateway, worker = await relay.gateway(), await both(relay)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.ended(generation)
        end = check(client, generation, TEXT)
    assert (end["attempt"], end["provider"]) == (1, "openai")
    states = [frame["state"] for frame in client.frames if frame["type"] == "status"]
    assert states[-2:] == ["thinking", "retrying"]
    assert [call.api for call in relay.fake.calls] == ["anthropic", "openai"]
    assert worker.logged("failover")


async def test_in_mid_answer_the_next_provider_begins_a_new_attempt(relay: World) -> None:
    scripts(relay.fake, anthropic=Script(tokens=TOKENS, cut_after=11), openai=Script(tokens=HERE))
    gateway = await relay.gateway()
    await both(relay)
    async with Client(gateway.url, "s") as client, Client(gateway.url, "s") as late:
        await client.subscribe()
        generation = await client.submit("q")
        await client.ended(generation)
        end = check(client, generation, "".join(HERE))
        assert (end["attempt"], end["provider"]) == (2, "openai")
        restarts = [frame for frame in client.frames if frame["type"] == "restart"]
        assert [(frame["attempt"], frame["reason"]) for frame in restarts] == [(2, "provider_failed")]
        await late.subscribe()
        await late.ended(generation)
        check(late, generation, "".join(HERE))


async def test_where_that_is_not_wished_for_the_answer_fails_with_a_retry_offered(relay: World) -> None:
    scripts(relay.fake, anthropic=Script(tokens=TOKENS, cut_after=11), openai=Script(tokens=HERE))
    gateway = await relay.gateway()
    await both(relay, RELAY_FAILOVER="end")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.ended(generation)
        end = check(client, generation, "".join(TOKENS[:11]), "failed")
    assert (end["error"]["code"], end["error"]["retryable"]) == ("truncated", True)
    assert len(relay.fake.calls) == 1


async def test_one_provider_alone_is_asked_again_before_the_first_token(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS)
    relay.fake.set_script(Script(status=503), times=2)
    gateway = await relay.gateway()
    await relay.worker(RELAY_PROVIDER_RETRY_MS="10")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.ended(generation)
        check(client, generation, TEXT)
    assert len(relay.fake.calls) == 3


@pytest.mark.slow
async def test_a_sick_provider_is_passed_over_and_everybody_can_see_that(relay: World) -> None:
    scripts(relay.fake, anthropic=Script(status=500), openai=Script(tokens=HERE))
    gateway, worker = await relay.gateway(), await both(relay, RELAY_BREAKER_FAILURES="2", RELAY_BREAKER_OPEN_S="600")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        for number in range(4):
            generation = await client.submit("q", f"r{number}")
            await client.ended(generation)
            check(client, generation, "".join(HERE))
    assert [call.api for call in relay.fake.calls].count("anthropic") == 2
    assert worker.logged("breaker_opened")

    async def told() -> bool:
        _, menu, _ = await gateway.http("GET", "/v1/capabilities")
        return {entry["provider"]: entry["state"] for entry in menu["providers"]} == {
            "anthropic": "open",
            "openai": "ready",
        }

    await until(told, "the gateway tells")


async def test_a_stop_while_the_next_try_waits_ends_it_and_nobody_is_asked_again(relay: World) -> None:
    relay.fake.script = Script(status=503)
    gateway = await relay.gateway()
    worker = await relay.worker(RELAY_PROVIDER_RETRY_MS="20000")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await until(lambda: worker.logged("failover"), "the pause")
        await client.stop(generation)
        await client.ended(generation)
        check(client, generation, "", "stopped")
        await until(lambda: worker.logged("let_go"), "the worker lets go")
    assert len(relay.fake.calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_a_provider_that_is_asked_for_by_name_is_not_replaced(relay: World, provider: str) -> None:
    scripts(relay.fake, anthropic=Script(status=400), openai=Script(status=400))
    gateway = await relay.gateway()
    await both(relay)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q", provider=provider)
        await client.ended(generation)
        end = check(client, generation, "", "failed")
    assert (end["error"]["code"], end["provider"]) == ("provider_error", provider)
    assert [call.api for call in relay.fake.calls] == [provider]
