"""Submits and stops: sent until they are answered, and never taken for another one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relay.client import Answer, Disconnected, Item, Relay, RequestRefused, Text, connect
from relay.client.backoff import Backoff
from relay.client.constants import SHARED
from tests.client.scripted import Peer, Scripted
from tests.protocol.logs import Story, message


@contextlib.asynccontextmanager
async def asking(
    gateway: Scripted, answer_within_s: float = 10, **fields: Any
) -> AsyncIterator[tuple[Relay, asyncio.Task[Answer], Peer]]:
    """(relay, submitting, peer): a submit is under way, its session followed."""
    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(gateway.greeted())
        async with connect(gateway.url, answer_within_s=answer_within_s) as relay:
            peer = await greeting
            submitting = asyncio.create_task(relay.submit("s", "q", **fields))
            try:
                yield relay, submitting, peer
            finally:
                submitting.cancel()
                await asyncio.gather(submitting, return_exceptions=True)


async def completed(peer: Peer, submitting: asyncio.Task[Answer], text: str = "Hello") -> None:
    """Let the answer g1 run its course; it is the text that the submit's Answer gives."""
    story = Story("g1")
    answer = await submitting
    for seq, body in enumerate([message("g1"), story.tokens([text]), story.end()], 1):
        await peer.live(seq, body)
    assert [item.text async for item in answer if isinstance(item, Text)] == [text]


async def test_a_submit_follows_first_and_says_what_it_was_given(gateway: Scripted) -> None:
    async with asking(gateway, queue="fast", model="m") as (_, submitting, peer):
        assert (await peer.subscribed())["from"] == "live"
        command = await peer.accepted()
        assert {name: command[name] for name in ("session", "content", "queue", "model")} == {
            "session": "s", "content": "q", "queue": "fast", "model": "m",
        }  # fmt: skip
        assert command["request_id"].startswith("r_")
        await completed(peer, submitting)


@pytest.mark.parametrize(
    ("told", "names"), [({}, ()), ({"ignored": None}, ()), ({"ignored": ["temperature"]}, ("temperature",))]
)
async def test_an_answer_says_which_fields_of_its_submit_were_not_understood(
    gateway: Scripted, told: dict[str, Any], names: tuple[str, ...]
) -> None:
    async with asking(gateway, temperature=0.5) as (_, submitting, peer):
        await peer.subscribed()
        await peer.accepted(**told)
        assert (await submitting).ignored == names


async def test_a_submit_that_is_never_answered_is_sent_again_with_its_request_id(gateway: Scripted) -> None:
    async with asking(gateway, answer_within_s=0.1) as (_, submitting, peer):
        await peer.subscribed()
        first = await peer.command("submit")
        assert await peer.command("submit") == first
        await peer.close(1012)
        again = await gateway.greeted()
        await again.subscribed()
        assert await again.accepted(duplicate=True) == first
        await completed(again, submitting)


async def test_events_may_come_before_their_accepted(gateway: Scripted) -> None:
    async with asking(gateway) as (_, submitting, peer):
        await peer.subscribed()
        command = await peer.command("submit")
        story = Story("g1")
        for seq, body in enumerate([message("g1"), story.tokens(["Hello"]), story.end()], 1):
            await peer.live(seq, body)
        await peer.send(type="accepted", id=command["id"], session="s", generation="g1", duplicate=False)
        answer = await submitting
        assert [item.text async for item in answer if isinstance(item, Text)] == ["Hello"]


async def test_a_submit_refused_for_now_is_sent_again_in_time(gateway: Scripted) -> None:
    async with asking(gateway) as (_, submitting, peer):
        await peer.subscribed()
        command = await peer.command("submit")
        at = asyncio.get_running_loop().time()
        await peer.send(
            type="error", id=command["id"], code="unavailable", message="Later.", retryable=True, retry_after_s=0.2
        )
        assert await peer.accepted() == command
        assert asyncio.get_running_loop().time() - at >= 0.2
        await completed(peer, submitting)


@pytest.mark.usefixtures("longest_waits")
async def test_those_that_are_refused_at_once_do_not_come_again_at_once(gateway: Scripted) -> None:
    async with asking(gateway) as (_, submitting, peer):
        await peer.subscribed()
        command = await peer.command("submit")
        at = asyncio.get_running_loop().time()
        await peer.send(
            type="error", id=command["id"], code="unavailable", message="Later.", retryable=True, retry_after_s=0.1
        )
        assert await peer.accepted() == command
        assert asyncio.get_running_loop().time() - at >= 0.1 + 0.25
        await completed(peer, submitting)


