"""The contract's rules for one session: gaps, doubled frames, wrong checksums, rebuilds; what a reader sees of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from relay import timeouts
from relay.client import (
    Answer,
    AnswerLost,
    Applied,
    Cursor,
    End,
    Following,
    Item,
    Lost,
    Rebuilt,
    Relay,
    RequestRefused,
    Restart,
    SessionDeleted,
    Status,
    Text,
    connect,
)
from relay.client.subscription import Subscription
from relay.protocol.view import FrameDict
from tests.client.scripted import Peer, Scripted
from tests.protocol.logs import Body, Story, message
from tests.scenarios.processes import until

ACTIVE = {"generation": "g1", "attempt": 1, "state": "streaming"}


@contextlib.asynccontextmanager
async def asked(gateway: Scripted) -> AsyncIterator[tuple[Relay, Answer, Peer, Story]]:
    """(relay, answer, peer, story): g1 was asked for in session s; seqs 1 and 2 have come."""
    story = Story("g1")

    async def begin() -> Peer:
        peer = await gateway.greeted()
        await peer.subscribed()
        await peer.accepted()
        await peer.live(1, message("g1"))
        await peer.live(2, story.status("queued"))
        return peer

    async with asyncio.TaskGroup() as group:
        beginning = group.create_task(begin())
        async with connect(gateway.url) as relay:
            answer = await relay.submit("s", "q")
            yield relay, answer, await beginning, story


@contextlib.asynccontextmanager
async def connected(gateway: Scripted) -> AsyncIterator[tuple[Relay, Peer]]:
    greeting = asyncio.create_task(gateway.greeted())
    async with connect(gateway.url) as relay:
        yield relay, await greeting


async def upto(answer: Answer, text: str) -> list[Item]:
    """The items until the texts since the last Restart are `text`."""
    items: list[Item] = []
    async with asyncio.timeout(10):
        while joined(items) != text:
            items.append(await anext(answer))
    return items


async def rest(answer: Answer) -> list[Item]:
    async with asyncio.timeout(10):
        return [item async for item in answer]


async def applied(following: Following) -> Applied:
    change = await asyncio.wait_for(anext(following), 10)
    assert isinstance(change, Applied), change
    return change


def joined(items: list[Item]) -> str:
    text = ""
    for item in items:
        text = "" if isinstance(item, Restart) else text + item.text if isinstance(item, Text) else text
    return text


def restarts(items: list[Item]) -> int:
    return sum(isinstance(item, Restart) for item in items)


def wrong_end(story: Story) -> FrameDict:
    end: FrameDict = msgspec.json.decode(story.end())
    return {**end, "crc32": end["crc32"] ^ 1}


# Order


async def test_doubled_frames_change_nothing(gateway: Scripted) -> None:
    async with asked(gateway) as (_, answer, peer, story):
        hello, rest_of_it, end = story.tokens(["Hel"]), story.tokens(["lo"]), story.end()
        for seq, body in [(3, hello), (3, hello), (2, hello), (4, rest_of_it), (3, hello), (5, end), (5, end)]:
            await peer.live(seq, body)
        items = await rest(answer)
        assert (joined(items), restarts(items)) == ("Hello", 0)


async def test_a_gap_is_asked_for_with_the_cursor_and_what_comes_meanwhile_is_dropped(gateway: Scripted) -> None:
    async with asked(gateway) as (_, answer, peer, story):
        first, lost, third = story.tokens(["a"]), story.tokens(["b"]), story.tokens(["c"])
        await peer.live(3, first)
        await peer.live(5, third)
        await peer.live(6, story.end())
        command = await peer.subscribed()
        assert command["cursor"] == {"epoch": "e1", "seq": 3}
        await peer.catchup(4, 5, lost, third)
        await peer.live(6, story.end())
        items = await rest(answer)
        assert (joined(items), restarts(items)) == ("abc", 0)


@pytest.mark.usefixtures("longest_waits")
async def test_gaps_without_end_are_asked_for_ever_more_slowly(gateway: Scripted) -> None:
    async with asked(gateway) as (_, _, peer, story):
        body = story.tokens(["x"])
        at = []
        for _ in range(4):
            await peer.live(9, body)
            await peer.subscribed()
            at.append(asyncio.get_running_loop().time())
        gaps = [later - earlier for earlier, later in pairwise(at)]
        assert all(gap >= bound for gap, bound in zip(gaps, [0.5, 1, 2], strict=True))


async def test_a_subscribe_that_nobody_answers_is_sent_again(gateway: Scripted) -> None:
    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(gateway.greeted())
        async with connect(gateway.url, answer_within_s=0.1) as relay:
            entering = group.create_task(relay.follow("s").__aenter__())
            peer = await greeting
            await peer.command("subscribe")
            await peer.subscribed()
            await entering
            await peer.silent(0.3)


# Proof


async def test_a_wrong_checksum_is_mended_by_a_rebuild_and_nothing_is_given_twice(gateway: Scripted) -> None:
    async with asked(gateway) as (_, answer, peer, story):
        await peer.live(3, story.tokens(["Hel", "lo"]))
        assert restarts(await upto(answer, "Hello")) == 0
        await peer.live(4, wrong_end(story))
        command = await peer.subscribed()
        assert command.get("cursor") is None
        await peer.catchup(1, 4, message("g1"), Story("g1").tokens(["Hel", "lo"]), story.end())
        items = await rest(answer)
        assert (joined(items), restarts(items)) == ("", 0)
        assert isinstance(items[-1], End)


async def test_a_text_that_was_wrong_begins_again_when_it_is_rebuilt(gateway: Scripted) -> None:
    async with asked(gateway) as (_, answer, peer, story):
        await peer.live(3, Story("g1").tokens(["Hexlo"]))
        await upto(answer, "Hexlo")
        right = story.tokens(["Hello"])
        await peer.live(4, story.end())
        await peer.subscribed()
        await peer.catchup(1, 4, message("g1"), right, story.end())
        items = await rest(answer)
        assert (joined(items), restarts(items)) == ("Hello", 1)


async def test_a_rebuild_begins_at_the_beginning_also_where_the_session_was_joined_live(gateway: Scripted) -> None:
    """From live on, the end that did not prove, and the text before it, would never come again."""
    async with asked(gateway) as (_, answer, peer, story):
        await peer.live(3, Story("g1").tokens(["Hexlo"]))
        await upto(answer, "Hexlo")
        story.tokens(["Hello"])
        await peer.live(4, story.end())
        assert (await peer.subscribed()).get("from", "start") == "start"


@pytest.mark.usefixtures("longest_waits")
async def test_a_log_whose_own_checksum_is_wrong_is_asked_for_three_times_and_then_shown(gateway: Scripted) -> None:
    async with asked(gateway) as (relay, answer, peer, story):
        body = story.tokens(["Hello"])
        await peer.live(3, body)
        await peer.live(4, wrong_end(story))
        for _ in range(3):
            command = await peer.subscribed()
            assert command.get("cursor") is None
            await peer.live(1, message("g1"))
            await peer.live(2, story.status("queued"))
            await peer.live(3, body)
            await peer.live(4, wrong_end(story))
        items = await rest(answer)
        assert (joined(items), restarts(items)) == ("Hello", 0)
        assert (await peer.command("unsubscribe"))["session"] == "s"
        assert relay.connected


# Rebuilds


async def test_an_unasked_subscribed_takes_effect_at_once(gateway: Scripted) -> None:
    async with asked(gateway) as (_, answer, peer, story):
        await peer.live(3, story.tokens(["Hel"]))
        await upto(answer, "Hel")
        await peer.send(type="subscribed", session="s", epoch="e2", at=0, head=0, recovered=False, active=[])
        assert await anext(answer) == Status("interrupted")
        again = Story("g1")
        await peer.live(1, again.tokens(["He"]))
        await peer.live(2, again.tokens(["llo"]))
        await peer.live(3, again.end())
        items = await rest(answer)
        assert (joined(items), restarts(items)) == ("lo", 0)


async def test_an_answer_that_nobody_brings_back_or_ends_is_lost_in_the_end(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateways that followed it are gone with the data: no other knows that it is to be ended."""
    monkeypatch.setattr("relay.client.connection.DEFAULT_LOST_AFTER_S", 0.1)
    monkeypatch.setattr("relay.client.missing.EXTRA_WAIT_S", 0)
    async with asked(gateway) as (_, answer, peer, story):
        await peer.live(3, story.tokens(["Hel"]))
        await upto(answer, "Hel")
        await peer.send(type="subscribed", session="s", epoch="e2", at=0, head=0, recovered=False, active=[])
        assert await anext(answer) == Status("interrupted")
        with pytest.raises(AnswerLost):
            await anext(answer)
        with pytest.raises(AnswerLost):
            await answer.end()


