"""Every crash point of submit, claim and end: no hung and no doubled generation, whoever dies where."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import until
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(30)]
QUICK = {"RELAY_LEASE_S": "1"}


@pytest.fixture(autouse=True)
def _short_leases(relay: World) -> None:
    relay.settings = dict(QUICK)
    relay.fake.script = Script(tokens=TOKENS)


@pytest.mark.parametrize("point", ["submit.looked_up", "submit.enqueued", "submit.admitted"])
async def test_a_gateway_that_dies_in_a_submit_leaves_one_generation_for_the_client_that_asks_again(
    relay: World, point: str
) -> None:
    survivor = await relay.gateway()
    doomed = await relay.gateway(RELAY_CRASH_AT=point)
    async with Client(survivor.url, "s") as client:
        await client.subscribe()
        with pytest.raises(OSError):
            await doomed.http("POST", "/v1/sessions/s/generations", {"content": "q", "request_id": "r1"})
        assert await doomed.exited() == -signal.SIGKILL
        generation = await client.submit("q", "r1")
        await relay.worker()
        await client.ended(generation)
        check(client, generation, "".join(TOKENS))
        await _queue_is_empty(relay)
        assert len(client.view.generations) == 1
        assert len(relay.fake.calls) == 1


@pytest.mark.parametrize("point", ["submit.enqueued", "submit.admitted"])
async def test_a_job_that_was_durable_is_answered_even_if_nobody_asks_again(relay: World, point: str) -> None:
    survivor = await relay.gateway()
    doomed = await relay.gateway(RELAY_CRASH_AT=point)
    await relay.worker()
    async with Client(survivor.url, "s") as client:
        await client.subscribe()
        with pytest.raises(OSError):
            await doomed.http("POST", "/v1/sessions/s/generations", {"content": "q"})
        await client.until(lambda: bool(client.view.generations), "the generation")
        (generation,) = client.view.generations
        await client.ended(generation)
        check(client, generation, "".join(TOKENS))
        assert len(relay.fake.calls) == 1


@pytest.mark.parametrize("point", ["claim.taken", "claim.admitted", "claim.claimed", "end.appended", "end.done"])
async def test_a_worker_that_dies_around_claim_or_end_leaves_one_end_and_no_second_answer(
    relay: World, point: str
) -> None:
    gateway = await relay.gateway()
    doomed = await relay.worker(RELAY_CRASH_AT=point)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        assert await doomed.exited() == -signal.SIGKILL
        await relay.worker()
        await client.ended(generation)
        check(client, generation, "".join(TOKENS))
        await _queue_is_empty(relay)
        assert len(relay.fake.calls) == 1, "the provider is asked again only for what was lost"
        assert client.shown(generation).attempt == 1


async def test_a_worker_killed_in_mid_answer_is_replaced_and_its_text_is_void(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=11)
    gateway = await relay.gateway()
    doomed = await relay.worker()
    async with Client(gateway.url, "s") as client, Client(gateway.url, "s") as late:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 11, "11")
        await doomed.kill()
        relay.fake.script = Script(tokens=["Another ", "answer."])
        await relay.worker()
        await client.ended(generation)
        end = check(client, generation, "Another answer.")
        assert end["attempt"] == 2
        restarts = [frame for frame in client.frames if frame["type"] == "restart"]
        assert [(frame["attempt"], frame["generation"]) for frame in restarts] == [(2, generation)]
        await late.subscribe()
        await late.ended(generation)
        check(late, generation, "Another answer.")
        assert [event["type"] for event in late.frames[1]["events"]] == ["message", "restart", "tokens", "end"]
        assert len(relay.fake.calls) == 2


async def test_a_frozen_worker_that_wakes_up_bounces_off_the_fence(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=11)
    gateway = await relay.gateway()
    frozen = await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 11, "11")
        frozen.signal(signal.SIGSTOP)
        relay.fake.script = Script(tokens=TOKENS, tokens_per_second=50)
        await relay.worker()
        await client.until(lambda: client.shown(generation).attempt == 2 and client.shown(generation).count > 0, "2nd")
        frozen.signal(signal.SIGCONT)
        relay.fake.release()
        let_go = await until(lambda: frozen.logged("let_go"), "the frozen worker lets go")
        assert let_go["why"] == "stale", "refused for its fence, before anything else is looked at"
        await client.ended(generation)
        end = check(client, generation, "".join(TOKENS))
        assert end["attempt"] == 2


@pytest.mark.slow
async def test_an_answer_that_loses_every_worker_fails_with_a_sentence(relay: World) -> None:
    relay.settings |= {"RELAY_MAX_TAKEOVERS": "2"}
    relay.fake.script = Script(tokens=TOKENS, hold_before=3)
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        for attempt in (1, 2):
            worker = await relay.worker()
            await client.until(
                lambda attempt=attempt: (
                    generation in client.view.generations
                    and client.shown(generation).attempt == attempt
                    and client.shown(generation).count == 3
                ),
                f"attempt {attempt}",
            )
            await worker.kill()
        await relay.worker()
        await client.ended(generation)
        end = check(client, generation, "".join(TOKENS[:3]), "failed")
        assert end["error"]["code"] == "worker_lost"
        await _queue_is_empty(relay)


@pytest.mark.slow
async def test_an_answer_whose_worker_died_and_that_nobody_takes_over_ends(relay: World) -> None:
    relay.settings |= {"RELAY_QUEUE_TIMEOUT_S": "0.5"}
    relay.fake.script = Script(tokens=TOKENS, hold_before=3)
    gateway = await relay.gateway()
    worker = await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 3, "3")
        await worker.kill()
        await client.ended(generation)
        end = check(client, generation, "".join(TOKENS[:3]), "failed")
        assert end["error"]["code"] == "no_worker"
        await _queue_is_empty(relay)


async def test_a_queue_without_a_worker_ends_its_answers(relay: World) -> None:
    relay.settings |= {"RELAY_QUEUE_TIMEOUT_S": "0.5"}
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q", queue="nobody")
        await client.ended(generation)
        end = check(client, generation, "", "failed")
        assert end["error"]["code"] == "no_worker"


async def test_a_worker_that_is_told_to_go_hands_over_at_once(relay: World) -> None:
    relay.settings |= {"RELAY_LEASE_S": "600", "RELAY_GRACE_S": "0"}
    relay.fake.script = Script(tokens=TOKENS, hold_before=4)
    gateway = await relay.gateway()
    going = await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 4, "4")
        going.signal(signal.SIGTERM)
        assert await going.exited() == 0
        relay.fake.script = Script(tokens=TOKENS)
        await relay.worker()
        await client.ended(generation)
        assert check(client, generation, "".join(TOKENS))["attempt"] == 2


async def test_a_worker_that_is_told_twice_does_not_wait_for_its_grace(relay: World) -> None:
    relay.settings |= {"RELAY_LEASE_S": "600", "RELAY_GRACE_S": "600"}
    relay.fake.script = Script(tokens=TOKENS, hold_before=4)
    gateway = await relay.gateway()
    going = await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 4, "4")
        going.signal(signal.SIGTERM)
        await until(lambda: going.logged("finishing"), "it waits for its answer")
        assert going.code is None
        going.signal(signal.SIGTERM)
        assert await going.exited() == 0
        relay.fake.script = Script(tokens=TOKENS)
        await relay.worker()
        await client.ended(generation)
        assert check(client, generation, "".join(TOKENS))["attempt"] == 2


async def test_a_gateway_killed_under_its_viewers_costs_them_nothing_but_time(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    doomed, survivor = await relay.gateway(), await relay.gateway()
    await relay.worker()
    client = Client(doomed.url, "s")
    await client.connect()
    await client.subscribe()
    generation = await client.submit("q")
    await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 10, "10")
    await doomed.kill()
    await client.disconnect()
    client.url = survivor.url.replace("http", "ws", 1) + "/v1/ws"
    relay.fake.release()
    async with client:
        assert (await client.subscribe())["recovered"] is True
        await client.ended(generation)
        check(client, generation, "".join(TOKENS))


async def _queue_is_empty(relay: World) -> None:
    """Wait until nothing of any job is left, entries and pending lists included."""
    queue = f"{relay.prefix}:q:{{default}}"

    async def left() -> list[int]:
        counts = [await relay.redis.zcard(f"{queue}:open"), await relay.redis.hlen(f"{queue}:jobs")]
        return [*counts, await relay.redis.hlen(f"{queue}:entries"), await relay.redis.xlen(f"{queue}:normal")]

    async with asyncio.timeout(15):
        while any(await left()):  # noqa: ASYNC110 - Redis has no event for this
            await asyncio.sleep(0.02)
