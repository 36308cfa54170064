"""A worker is lost and its provider's call is not: another goes on with the same answer, and nobody sees a restart."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.fakes.provider import Call, Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process, until
from tests.scenarios.world import World

TOKENS = [f"w{number} 🙂 " for number in range(60)]
TEXT = "".join(TOKENS)


@pytest.fixture(autouse=True)
def _in_the_background(relay: World) -> None:
    relay.settings = {"RELAY_OPENAI_BACKGROUND": "true", "RELAY_LEASE_S": "1"}
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)


async def marked(relay: World, generation: str) -> None:
    """Until the log knows by which mark another worker could go on."""
    key = f"{relay.prefix}:s:{{s}}:g:{generation}"

    async def known() -> bool:
        return bool(await relay.redis.hget(key, "mark"))

    await until(known, "the mark is kept")


async def shows(client: Client, generation: str, count: int) -> None:
    await client.until(
        lambda: generation in client.view.generations and client.shown(generation).count >= count, f"{count} tokens"
    )


def killed(worker: Process) -> None:
    worker.signal(signal.SIGKILL)


def told_to_go(worker: Process) -> None:
    worker.signal(signal.SIGTERM)


def frozen(worker: Process) -> None:
    worker.signal(signal.SIGSTOP)


_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "lost",
    [killed, pytest.param(told_to_go, marks=_SLOW), pytest.param(frozen, marks=_SLOW)],
    ids=lambda lost: lost.__name__,
)
async def test_the_answer_goes_on_in_its_attempt_and_the_model_is_asked_once(
    relay: World, lost: Callable[[Process], None]
) -> None:
    gateway = await relay.gateway()
    first = await relay.worker(RELAY_GRACE_S="0")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await shows(client, generation, 20)
        await marked(relay, generation)
        lost(first)
        second = await relay.worker()
        relay.fake.release()
        await client.ended(generation)
        end = check(client, generation, TEXT)
        assert end["attempt"] == 1
        assert "restart" not in [frame["type"] for frame in client.frames]
    assert [call.cancelled_at for call in relay.fake.calls] == [None]
    assert second.logged("resumed")
    if lost is frozen:
        first.signal(signal.SIGCONT)
        await until(lambda: first.logged("let_go"), "the frozen one lets go")


async def test_a_stop_cancels_it_at_the_provider(relay: World) -> None:
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await shows(client, generation, 20)
        await client.stop(generation)
        check(client, generation, "".join(TOKENS[:20]), "stopped")
        call: Call = relay.fake.calls[0]
        await until(lambda: call.cancelled_at, "it is cancelled there")


@pytest.mark.slow
async def test_what_is_forgotten_there_is_asked_again_as_another_attempt(relay: World) -> None:
    gateway = await relay.gateway()
    first = await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await shows(client, generation, 20)
        await marked(relay, generation)
        await first.kill()
        relay.fake.backgrounds.forget()
        relay.fake.script = Script(tokens=["Another ", "answer."])
        await relay.worker()
        await client.ended(generation)
        assert check(client, generation, "Another answer.")["attempt"] == 2