async def test_an_answer_that_lies_in_the_socket_is_not_lost_however_long_we_were_busy(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.client.connection.DEFAULT_LOST_AFTER_S", 0.3)
    monkeypatch.setattr("relay.client.missing.EXTRA_WAIT_S", 0.3)
    async with asked(gateway) as (_, answer, peer, story):
        await peer.live(3, story.tokens(["Hel"]))
        await upto(answer, "Hel")
        await peer.send(type="subscribed", session="s", epoch="e2", at=0, head=0, recovered=False, active=[])
        assert await anext(answer) == Status("interrupted")
        reading = asyncio.create_task(rest(answer))
        await asyncio.sleep(0)
        again = Story("g1")
        for seq, body in enumerate((again.tokens(["He"]), again.tokens(["llo"]), again.end()), 1):
            await peer.live(seq, body)
        time.sleep(1)  # noqa: ASYNC251 - it is the loop that is to be blocked
        assert joined(await reading) == "lo"


async def test_what_was_deleted_while_we_were_away_is_lost_in_the_end(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.client.connection.DEFAULT_LOST_AFTER_S", 0.1)
    async with followed(gateway) as (_, following, peer):
        await peer.live(1, Story("g1").tokens(["Hel"]))
        assert isinstance(await anext(following), Applied)
        await peer.send(type="subscribed", session="s", epoch="e2", at=0, head=0, recovered=False, active=[])
        assert await anext(following) == Rebuilt("e2", 0, 0)
        assert following.view.interrupted | following.view.lost == {"g1"}
        await until(lambda: following.view.lost == {"g1"}, "it is lost")
        assert following.view.interrupted == set()
        await peer.live(1, Story("g1").tokens(["Hello"]))
        assert await anext(following) == Lost(("g1",))
        assert isinstance(await anext(following), Applied)
        assert following.view.lost == set()


@pytest.mark.parametrize("hindrance", ["disconnected", "degraded", "asking again"])
async def test_time_in_which_nothing_can_be_heard_does_not_count_against_an_answer(hindrance: str) -> None:
    channel = Subscription("s", start="start", cursor=None, answer_within_s=10, lost_after_s=lambda: 3600)

    def subscribed(epoch: str) -> None:
        frame = {"type": "subscribed", "session": "s", "epoch": epoch, "at": 0, "head": 0, "recovered": False}
        channel.handle_frame({**frame, "active": [], "id": msgspec.json.decode(channel.subscribe(0.0))["id"]})

    channel.connected()
    subscribed("e1")
    channel.handle_frame({"session": "s", "seq": 1, **msgspec.json.decode(Story("g1").tokens(["Hel"]))})
    subscribed("e2")
    assert channel._missing.due is not None
    match hindrance:
        case "disconnected":
            channel.lost()
        case "degraded":
            channel.handle_frame({"type": "degraded", "session": "s"})
        case _:
            channel.handle_frame({"session": "s", "seq": 9, **msgspec.json.decode(Story("g2").tokens(["gap"]))})
    assert channel._missing.due is None, "nothing counts meanwhile"
    channel.connected()
    subscribed("e3")
    again = channel._missing.due
    assert again is not None
    assert again - timeouts.now() > 3600, "it has all of its time once more"
    channel.close()
    assert channel._missing.due is None


async def test_a_following_is_told_to_forget_and_its_cursor_is_of_the_new_life(gateway: Scripted) -> None:
    async with followed(gateway) as (_, following, peer):
        await peer.live(1, message("g1"))
        assert isinstance(await anext(following), Applied)
        assert following.cursor == Cursor("e1", 1)
        await peer.send(type="subscribed", session="s", epoch="e2", at=0, head=1, recovered=False, active=[])
        await peer.live(1, message("g2"))
        assert await anext(following) == Rebuilt("e2", 0, 1)
        assert following.cursor == Cursor("e2", 0)
        applied = await anext(following)
        assert isinstance(applied, Applied)
        assert applied.events[0]["generation"] == "g2"
        assert following.cursor == Cursor("e2", 1)


@contextlib.asynccontextmanager
async def followed(
    gateway: Scripted, cursor: Cursor | None = None, **reply: Any
) -> AsyncIterator[tuple[Relay, Following, Peer]]:
    """(relay, following, peer) of session s."""

    async def begin() -> Peer:
        peer = await gateway.greeted()
        await peer.subscribed(**reply)
        return peer

    async with asyncio.TaskGroup() as group:
        beginning = group.create_task(begin())
        async with connect(gateway.url) as relay, relay.follow("s", cursor=cursor) as following:
            yield relay, following, await beginning


async def test_a_saved_cursor_goes_on_in_the_middle_of_an_answer(gateway: Scripted) -> None:
    story = Story("g1")
    story.tokens(["Hel"])
    async with followed(gateway, Cursor("e1", 7), head=8) as (_, following, peer):
        await peer.live(8, story.tokens(["lo"]))
        await peer.live(9, story.end())
        changes = [await applied(following), await applied(following)]
        assert [event["type"] for change in changes for event in change.events] == ["tokens", "end"]
        assert following.cursor == Cursor("e1", 9)
        await peer.silent(0.1)


async def test_a_saved_cursor_that_is_not_honoured_is_told(gateway: Scripted) -> None:
    async with followed(gateway, Cursor("e0", 7), at=0, recovered=False) as (_, following, _):
        assert await anext(following) == Rebuilt("e1", 0, 0)


async def test_who_follows_from_a_saved_cursor_may_ask_over_the_same_connection(gateway: Scripted) -> None:
    story = Story("g1")
    async with followed(gateway, Cursor("e1", 7)) as (relay, following, peer):
        submitting = asyncio.create_task(relay.submit("s", "q"))
        await peer.accepted()
        answer = await submitting
        for seq, body in enumerate([message("g1"), story.tokens(["Hello"]), story.end()], 8):
            await peer.live(seq, body)
        assert joined(await rest(answer)) == "Hello"
        assert [(await applied(following)).seq for _ in range(3)] == [8, 9, 10]


# Deleted, refused, degraded


async def test_a_deleted_session_ends_the_iteration_with_an_error(gateway: Scripted) -> None:
    async with followed(gateway) as (relay, following, peer):
        await peer.live(1, message("g1"))
        await peer.send(type="unsubscribed", session="s")
        assert isinstance(await anext(following), Applied)
        with pytest.raises(SessionDeleted, match="the session s was deleted"):
            await anext(following)
        await peer.close(1012)
        peer = await gateway.greeted()
        await peer.silent(0.1)  # nothing is followed any more
        async with asyncio.TaskGroup() as group:
            group.create_task(peer.subscribed())
            async with relay.follow("s") as anew:  # that is a new session
                assert anew.cursor == Cursor("e1", 0)


async def test_leaving_and_following_again_takes_no_reply_for_the_wrong_one(gateway: Scripted) -> None:
    async with followed(gateway) as (relay, following, peer):
        await following.__aexit__(None, None, None)
        async with asyncio.TaskGroup() as group:

            async def answered() -> None:
                goodbye = await peer.command("unsubscribe")
                await peer.subscribed()
                await peer.send(type="unsubscribed", id=goodbye["id"], session="s")
                await peer.live(1, message("g1"))

            group.create_task(answered())
            async with relay.follow("s") as anew:
                assert isinstance(await anext(anew), Applied)


async def test_a_session_that_may_not_be_followed_is_refused_and_the_others_go_on(gateway: Scripted) -> None:
    async with followed(gateway) as (relay, following, peer):
        entering = asyncio.create_task(relay.follow("t").__aenter__())
        command = await peer.command("subscribe")
        await peer.send(
            type="error", id=command["id"], session="t", code="too_many_subscriptions", message="No.", retryable=False
        )
        with pytest.raises(RequestRefused, match="too_many_subscriptions: No") as raised:
            await entering
        assert raised.value.code == "too_many_subscriptions"
        await peer.live(1, message("g1"))
        assert isinstance(await anext(following), Applied)


async def test_a_subscribe_that_is_refused_for_now_is_sent_again_in_time(gateway: Scripted) -> None:
    async with asyncio.TaskGroup() as group:

        async def refuse_once() -> None:
            peer = await gateway.greeted()
            command = await peer.command("subscribe")
            error = {"code": "unavailable", "message": "Later.", "retryable": True, "retry_after_s": 0.2}
            at = asyncio.get_running_loop().time()
            await peer.send(type="error", id=command["id"], session="s", **error)
            await peer.subscribed()
            assert asyncio.get_running_loop().time() - at >= 0.2

        group.create_task(refuse_once())
        async with connect(gateway.url) as relay, relay.follow("s"):
            pass


@pytest.mark.parametrize("named", [{}, {"session": "s"}])
async def test_degraded_and_restored_are_states(gateway: Scripted, named: dict[str, str]) -> None:
    async with asked(gateway) as (relay, answer, peer, story), relay.follow("s", start="live") as following:
        await peer.live(3, story.tokens(["Hel"]))
        await upto(answer, "Hel")
        assert isinstance(await anext(following), Applied)
        await peer.send(type="degraded", **named)
        assert await anext(answer) == Status("degraded")
        assert await anext(following) == Status("degraded")
        assert following.state == "degraded"
        await peer.send(type="restored", **named)
        assert await anext(answer) == Status("streaming")
        assert await anext(following) == Status("following")


async def test_a_new_connection_is_not_degraded_until_it_says_so(gateway: Scripted) -> None:
    async with followed(gateway) as (_, following, peer):
        await peer.send(type="degraded")
        assert await anext(following) == Status("degraded")
        peer.cut()
        again = await gateway.greeted()
        await again.subscribed()
        while await anext(following) != Status("following"):
            pass


# Many sessions, many listeners, slow ones


async def test_many_sessions_share_one_connection(gateway: Scripted) -> None:
    async with connect_to(gateway) as (relay, peer), contextlib.AsyncExitStack() as stack:
        following = {}
        for name in ("a", "b", "c"):
            async with asyncio.TaskGroup() as group:
                group.create_task(peer.subscribed())
                following[name] = await stack.enter_async_context(relay.follow(name))
        for name in ("c", "a", "b"):
            await peer.live(1, message(f"of-{name}"), session=name)
        for name, one in following.items():
            change = await anext(one)
            assert isinstance(change, Applied)
            assert change.events[0]["generation"] == f"of-{name}"
        peer.cut()
        again = await gateway.greeted()
        assert {(await again.subscribed())["session"] for _ in range(3)} == {"a", "b", "c"}
        assert gateway.waiting == 0


@contextlib.asynccontextmanager
async def connect_to(gateway: Scripted) -> AsyncIterator[tuple[Relay, Peer]]:
    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(gateway.greeted())
        async with connect(gateway.url) as relay:
            yield relay, await greeting


async def test_following_from_the_start_what_an_answer_follows_live_reads_it_again(gateway: Scripted) -> None:
    async with asked(gateway) as (relay, answer, peer, story):
        hello = story.tokens(["Hello"])
        await peer.live(3, hello)
        await upto(answer, "Hello")
        async with asyncio.TaskGroup() as group:
            again = group.create_task(peer.subscribed())
            async with relay.follow("s") as following:
                assert (await again).get("cursor") is None
                await peer.catchup(1, 3, message("g0"), message("g1"), hello)
                change = await anext(following)
                assert isinstance(change, Applied)
                assert [event["type"] for event in change.events] == ["message", "message", "tokens"]
        with pytest.raises(RequestRefused, match="conflict: s is followed already"):
            await relay.follow("s", cursor=Cursor("e1", 1)).__aenter__()
        await peer.live(4, story.end())
        items = await rest(answer)
        assert (joined(items), restarts(items)) == ("", 0)


async def test_a_reader_that_does_not_read_is_given_merged_events_and_all_of_the_text(gateway: Scripted) -> None:
    count = 3000
    async with followed(gateway) as (_, following, peer):
        story = Story("g1")
        for seq in range(1, count + 1):
            await peer.live(seq, story.tokens([f"w{seq} "]))
        await peer.live(count + 1, story.end())
        await until(lambda: following.view.last > count, "all of it")
        changes = []
        while following.cursor is not None and following.cursor.seq <= count:
            changes.append(await applied(following))
        events = [event for change in changes for event in change.events]
        assert len(events) <= 130
        assert "".join(event["text"] for event in events if event["type"] == "tokens") == "".join(story.texts)
        assert [change.first for change in changes[1:]] == [change.seq + 1 for change in changes[:-1]]
        assert changes[0].first == 1


async def test_a_step_that_is_cancelled_loses_nothing(gateway: Scripted) -> None:
    async with asked(gateway) as (_, answer, peer, story):
        assert await anext(answer) == Status("queued")
        items: list[Item] = []
        for seq in range(3, 40):
            step = asyncio.ensure_future(anext(answer))
            await peer.live(seq, story.tokens([f"{seq} "]))
            await asyncio.sleep(0.001 * (seq % 3))
            if not step.cancel():
                items.append(step.result())
            else:
                await asyncio.gather(step, return_exceptions=True)
        await peer.live(40, story.end())
        items += await rest(answer)
        assert joined(items) == "".join(story.texts)


async def test_end_can_be_awaited_without_reading(gateway: Scripted) -> None:
    async with asked(gateway) as (_, answer, peer, story):
        await peer.live(3, story.tokens(["Hello"]))
        await peer.live(4, story.end())
        assert (await answer.end())["count"] == 1
        assert answer.text == "Hello"
        assert joined(await rest(answer)) == "Hello"
        await peer.command("unsubscribe")


async def test_a_view_keeps_the_newest_answers_and_every_unfinished_one(gateway: Scripted) -> None:
    async with followed(gateway) as (_, following, peer):
        seq = 0
        bodies: list[Body] = [message("slow"), Story("slow").tokens(["…"])]
        for number in range(250):
            story = Story(f"g{number}")
            bodies += [message(story.generation), story.tokens(["x"]), story.end()]
        for seq, body in enumerate(bodies, 1):
            await peer.live(seq, body)
        while following.cursor is not None and following.cursor.seq < seq:
            await anext(following)
        kept = list(following.view.generations)
        assert kept == ["slow", *(f"g{number}" for number in range(50, 250))]
        assert len(following.view.messages) == 201


async def test_a_reply_to_a_subscribe_that_was_given_up_is_not_taken_for_the_next_ones(gateway: Scripted) -> None:
    """Else the next one would forget what it has, and what follows its cursor would pass for everything."""
    async with connected(gateway) as (relay, peer):
        entering = asyncio.create_task(relay.follow("s").__aenter__())
        earlier = await peer.command("subscribe")
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        await peer.command("unsubscribe")
        later = asyncio.create_task(relay.follow("s", cursor=Cursor("e1", 7)).__aenter__())
        second = await peer.command("subscribe")
        reply = {"type": "subscribed", "session": "s", "epoch": "e1", "head": 7, "active": []}
        await peer.send(**reply, id=earlier["id"], at=0, recovered=False)
        await peer.send(type="unsubscribed", id="unsubscribe", session="s")
        await peer.send(**reply, id=second["id"], at=7, recovered=True)
        following = await later
        await peer.live(8, message("g1"))
        change = await anext(following)
        assert isinstance(change, Applied)
        assert (change.first, following.cursor) == (8, Cursor("e1", 8))
        await following.__aexit__(None, None, None)
