"""Server-Sent Events against real processes: the same events as over a WebSocket, resumable by id."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.fakes.script import Script
from tests.scenarios import credentials
from tests.scenarios.client import Client, check
from tests.scenarios.event_source import EventSource
from tests.scenarios.processes import until
from tests.scenarios.world import Gateway, World

pytestmark = pytest.mark.also_with_auth

TOKENS = [f"tökén {number} 🙂 " for number in range(200)]
TEXT = "".join(TOKENS)


def _events(gateway: Gateway, query: str = "", session: str = "s") -> str:
    return f"{gateway.url}/v1/sessions/{session}/events{query}"


def _submit(gateway: Gateway, query: str = "", session: str = "s") -> str:
    return f"{gateway.url}/v1/sessions/{session}/generations{query}"


async def test_a_stream_begins_with_a_comment_and_subscribed_and_shows_the_exact_text(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=500)
    gateway = await relay.gateway()
    await relay.worker()
    client = Client(gateway.url, "s")
    async with EventSource(_events(gateway), client) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["x-accel-buffering"] == "no"
        assert "no-transform" in stream.headers["cache-control"]
        assert "content-encoding" not in stream.headers
        await stream.until(lambda: stream.events, "subscribed")
        assert stream.comments
        assert stream.events[0][:2] == (None, "subscribed")
        _, answer, _ = await gateway.http("POST", "/v1/sessions/s/generations", {"content": "Go"})
        generation = answer["generation"]
        await stream.until(lambda: client.ends[generation], "the end")
        check(client, generation, TEXT)
        epoch = client.view.epoch
        for name, _, frame in stream.events:
            assert name == (f"{epoch}:{frame['seq']}" if "seq" in frame else None)
        assert not stream.over.is_set()  # it waits for the next answer


async def test_a_stream_that_is_cut_at_every_few_events_resumes_by_its_last_id(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=300)
    gateway = await relay.gateway()
    await relay.worker()
    client = Client(gateway.url, "s")
    async with EventSource(_events(gateway), client) as first:
        await first.until(lambda: first.events, "subscribed")
        _, answer, _ = await gateway.http("POST", "/v1/sessions/s/generations", {"content": "Go"})
        await first.until(lambda: len(first.events) > 3, "some events")
        last_id = first.last_id
    generation, cuts = answer["generation"], 0
    while not client.ends[generation]:
        cuts += 1
        headers = {"Last-Event-ID": last_id}
        client.view.subscribe()
        # The header wins over the parameter.
        async with EventSource(_events(gateway, "?cursor=nonsense:1"), client, headers=headers) as stream:
            await stream.until(lambda here=stream: len(here.events) > 2 or client.ends[generation], "more events")
            assert stream.events[0][2]["recovered"] is True
            last_id = stream.last_id
    assert cuts > 2
    check(client, generation, TEXT)


async def test_a_stream_of_one_generation_shows_nothing_else_and_ends_with_it(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=50)
    gateway = await relay.gateway()
    await relay.worker()
    names = []
    for number in range(3):
        _, answer, _ = await gateway.http("POST", "/v1/sessions/s/generations", {"content": f"Question {number}"})
        names.append(answer["generation"])
    await relay.fake.wait_for(lambda fake: len(fake.calls) == 3 and all(call.held for call in fake.calls))
    client = Client(gateway.url, "s")
    async with EventSource(_events(gateway, f"?generation={names[1]}"), client) as stream:
        await stream.until(lambda: "tokens" in stream.types() or "catchup" in stream.types(), "its text so far")
        relay.fake.release()
        await stream.ended()
    assert client.shown(names[1]).text == TEXT
    assert set(client.view.generations) == {names[1]}
    assert [known["generation"] for known in stream.events[0][2]["active"]] == [names[1]]
    assert [message["content"] for message in client.view.messages] == ["Question 1"]
    assert client.ends[names[1]] == 1

    # Whoever has seen the end is told that there is nothing more; whoever has not gets the rest.
    status, _, _ = await gateway.http("GET", f"/v1/sessions/s/events?generation={names[1]}&cursor={stream.last_id}")
    assert status == 204
    early = next(name for name, _, frame in stream.events if "tökén" in str(frame))
    headers = {"Last-Event-ID": str(early)}
    late = Client(gateway.url, "s")
    async with EventSource(_events(gateway, f"?generation={names[1]}"), late, headers=headers) as rest:
        await rest.ended()
    assert rest.events[0][2]["recovered"] is True
    text = late.shown(names[1]).text
    assert TEXT.endswith(text)
    assert len(text) < len(TEXT)


async def test_a_submit_can_answer_as_a_stream_and_so_can_its_repetition(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    body, headers = {"content": "Go"}, {"Idempotency-Key": "k1"}
    async with EventSource(_submit(gateway), Client(gateway.url, "s"), "POST", body, headers) as hangs_up:
        await hangs_up.until(lambda: "tokens" in hangs_up.types(), "the beginning")
        await relay.fake.wait_for(lambda fake: fake.calls[0].held)
        assert hangs_up.comments
        assert hangs_up.status == 200
    client = Client(gateway.url, "s")
    # It was hung up on, and that stopped nothing. `wait` is ignored, whatever it says.
    async with EventSource(_submit(gateway, "?wait=soon"), client, "POST", body, headers) as again:
        relay.fake.release()
        await again.ended()
    assert len(relay.fake.calls) == 1
    (generation,) = client.view.generations
    check(client, generation, TEXT)
    async with EventSource(_submit(gateway), Client(gateway.url, "s"), "POST", {"content": "X"}, headers) as other:
        await other.ended()
        assert other.status == 409
        assert b"conflict" in other.body


async def test_bad_requests_for_a_stream_are_refused_by_name_and_make_no_session(relay: World) -> None:
    gateway = await relay.gateway()
    for query, status, code in [
        ("?cursor=nonsense", 400, "bad_cursor"),
        ("?cursor=e:-1", 400, "bad_cursor"),
        ("?cursor=:1", 400, "bad_cursor"),
        (f"?cursor=e:{2**53}", 400, "bad_cursor"),
        ("?from=middle", 400, "bad_message"),
        ("?generation=g_unknown", 404, "not_found"),
        ("?generation=%00", 404, "not_found"),
    ]:
        got, body, _ = await gateway.http("GET", f"/v1/sessions/s/events{query}")
        assert (got, body["error"]["code"]) == (status, code), query
    got, body, _ = await gateway.http("GET", "/v1/sessions/bad%20name/events")
    assert (got, body["error"]["code"]) == (400, "bad_session")
    assert (await gateway.http("HEAD", "/v1/sessions/s/events"))[0] == 200
    assert (await gateway.http("GET", "/v1/sessions/s"))[0] == 404


async def test_from_live_brings_only_what_comes(relay: World) -> None:
    gateway = await relay.gateway()
    await relay.worker()
    await gateway.http("POST", "/v1/sessions/s/generations?wait=10", {"content": "Earlier"})
    client = Client(gateway.url, "s")
    client.view.subscribe(start="live")
    async with EventSource(_events(gateway, "?from=live"), client) as stream:
        await stream.until(lambda: stream.events, "subscribed")
        assert stream.events[0][2]["at"] == stream.events[0][2]["head"] > 0
        _, answer, _ = await gateway.http("POST", "/v1/sessions/s/generations", {"content": "Now"})
        await stream.until(lambda: client.ends[answer["generation"]], "the end")
    assert [message["content"] for message in client.view.messages] == ["Now"]


async def test_heartbeats_are_comments_and_a_shutdown_ends_every_stream_at_once(relay: World) -> None:
    gateway = await relay.gateway(RELAY_HEARTBEAT_S="0.2")
    client = Client(gateway.url, "s")
    async with EventSource(_events(gateway), client) as stream:
        await stream.until(lambda: stream.comments.count("heartbeat") >= 2, "heartbeats")
        assert stream.types() == ["subscribed"]
        began = asyncio.get_running_loop().time()
        gateway.signal(signal.SIGTERM)
        await stream.ended()
        assert await gateway.exited() in (0, -signal.SIGTERM)
        assert asyncio.get_running_loop().time() - began < 4
        assert stream.types()[-1] == "draining"
        assert stream.retry == stream.events[-1][2]["reconnect_in_ms"]


@asynccontextmanager
async def _unread(relay: World, gateway: Gateway) -> AsyncIterator[None]:
    """A stream with far more to take than the kernel holds, and nobody who takes it."""
    relay.fake.script = Script(tokens=["x" * 16000] * 200)
    await relay.worker()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]), limit=2**16)
    writer.write(b"GET /v1/sessions/s/events HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n" % credentials.lines())
    await reader.readuntil(b"subscribed")
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(4):
        assert (await gateway.http("POST", "/v1/sessions/s/generations?wait=20", {"content": "Go"}))[0] == 200
    yield
    writer.close()


async def test_a_stream_that_nobody_reads_is_merged_and_in_the_end_cut(relay: World) -> None:
    gateway = await relay.gateway(RELAY_STALL_S="1", RELAY_VIEWER_BUFFER_BYTES="4096")
    async with _unread(relay, gateway):
        await relay.metrics_once(gateway, {"relay_event_streams": 0})


async def test_a_stream_that_nobody_reads_does_not_hold_up_a_shutdown(relay: World) -> None:
    gateway = await relay.gateway()
    async with _unread(relay, gateway):
        began = asyncio.get_running_loop().time()
        gateway.signal(signal.SIGTERM)
        assert await gateway.exited() in (0, -signal.SIGTERM)
        assert asyncio.get_running_loop().time() - began < 4


@pytest.mark.parametrize("wait", ["301", "-1", "x", "", "1e2", "nan"])
async def test_a_wait_that_cannot_be_is_refused_before_anything_is_submitted(relay: World, wait: str) -> None:
    gateway = await relay.gateway()
    status, body, _ = await gateway.http("POST", f"/v1/sessions/s/generations?wait={wait}", {"content": "Go"})
    assert (status, body["error"]["code"]) == (400, "bad_message")
    assert (await gateway.http("GET", "/v1/sessions/s"))[0] == 404


async def test_wait_answers_with_the_ended_generation_or_says_that_it_goes_on(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await relay.gateway()
    await relay.worker()
    path, headers = "/v1/sessions/s/generations?wait=", {"Idempotency-Key": "k"}
    status, running, _ = await gateway.http("POST", path + "0.2", {"content": "Go"}, headers)
    assert status == 504
    error = running["error"]
    assert (error["code"], error["retryable"]) == ("still_running", True)
    waiting = asyncio.create_task(gateway.http("POST", path + "20", {"content": "Go"}, headers))
    await until(lambda: relay.fake.calls and relay.fake.calls[0].held, "the answer is on its way")
    relay.fake.release()
    status, ended, _ = await waiting
    assert status == 200
    assert (ended["generation"], ended["state"], ended["text"]) == (error["generation"], "ended", TEXT)
    assert (ended["reason"], ended["finish"]) == ("complete", "stop")
    assert ended == (await gateway.http("GET", f"/v1/sessions/s/generations/{error['generation']}"))[1]
    # And once more, when there is nothing to wait for.
    assert (await gateway.http("POST", path + "0", {"content": "Go"}, headers))[:2] == (200, ended)


async def test_a_shutdown_does_not_wait_for_who_waits(relay: World) -> None:
    gateway = await relay.gateway()
    waiting = asyncio.create_task(gateway.http("POST", "/v1/sessions/s/generations?wait=300", {"content": "Go"}))
    await until(lambda: relay.redis.hlen(f"{relay.prefix}:q:{{default}}:jobs"), "the job is durable")
    gateway.signal(signal.SIGTERM)
    status, body, _ = await waiting
    assert (status, body["error"]["code"]) == (504, "still_running")
    assert await gateway.exited() in (0, -signal.SIGTERM)