@pytest.mark.usefixtures("longest_waits")
def test_the_wait_beyond_what_was_asked_for_ends_at_three_seconds() -> None:
    backoff = Backoff()
    assert [backoff.next(SHARED.refused_most_s) for _ in range(6)] == [0.25, 0.5, 1, 2, 3, 3]


async def test_a_submit_refused_for_good_is_an_error_with_the_gateways_words(gateway: Scripted) -> None:
    async with asking(gateway) as (_, submitting, peer):
        await peer.subscribed()
        command = await peer.command("submit")
        await peer.send(type="error", id=command["id"], code="conflict", message="Another one.", retryable=False)
        with pytest.raises(RequestRefused) as raised:
            await submitting
        assert (raised.value.code, raised.value.message, raised.value.retryable) == ("conflict", "Another one.", False)
        await peer.command("unsubscribe")


async def test_what_can_never_be_taken_is_refused_without_asking(gateway: Scripted) -> None:
    async with asking(gateway) as (relay, _, peer):
        await peer.subscribed()
        await peer.accepted()
        with pytest.raises(RequestRefused, match="too_large"):
            await relay.submit("s", "x" * 1000)
        for session in ("", "..", "a/b", "x" * 129):
            with pytest.raises(RequestRefused, match="bad_session"):
                await relay.submit(session, "q")
            with pytest.raises(RequestRefused, match="bad_session"):
                relay.follow(session)
        await peer.silent(0.1)


async def test_a_request_of_ones_own_is_followed_from_the_start_for_it_may_be_an_earlier_one(gateway: Scripted) -> None:
    async with asking(gateway, request_id="mine") as (_, submitting, peer):
        command = await peer.subscribed()
        assert "from" not in command
        assert (await peer.accepted(duplicate=True))["request_id"] == "mine"
        await completed(peer, submitting)


async def test_an_earlier_request_in_a_session_that_is_followed_live_is_read_from_the_start(gateway: Scripted) -> None:
    async with asking(gateway) as (relay, _, peer):
        await peer.subscribed()
        await peer.accepted("g0")
        submitting = asyncio.create_task(relay.submit("s", "q", request_id="mine"))
        await peer.accepted(duplicate=True)
        await submitting
        rebuilt = await peer.command("subscribe")
        assert rebuilt.get("cursor") is None
        await peer.send(
            type="subscribed", id=rebuilt["id"], session="s", epoch="e1", at=0, head=3, recovered=False, active=[]
        )
        await completed(peer, submitting)


async def test_a_cancelled_submit_is_not_sent_again(gateway: Scripted) -> None:
    async with asking(gateway, answer_within_s=0.1) as (_, submitting, peer):
        await peer.subscribed()
        await peer.command("submit")
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)
        await peer.command("unsubscribe")
        await peer.silent(0.3)


async def test_a_stop_is_sent_until_it_is_answered(gateway: Scripted) -> None:
    async with asking(gateway) as (relay, _, peer):
        await peer.subscribed()
        await peer.accepted()
        stopping = asyncio.create_task(relay.stop("s", "g1"))
        first = await peer.command("stop")
        peer.cut()
        again = await gateway.greeted()
        await again.subscribed()
        assert await again.command("stop") == first
        await again.send(type="error", id=first["id"], code="unavailable", message="Later.", retryable=True)
        assert await again.command("stop") == first
        await again.send(type="stopping", id=first["id"], session="s", generation="g1", already_ended=True)
        assert await stopping is True


async def test_a_stop_of_what_is_not_there_is_refused(gateway: Scripted) -> None:
    async with asking(gateway) as (relay, submitting, peer):
        await peer.subscribed()
        await peer.accepted()
        answer = await submitting
        stopping = asyncio.create_task(answer.stop())
        command = await peer.command("stop")
        assert (command["session"], command["generation"]) == ("s", "g1")
        await peer.send(type="error", id=command["id"], code="not_found", message="No such one.", retryable=False)
        with pytest.raises(RequestRefused, match="not_found"):
            await stopping
        assert relay.connected


async def test_an_answer_whose_connection_is_closed_gives_what_has_come_and_then_the_error(gateway: Scripted) -> None:
    async with asking(gateway) as (_, submitting, peer):
        await peer.subscribed()
        await peer.accepted()
        answer = await submitting
        await peer.live(1, Story("g1").tokens(["Hel"]))
        await peer.close(4503)
        seen: list[Item] = []
        with pytest.raises(Disconnected):
            await _take_all(answer, seen)
        assert Text("Hel") in seen
        with pytest.raises(Disconnected):
            await answer.end()


