"""What stands in the way: told to whoever waits, in the gateway's own words."""

from __future__ import annotations

import asyncio

from relay.client import Status, connect
from relay.client.answer_items import Reader
from relay.protocol.view import SessionView
from tests.client.scripted import TIMEOUT_S, Peer, Scripted

REFUSAL = {"type": "error", "code": "unavailable", "message": "Not now.", "retryable": True, "retry_after_s": 0.01}
REFUSED = Status("refused", "unavailable: Not now.")


async def refuse(peer: Peer, kind: str) -> None:
    command = await peer.command(kind)
    await peer.send(id=command["id"], session=command["session"], **REFUSAL)


async def test_a_submit_that_waits_tells_what_for_each_time_that_this_changes(gateway: Scripted) -> None:
    statuses: asyncio.Queue[Status] = asyncio.Queue()

    async def told() -> Status:
        async with asyncio.timeout(TIMEOUT_S):
            return await statuses.get()

    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(gateway.greeted())
        async with connect(gateway.url, on_status=statuses.put_nowait) as relay:
            peer = await greeting
            submitting = asyncio.create_task(relay.submit("s", "q"))
            await refuse(peer, "subscribe")
            assert await told() == REFUSED
            await refuse(peer, "subscribe")  # once is enough
            await peer.subscribed()
            assert await told() == Status("connected")
            await refuse(peer, "submit")
            assert await told() == REFUSED
            peer.cut()
            assert await told() == Status("reconnecting")
            peer = await gateway.greeted()
            assert await told() == Status("connected")  # this one has refused nothing
            await peer.subscribed()
            await peer.send(type="degraded")
            assert await told() == Status("degraded")
            await peer.send(type="restored")
            assert await told() == Status("connected")
            await peer.accepted()
            await submitting
    assert statuses.empty()  # leaving is no loss


async def test_a_following_that_a_new_gateway_does_not_take_says_so(gateway: Scripted) -> None:
    async with asyncio.TaskGroup() as group:

        async def first() -> Peer:
            peer = await gateway.greeted()
            await peer.subscribed()
            return peer

        greeting = group.create_task(first())
        async with connect(gateway.url) as relay, relay.follow("s") as following:
            (await greeting).cut()
            peer = await gateway.greeted()
            await refuse(peer, "subscribe")
            async with asyncio.timeout(TIMEOUT_S):
                while (change := await anext(following)) != REFUSED:
                    assert change in (Status("reconnecting"), Status("following"))
            assert (following.state, following.status) == ("refused", REFUSED)
            await peer.subscribed()
            assert await anext(following) == Status("following")


def test_a_status_comes_with_its_detail() -> None:
    view, reader = SessionView("s"), Reader()
    place = {"session": "s", "epoch": "e1", "at": 0, "head": 0, "recovered": False, "active": []}
    view.apply({"type": "subscribed", "id": view.subscribe()["id"], **place})
    event = {"type": "status", "session": "s", "generation": "g1", "attempt": 1, "state": "queued"}

    def told(seq: int, **fields: str) -> list[object]:
        view.apply({**event, "seq": seq, **fields})
        return list(reader.news(view.generations["g1"]))

    assert told(1) == [Status("queued")]
    assert told(2, detail="no_worker") == [Status("queued", "no_worker")]
    assert told(3, detail="no_worker") == []
    assert told(4, state="retrying", detail="worker_lost") == [Status("retrying", "worker_lost")]
    assert told(5, state="thinking") == [Status("thinking")]
