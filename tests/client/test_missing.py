"""Answers that were accepted, or shown, and do not come, or do not come back: whoever waits for one hears of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from relay import timeouts
from relay.client import Answer, AnswerLost, Applied, Following, Lost, Rebuilt, Relay, SessionDeleted, Status
from relay.client.following import PendingChanges
from relay.client.missing import MissingAnswers
from relay.client.subscription import KEEP_GENERATIONS, Subscription
from relay.protocol.view import FrameDict
from tests.client.scripted import Peer, Scripted
from tests.client.test_rules import asked, connected, followed, joined, upto
from tests.protocol.logs import Story, message
from tests.scenarios.processes import until

ANOTHER_LOG: FrameDict = {
    "type": "subscribed", "session": "s", "epoch": "e2", "at": 0, "head": 0, "recovered": False, "active": [],
}  # fmt: skip


@pytest.fixture
def soon_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.client.connection.DEFAULT_LOST_AFTER_S", 0.1)
    monkeypatch.setattr("relay.client.missing.EXTRA_WAIT_S", 0)


async def accepted(relay: Relay, peer: Peer) -> Answer:
    """Of a session that is followed already."""
    submitting = asyncio.create_task(relay.submit("s", "q"))
    await peer.accepted()
    return await submitting


@pytest.mark.usefixtures("soon_lost")
async def test_an_answer_that_was_accepted_and_never_came_is_lost_for_all_who_follow(gateway: Scripted) -> None:
    async with followed(gateway) as (relay, following, peer):
        answer = await accepted(relay, peer)
        await peer.live(1, message("g1"))
        assert isinstance(await anext(following), Applied)
        assert await anext(following) == Lost(("g1",))
        with pytest.raises(AnswerLost):
            await answer.end()


@pytest.mark.usefixtures("soon_lost")
async def test_a_session_is_not_followed_for_an_answer_that_is_lost_also_if_nobody_reads_it(gateway: Scripted) -> None:
    async with asked(gateway) as (_, answer, peer, _):
        await peer.send(**ANOTHER_LOG)
        assert (await peer.command("unsubscribe"))["session"] == "s"
        with pytest.raises(AnswerLost):
            await answer.end()


async def test_a_session_that_was_deleted_is_not_remembered_for_an_answer_in_it(gateway: Scripted) -> None:
    async with asked(gateway) as (relay, answer, peer, _):
        await peer.send(type="unsubscribed", session="s")
        with pytest.raises(SessionDeleted):
            await answer.end()
        assert relay._dispatcher._subscriptions == {}


async def test_an_answer_that_comes_after_its_submit_was_accepted_is_not_missing(gateway: Scripted) -> None:
    async with asked(gateway) as (relay, answer, peer, story):
        await peer.live(3, story.tokens(["Hel"]))
        await upto(answer, "Hel")
        channel = relay._dispatcher.subscription("s")
        assert channel is not None
        assert channel._missing.due is None


@pytest.mark.usefixtures("soon_lost")
async def test_what_lies_in_the_socket_is_taken_before_an_answer_is_believed_to_be_lost(gateway: Scripted) -> None:
    async with asked(gateway) as (_, answer, peer, story):
        await peer.live(3, story.tokens(["Hel"]))
        await upto(answer, "Hel")
        await peer.send(**ANOTHER_LOG)
        assert await anext(answer) == Status("interrupted")
        step = asyncio.ensure_future(anext(answer))
        await asyncio.sleep(0)
        again = Story("g1")
        sending = asyncio.ensure_future(peer.live(1, again.tokens(["Hel", "lo"])))
        await asyncio.sleep(0)  # it is in the socket now
        time.sleep(0.5)  # noqa: ASYNC251 - longer than an answer may be missing
        items = [await step]
        await sending
        items += await upto(answer, "lo") if joined(items) != "lo" else []
        assert joined(items) == "lo"


def subscribed(channel: Subscription, **fields: Any) -> None:
    command = msgspec.json.decode(channel.subscribe(0.0))
    channel.handle_frame({**ANOTHER_LOG, **fields, "id": command["id"]})


async def test_time_counts_only_once_the_whole_log_is_shown() -> None:
    channel = Subscription("s", start="start", cursor=None, answer_within_s=10, lost_after_s=lambda: 3600)
    channel.connected()
    channel.expect("g1")
    assert channel._missing.due is None
    subscribed(channel, head=1)
    assert channel._missing.due is None
    channel.handle_frame({"session": "s", "seq": 1, **msgspec.json.decode(message("g0"))})
    assert channel._missing.due is not None
    channel.handle_frame({"session": "s", "seq": 2, **msgspec.json.decode(Story("g1").status("queued"))})
    assert channel._missing.due is None


async def test_each_that_is_missing_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.client.missing.EXTRA_WAIT_S", 0)
    lost: list[list[str]] = []

    def give_up(names: list[str]) -> None:
        lost.append(names)
        missing.watch(["b"] if "b" not in names else [])

    missing = MissingAnswers(lambda: 0.3, give_up)
    missing.watch(["a"])
    began = timeouts.now()
    await until(lambda: timeouts.now() >= began + 0.15, "half of its time")
    missing.watch(["a", "b"])
    await until(lambda: len(lost) == 2, "both are lost")
    assert lost == [["a"], ["b"]]


async def test_a_log_that_is_lost_again_and_again_leaves_only_so_many_that_may_come_back() -> None:
    channel = Subscription("s", start="start", cursor=None, answer_within_s=10, lost_after_s=lambda: 3600)
    channel.connected()
    for number in range(KEEP_GENERATIONS + 50):
        subscribed(channel, epoch=f"e{number}")
        channel.handle_frame({"session": "s", "seq": 1, **msgspec.json.decode(Story(f"g{number}").tokens(["x"]))})
    subscribed(channel, epoch="last")
    assert len(channel.view.missing) == KEEP_GENERATIONS
    assert list(channel.view.lost) == [f"g{number}" for number in range(50)]
    channel.close()


@pytest.mark.parametrize("active", [set(), {"g1"}])
def test_what_was_lost_is_told_before_what_follows_also_if_the_log_begins_anew_meanwhile(active: set[str]) -> None:
    backlog, rebuilt = PendingChanges(), Rebuilt("e3", 0, 0)
    backlog.add({"session": "s", "seq": 1, **msgspec.json.decode(message("g0"))})
    backlog.lose(["g1"])
    backlog.restart(rebuilt, active)
    back = {"session": "s", "seq": 1, **msgspec.json.decode(Story("g1").tokens(["x"]))}
    backlog.add(back)
    taken = [backlog.take() for _ in range(4)]
    told = [Lost(("g1",))] if not active else []
    event = {name: value for name, value in back.items() if name not in ("session", "seq")}
    assert [change for change in taken if change is not None] == [rebuilt, *told, Applied(1, 1, [event])]


def test_who_does_not_read_is_told_the_newest_of_what_was_lost() -> None:
    backlog = PendingChanges()
    for number in range(KEEP_GENERATIONS + 10):
        backlog.lose([f"g{number}"])
    assert backlog.take() == Lost(tuple(f"g{number}" for number in range(10, KEEP_GENERATIONS + 10)))
    assert backlog.take() is None


@pytest.mark.usefixtures("soon_lost")
async def test_an_answer_that_was_lost_can_be_asked_for_again(gateway: Scripted) -> None:
    async with connected(gateway) as (relay, peer):
        async with asyncio.TaskGroup() as group:
            group.create_task(peer.subscribed())
            following = await group.create_task(_entered(relay))
        await accepted(relay, peer)
        assert await anext(following) == Lost(("g1",))
        again = await accepted(relay, peer)
        await peer.live(1, Story("g1").tokens(["Hello"]))
        assert joined(await upto(again, "Hello")) == "Hello"
        await following.__aexit__(None, None, None)


async def _entered(relay: Relay) -> Following:
    return await relay.follow("s").__aenter__()