async def test_a_hundred_submits_at_once_each_get_their_own_answer(gateway: Scripted) -> None:
    async def serve(peer: Peer) -> None:
        async for raw in peer.websocket:
            command = _decoded(raw)
            reply = {"id": command["id"], "session": command["session"]}
            if command["type"] == "subscribe":
                fields = {"epoch": "e1", "at": 0, "head": 0, "recovered": False, "active": []}
                await peer.send(**{"type": "subscribed", **reply, **fields})
            elif command["type"] == "submit":
                name = f"g-{command['content']}"
                await peer.send(**{"type": "accepted", **reply, "generation": name, "duplicate": False})

    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(gateway.greeted())
        async with connect(gateway.url) as relay:
            serving = group.create_task(serve(await greeting))
            answers = await asyncio.gather(*(_ask(relay, number) for number in range(100)))
            assert [answer.generation for answer in answers] == [f"g-{number}" for number in range(100)]
            serving.cancel()


async def _take_all(answer: Answer, into: list[Item]) -> None:
    async for item in answer:
        into.append(item)


async def _ask(relay: Relay, number: int) -> Answer:
    return await relay.submit(f"s{number % 10}", str(number))


def _decoded(raw: str | bytes) -> dict[str, str]:
    decoded: dict[str, str] = json.loads(raw)
    return decoded


async def test_half_a_character_is_refused_and_not_sent(gateway: Scripted) -> None:
    """As Python gives a terminal's argument that is not UTF-8."""
    async with asking(gateway, system="caf\udce9") as (relay, submitting, peer):
        await peer.subscribed()
        with pytest.raises(RequestRefused, match="not valid Unicode") as refused:
            await submitting
        assert refused.value.code == "bad_message"
        assert relay.connected


UNREAD: dict[str, Any] = {"type": "error", "code": "bad_message", "message": "No.", "retryable": False}


@pytest.mark.parametrize("named", [{}, {"session": "s"}])
async def test_a_refusal_that_names_no_command_is_of_the_one_that_waits(
    gateway: Scripted, named: dict[str, str]
) -> None:
    async with asking(gateway) as (_, submitting, peer):
        await peer.subscribed()
        await peer.command("submit")
        await peer.send(**UNREAD, **named)
        with pytest.raises(RequestRefused, match="bad_message: No"):
            await asyncio.wait_for(submitting, 10)


@pytest.mark.parametrize("other", [{"code": "token_expired"}, {"session": "t"}])
async def test_a_refusal_that_is_of_no_command_settles_none(gateway: Scripted, other: dict[str, str]) -> None:
    async with asking(gateway) as (_, submitting, peer):
        await peer.subscribed()
        command = await peer.command("submit")
        await peer.send(**{**UNREAD, **other})
        await peer.send(type="accepted", id=command["id"], session="s", generation="g1", duplicate=False)
        await completed(peer, submitting)


async def test_of_several_that_wait_the_one_that_could_not_be_read_is_found_and_the_others_are_taken(
    gateway: Scripted,
) -> None:
    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(gateway.greeted())
        async with connect(gateway.url) as relay:
            peer = await greeting
            stops = {name: asyncio.create_task(relay.stop("s", name)) for name in ("a", "bad", "c", "worse", "e")}
            for _ in stops:
                await peer.command("stop")
            await peer.send(**UNREAD)
            await peer.send(**UNREAD)
            again = await gateway.greeted()
            for name in ("a", "bad", "c", "worse", "e", "f"):
                command = await again.command("stop")
                assert command["generation"] == name
                if name == "a":
                    stops["f"] = asyncio.create_task(relay.stop("s", "f"))
                await again.silent(0.05)
                if name in ("bad", "worse"):
                    await again.send(**UNREAD)
                else:
                    await again.send(type="stopping", id=command["id"], session="s", already_ended=False)
            outcomes = dict(zip(stops, await asyncio.gather(*stops.values(), return_exceptions=True), strict=True))
            refused = {name for name, outcome in outcomes.items() if isinstance(outcome, RequestRefused)}
            assert refused == {"bad", "worse"}
            assert {outcome for name, outcome in outcomes.items() if name not in refused} == {False}


async def test_while_one_is_looked_for_a_refusal_for_now_lets_the_next_one_go(gateway: Scripted) -> None:
    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(gateway.greeted())
        async with connect(gateway.url) as relay:
            peer = await greeting
            stops = [asyncio.create_task(relay.stop("s", name)) for name in ("a", "bad")]
            for _ in stops:
                await peer.command("stop")
            await peer.send(**UNREAD)
            again = await gateway.greeted()
            later = {"code": "unavailable", "message": "Later.", "retryable": True, "retry_after_s": 3600}
            await again.send(type="error", id=(await again.command("stop"))["id"], **later)
            assert (await again.command("stop"))["generation"] == "bad"
            await again.send(**UNREAD)
            with pytest.raises(RequestRefused):
                await stops[1]
            stops[0].cancel()
            await asyncio.gather(*stops, return_exceptions=True)
