"""The Python client against a real gateway and worker: the text stays exact whatever breaks on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from relay.client import Answer, Applied, Change, End, RequestRefused, Restart, Text, connect
from relay.protocol.view import FrameDict
from tests.fakes.script import Script
from tests.scenarios.processes import until
from tests.scenarios.wire import Wire
from tests.scenarios.world import World

TOKENS = [f"wörd{number} 😀\n" for number in range(200)]
TEXT = "".join(TOKENS)


async def read(answer: Answer) -> tuple[str, int, str]:
    """(the text since the last Restart, Restarts, the end's reason)."""
    text, restarts = "", 0
    async with asyncio.timeout(30):
        async for item in answer:
            match item:
                case Text(more):
                    text += more
                case Restart():
                    text, restarts = "", restarts + 1
                case End(frame):
                    return text, restarts, frame["reason"]
    raise AssertionError("an answer ends with its End")


async def grown(answer: Answer, count: int) -> None:
    """Wait until so many tokens are shown."""
    await until(lambda: answer.shown is not None and answer.shown.count >= count, f"{count} tokens")


async def test_a_question_gets_its_answer(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS)
    gateway = await relay.gateway()
    await relay.worker()
    async with connect(gateway.url) as client:
        answer = await client.submit("s", "q")
        assert await read(answer) == (TEXT, 0, "complete")
        assert not answer.duplicate
        with pytest.raises(RequestRefused, match="not_found"):
            await client.stop("s", "nobody")


async def test_the_text_is_exact_through_kill_9_and_restart_of_the_gateway(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=100)
    gateway = await relay.gateway()
    await relay.worker()
    async with connect(gateway.url) as client:
        answer = await client.submit("s", "q")
        reading = asyncio.create_task(read(answer))
        await grown(answer, 100)
        await gateway.kill()
        relay.fake.release()
        await relay.gateway("--port", gateway.url.rpartition(":")[2])
        assert await reading == (TEXT, 0, "complete")
    assert len(relay.fake.calls) == 1


async def test_the_text_is_exact_through_socket_after_cut_socket(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=100)
    gateway = await relay.gateway()
    await relay.worker()
    async with Wire(gateway.url) as wire, connect(wire.url) as client:
        answer = await client.submit("s", "q")
        reading = asyncio.create_task(read(answer))
        for count in range(20, 200, 20):
            await grown(answer, count)
            assert wire.cut()
        assert await reading == (TEXT, 0, "complete")
    assert len(relay.fake.calls) == 1


async def test_a_submit_cut_off_again_and_again_makes_one_answer(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS)
    gateway = await relay.gateway()
    await relay.worker()
    async with Wire(gateway.url) as wire, connect(wire.url) as client:
        submitting = asyncio.create_task(client.submit("s", "q"))
        for _ in range(5):
            await asyncio.sleep(0.02)
            wire.cut()
        assert await read(await submitting) == (TEXT, 0, "complete")
    assert len(relay.fake.calls) == 1


async def test_a_worker_that_dies_is_a_restart(relay: World) -> None:
    relay.settings = {"RELAY_LEASE_S": "1"}
    relay.fake.script = Script(tokens=TOKENS, hold_before=50)
    gateway = await relay.gateway()
    doomed = await relay.worker()
    async with connect(gateway.url) as client:
        answer = await client.submit("s", "q")
        reading = asyncio.create_task(read(answer))
        await grown(answer, 50)
        await doomed.kill()
        relay.fake.script = Script(tokens=["Another."])
        await relay.worker()
        assert await reading == ("Another.", 1, "complete")


async def test_a_stopped_answer_has_ended_when_stop_returns(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=50)
    gateway = await relay.gateway()
    await relay.worker()
    async with connect(gateway.url) as client:
        answer = await client.submit("s", "q")
        await grown(answer, 50)
        assert not await answer.stop()
        assert await read(answer) == ("".join(TOKENS[:50]), 0, "stopped")
        assert await answer.stop()


async def test_a_saved_cursor_gives_exactly_the_rest_and_many_sessions_share_a_connection(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS)
    gateway = await relay.gateway()
    await relay.worker()
    async with connect(gateway.url) as client:
        answers = [await client.submit(f"s{number % 5}", f"q{number}") for number in range(10)]
        assert [await read(answer) for answer in answers] == [(TEXT, 0, "complete")] * 10
        events: list[FrameDict] = []
        async with client.follow("s0") as following:
            while sum(event["type"] == "end" for event in events) < 1:
                events += await applied(anext(following))
            cursor = following.cursor
    assert cursor is not None
    async with connect(gateway.url) as client, client.follow("s0", cursor=cursor) as following:
        assert following.view.epoch == cursor.epoch
        while following.cursor is not None and following.cursor.seq < following.view.last:
            events += await applied(anext(following))
        more = await client.submit("s0", "one more")
        while sum(event["type"] == "end" for event in events) < 3:
            events += await applied(anext(following))
        assert await read(more) == (TEXT, 0, "complete")
    assert [event["content"] for event in events if event["type"] == "message"] == ["q0", "q5", "one more"]
    for generation in {event["generation"] for event in events}:
        parts = [event for event in events if event["generation"] == generation and event["type"] == "tokens"]
        assert "".join(part["text"] for part in parts) == TEXT


async def applied(step: Awaitable[Change]) -> list[FrameDict]:
    change = await asyncio.wait_for(step, 20)
    assert isinstance(change, Applied), change
    return change.events
