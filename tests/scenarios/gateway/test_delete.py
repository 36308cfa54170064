"""Deleting a session: what runs ends, what is stored goes, and nothing late brings it back."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.fakes.script import Script
from tests.scenarios.client import Client, check
from tests.scenarios.event_source import EventSource
from tests.scenarios.processes import until
from tests.scenarios.world import World

pytestmark = pytest.mark.also_with_auth

TOKENS = [f"token {number} " for number in range(100)]


async def test_delete_ends_what_runs_tells_every_viewer_and_leaves_nothing(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=30)
    one, two = await relay.gateway(), await relay.gateway()
    await relay.worker()
    async with Client(one.url, "s") as near, Client(two.url, "s") as far:
        await near.subscribe()
        await far.subscribe()
        stream_of = Client(one.url, "s")
        async with EventSource(f"{one.url}/v1/sessions/s/events", stream_of) as stream:
            generation = await near.submit("Go")
            waiting = await far.begin(
                type="submit", session="s", request_id="queued", content="And then?", queue="nobody-serves-it"
            )
            queued = (await waiting)["generation"]
            call = await relay.fake.wait_for(lambda fake: fake.calls and fake.calls[0].held and fake.calls[0])
            assert (await two.http("DELETE", "/v1/sessions/s"))[0] == 204
            await stream.ended()
        assert stream.types()[-1] == "unsubscribed"
        for client in (near, far):
            for name in (generation, queued):
                assert (await client.ended(name)).end["reason"] == "stopped"  # type: ignore[index]
            await client.until(lambda seen=client: seen.unsubscribed == 1, "unsubscribed")
            assert not client.wrong
        await relay.fake.wait_for(lambda _: call.client_gone_at is not None)
        assert (await one.http("GET", "/v1/sessions/s"))[0] == 404
        assert (await one.http("GET", f"/v1/sessions/s/generations/{generation}"))[0] == 404
        assert (await one.http("DELETE", "/v1/sessions/s"))[0] == 204  # again, as after a reply that was lost
        assert (await one.http("DELETE", "/v1/sessions/never"))[0] == 404
        await until(lambda: _only_marks_are_left(relay), "every key is gone")

        # The connections live, and who subscribes again has a new session.
        old_epoch = near.view.epoch
        near.view.forget()
        reply = await near.subscribe()
        assert reply["epoch"] != old_epoch
        assert (reply["at"], reply["head"], reply["active"]) == (0, 0, [])
        relay.fake.script = Script(tokens=TOKENS)
        check(near, await _asked(near, "Again"), "".join(TOKENS))
        assert [message["content"] for message in near.view.messages] == ["Again"]


async def _asked(client: Client, content: str) -> str:
    generation = await client.submit(content, request_id=content)
    await client.ended(generation)
    return generation


async def _only_marks_are_left(relay: World) -> bool:
    return not [key for key in await relay.keys() if ":s:" in key and not key.endswith(":deleted")]


async def test_a_job_whose_session_was_deleted_is_dropped(relay: World) -> None:
    """The deletion could not tidy the queue: its gateway died, or Redis was away for a moment."""
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        generation = await client.submit("Go")
    queue = f"{relay.prefix}:q:{{default}}"
    before = {key: await relay.redis.dump(key) for key in await relay.keys() if key.startswith(queue)}
    assert (await gateway.http("DELETE", "/v1/sessions/s"))[0] == 204
    for key, value in before.items():
        assert value is not None
        await relay.redis.restore(key, 60_000, value, replace=True)
    await relay.worker()
    await until(lambda: _is_empty(relay, f"{queue}:jobs"), "the job is dropped")
    assert (await gateway.http("GET", f"/v1/sessions/s/generations/{generation}"))[0] == 404
    assert (await gateway.http("GET", "/v1/sessions/s"))[0] == 404
    assert not relay.fake.calls


async def _is_empty(relay: World, key: str) -> bool:
    return not await relay.redis.hlen(key)


async def test_a_frozen_worker_of_a_deleted_session_cannot_bring_it_back(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=30)
    gateway = await relay.gateway()
    worker = await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        await client.submit("Go")
        await relay.fake.wait_for(lambda fake: fake.calls and fake.calls[0].held)
        worker.signal(signal.SIGSTOP)
        relay.fake.release()
        assert (await gateway.http("DELETE", "/v1/sessions/s"))[0] == 204
        await client.until(lambda: client.unsubscribed == 1, "unsubscribed")
        worker.signal(signal.SIGCONT)
        await until(lambda: worker.logged("let_go"), "the worker lets go")
        assert (await gateway.http("GET", "/v1/sessions/s"))[0] == 404


async def test_deleting_while_twenty_clients_come_and_go_leaves_nobody_hanging(relay: World) -> None:
    gateway = await relay.gateway()
    await relay.worker()

    async def guest(number: int) -> None:
        async with Client(gateway.url, "s") as client:
            for turn in range(5):
                client.view.forget()
                gone = client.unsubscribed
                reply = await client.command(**client.view.subscribe())
                assert reply["type"] == "subscribed"
                reply = await client.command(
                    type="submit", session="s", request_id=f"{number}-{turn}", content="Go", queue="default"
                )
                if reply["type"] == "error":  # the session went between the two steps of the submit
                    assert (reply["code"], reply["retryable"]) == ("not_found", False), reply
                    continue
                assert reply["type"] == "accepted", reply
                generation = reply["generation"]
                # It ends, or its session goes: one of both must come.
                await client.until(
                    lambda name=generation, before=gone: client.ends[name] or client.unsubscribed > before,
                    "an end or a farewell",
                )

    async def sweeper() -> None:
        for _ in range(30):
            assert (await gateway.http("DELETE", "/v1/sessions/s"))[0] in (204, 404)

    await asyncio.gather(*(guest(number) for number in range(20)), sweeper())


async def test_a_deleted_session_gives_its_place_among_the_subscriptions_back(relay: World) -> None:
    gateway = await relay.gateway(RELAY_MAX_SUBSCRIPTIONS="1")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        assert (await client.command(type="subscribe", session="other"))["code"] == "too_many_subscriptions"
        assert (await gateway.http("DELETE", "/v1/sessions/s"))[0] == 204
        await client.until(lambda: client.unsubscribed == 1, "unsubscribed")
        assert (await client.command(type="subscribe", session="other"))["type"] == "subscribed"
        await relay.metrics_once(gateway, {"relay_subscriptions": 1})


async def test_a_submit_that_returns_after_its_session_was_deleted_asks_nobody(relay: World) -> None:
    here, there = await asyncio.gather(relay.gateway(), relay.gateway())
    await relay.worker()
    body = {"content": "Once", "request_id": "r1"}
    path = "/v1/sessions/s/generations"
    assert (await here.http("POST", f"{path}?wait=20", body))[0] == 200
    assert (await here.http("DELETE", "/v1/sessions/s"))[0] == 204
    for gateway in (here, there):
        for query in ("", "?wait=20"):
            status, reply, _ = await gateway.http("POST", path + query, body)
            assert (status, reply["error"]["code"], reply["error"]["retryable"]) == (404, "not_found", False)
    status, reply, _ = await there.http("POST", f"{path}?wait=20", {"content": "Another", "request_id": "r2"})
    assert (status, reply["reason"]) == (200, "complete")
    assert len(relay.fake.calls) == 2
    assert (await here.http("POST", path, body))[0] == 404
