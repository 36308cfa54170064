"""One connection after the other: which losses are made good, which are final, and how long that takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from http import HTTPStatus
from itertools import pairwise

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from relay.client import Disconnected, Following, Rebuilt, Relay, Status, connect
from relay.client.backoff import Backoff
from relay.client.constants import SHARED
from relay.client.transport import silence_s
from tests.client.scripted import Peer, Scripted
from tests.protocol.logs import Story, message
from tests.scenarios.processes import until


async def followed(following: Following, seq: int) -> str:
    """The text of g1 once everything up to `seq` is applied."""
    async with asyncio.timeout(10):
        async for change in following:
            assert not isinstance(change, Rebuilt)
            if following.cursor is not None and following.cursor.seq >= seq:
                break
    return following.view.generations["g1"].text


@contextlib.asynccontextmanager
async def following(gateway: Scripted, heartbeat_s: float = 15) -> AsyncIterator[tuple[Relay, Following, Peer, Story]]:
    """(relay, following, peer): session s is followed, its first two events have come."""
    story = Story("g1")
    async with asyncio.TaskGroup() as group:

        async def begin() -> Peer:
            peer = await gateway.greeted(heartbeat_s)
            await peer.subscribed()
            await peer.live(1, message("g1"))
            await peer.live(2, story.tokens(["Hel"]))
            return peer

        beginning = group.create_task(begin())
        async with connect(gateway.url) as relay, relay.follow("s") as followed_one:
            peer = await beginning
            assert await followed(followed_one, 2) == "Hel"
            yield relay, followed_one, peer, story


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4000, 4408, 4413, 4429, 4499])
async def test_after_a_close_that_allows_it_the_client_comes_back_with_its_cursor(gateway: Scripted, code: int) -> None:
    async with following(gateway) as (_, followed_one, peer, story):
        await peer.close(code)
        again = await gateway.greeted()
        command = await again.subscribed()
        assert command["cursor"] == {"epoch": "e1", "seq": 2}
        await again.live(3, story.tokens(["lo"]))
        await again.live(4, story.end())
        assert await followed(followed_one, 4) == "Hello"


async def test_a_cut_without_a_goodbye_is_no_different(gateway: Scripted) -> None:
    async with following(gateway) as (relay, followed_one, peer, story):
        peer.cut()
        assert await anext(followed_one) == Status("reconnecting")
        assert not relay.connected
        again = await gateway.greeted()
        await again.subscribed()
        assert await anext(followed_one) == Status("following")
        await again.live(3, story.tokens(["lo"]))
        assert await followed(followed_one, 3) == "Hello"


@pytest.mark.parametrize("code", [4500, 4501, 4503, 4505, 4999])
async def test_a_close_that_forbids_it_ends_everything_that_waits(gateway: Scripted, code: int) -> None:
    async with following(gateway) as (relay, followed_one, peer, _):
        async with asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(refused(relay.submit("s", "q"))),
                group.create_task(refused(relay.stop("s", "g1"))),
                group.create_task(refused(relay.follow("t").__aenter__())),
            ]
            for _ in range(3):
                await peer.websocket.recv()
            await peer.close(code, "go away")
        for task in waiting:
            assert task.result().close_code == code
        with pytest.raises(Disconnected, match="go away"):
            await followed(followed_one, 99)
        with pytest.raises(Disconnected):
            await relay.submit("s", "q")
        assert gateway.waiting == 0


async def refused(waiting: Awaitable[object]) -> Disconnected:
    with pytest.raises(Disconnected) as raised:
        await waiting
    return raised.value


async def test_a_draining_gateway_says_when_to_come_back(gateway: Scripted) -> None:
    async with following(gateway) as (_, followed_one, peer, story):
        begun = asyncio.get_running_loop().time()
        await peer.send(type="draining", reconnect_in_ms=300)
        await peer.close(1012)
        again = await gateway.greeted()
        assert again.at - begun >= 0.3
        await again.subscribed()
        await again.live(3, story.tokens(["lo"]))
        assert await followed(followed_one, 3) == "Hello"


async def test_a_draining_gateway_that_never_closes_is_left_in_time(gateway: Scripted) -> None:
    async with following(gateway) as (_, followed_one, peer, story):
        await peer.send(type="draining", reconnect_in_ms=100)
        again = await gateway.greeted()
        await peer.websocket.wait_closed()
        await again.subscribed()
        await again.live(3, story.tokens(["lo"]))
        assert await followed(followed_one, 3) == "Hello"


async def test_no_draining_gateway_keeps_a_client_away_for_long(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.client.transport.SHARED", msgspec.structs.replace(SHARED, drain_most_s=0.1))
    async with following(gateway) as (_, followed_one, peer, story):
        await peer.send(type="draining", reconnect_in_ms=10**9)
        again = await gateway.greeted()
        await again.subscribed()
        await again.live(3, story.tokens(["lo"]))
        assert await followed(followed_one, 3) == "Hello"


async def test_a_connection_without_heartbeats_is_dead(gateway: Scripted) -> None:
    async with following(gateway, heartbeat_s=0.05) as (_, followed_one, _, story):
        again = await gateway.greeted()
        await again.subscribed()
        await again.live(3, story.tokens(["lo"]))
        assert await followed(followed_one, 3) == "Hello"


async def test_heartbeats_keep_a_quiet_connection(gateway: Scripted) -> None:
    async with following(gateway, heartbeat_s=0.5) as (_, followed_one, peer, story):
        for _ in range(8):
            await asyncio.sleep(0.25)
            await peer.send(type="heartbeat")
        assert gateway.waiting == 0
        await peer.live(3, story.tokens(["lo"]))
        assert await followed(followed_one, 3) == "Hello"


def test_silence_is_two_heartbeats_and_a_margin() -> None:
    assert silence_s(15) == 35
    assert silence_s(1) == 3


@pytest.mark.parametrize("nonsense", ["not json", "[1]", "{}", '{"type": 7}'])
async def test_what_is_no_frame_costs_the_connection_and_nothing_else(gateway: Scripted, nonsense: str) -> None:
    async with following(gateway) as (_, followed_one, peer, story):
        await peer.websocket.send(nonsense)
        again = await gateway.greeted()
        await again.subscribed()
        await again.live(3, story.tokens(["lo"]))
        assert await followed(followed_one, 3) == "Hello"


@pytest.mark.usefixtures("longest_waits")
async def test_a_gateway_that_greets_and_closes_is_not_hammered(gateway: Scripted) -> None:
    async with connect_greeted(gateway) as (_, peer):
        at = [peer.at]
        for _ in range(3):
            await peer.close(1012)
            peer = await gateway.greeted()
            at.append(peer.at)
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert all(gap >= bound for gap, bound in zip(gaps, [0.5, 1, 2], strict=True))


@pytest.mark.usefixtures("longest_waits")
async def test_a_gateway_that_breaks_at_each_subscribe_is_not_hammered(gateway: Scripted) -> None:
    async with following(gateway) as (_, _, peer, _):
        at = [peer.at]
        for _ in range(3):
            peer.cut()
            peer = await gateway.greeted()
            at.append(peer.at)
            await peer.subscribed()
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert all(gap >= bound for gap, bound in zip(gaps, [0.25, 0.5, 1], strict=True))


@pytest.mark.usefixtures("longest_waits")
async def test_a_close_for_too_many_requests_is_answered_by_longer_and_longer_waits(gateway: Scripted) -> None:
    async with following(gateway) as (_, _, peer, _):
        at = [peer.at]
        for _ in range(3):
            await peer.close(4429)
            peer = await gateway.greeted()
            at.append(peer.at)
            await peer.subscribed()
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert all(gap >= bound for gap, bound in zip(gaps, [0.5, 1, 2], strict=True))


@pytest.mark.usefixtures("longest_waits")
def test_waits_double_from_a_quarter_of_a_second_to_ten_and_begin_anew_after_success() -> None:
    backoff = Backoff()
    assert [backoff.next() for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    backoff.reset()
    assert backoff.next() == 0.25


def test_waits_are_drawn_from_nothing_up_to_their_bound() -> None:
    drawn = []
    for _ in range(200):
        backoff = Backoff()
        backoff.failures = 20
        drawn.append(backoff.next())
    assert min(drawn) < 2 < 8 < max(drawn) <= 10


async def test_giving_up_is_a_sentence() -> None:
    async with Scripted() as gone:
        url = gone.url
    with pytest.raises(Disconnected, match=f"the gateway at {url} cannot be reached"):
        async with connect(url, give_up_after_s=0.3):
            pass


async def test_a_gateway_that_comes_late_is_found_by_a_client_that_does_not_give_up() -> None:
    async with Scripted() as gone:
        url, port = gone.url, gone.port

    async def connected() -> None:
        async with connect(url) as relay:
            assert relay.connected

    async with asyncio.TaskGroup() as group:
        group.create_task(connected())
        await asyncio.sleep(0.3)
        async with Scripted(port) as late:
            await late.greeted()


async def test_a_later_loss_may_last_as_long_as_is_said_then(gateway: Scripted) -> None:
    async with connect_greeted(gateway) as (relay, peer):
        relay.give_up_after_s = 0.2
        await peer.close(1012)  # and whoever comes then is never greeted
        with pytest.raises(Disconnected, match="cannot be reached"):
            await relay.stop("s", "g1")


@contextlib.asynccontextmanager
async def connect_greeted(gateway: Scripted) -> AsyncIterator[tuple[Relay, Peer]]:
    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(gateway.greeted())
        async with connect(gateway.url) as relay:
            yield relay, await greeting


@pytest.mark.parametrize("url", ["nonsense", "", "ftp://host", "http://host:99999", "http://"])
async def test_what_is_no_address_is_told_at_once(url: str) -> None:
    with pytest.raises(Disconnected, match="not an address"):
        async with connect(url):
            pass


async def test_what_is_no_gateway_is_told_at_once() -> None:
    def not_found(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(HTTPStatus.NOT_FOUND, "no\n")

    async with serve(_nobody, "127.0.0.1", 0, process_request=not_found) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Disconnected, match=r"there is no relay at .* \(HTTP 404\)"):
            async with connect(url):
                pass


async def _nobody(_: ServerConnection) -> None:
    return


async def test_a_proxy_without_its_gateway_is_tried_again() -> None:
    tries = []

    def unavailable(connection: ServerConnection, _: Request) -> Response | None:
        tries.append(1)
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "later\n") if len(tries) < 3 else None

    async def welcome(websocket: ServerConnection) -> None:
        await Peer(websocket).welcome()
        await websocket.wait_closed()

    async with (
        serve(welcome, "127.0.0.1", 0, process_request=unavailable) as server,
        connect(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as relay,
    ):
        assert relay.connected
    assert len(tries) == 3


async def test_the_features_are_those_of_the_gateway_that_was_reached_last(gateway: Scripted) -> None:
    async def welcomed(features: list[str] | None = None) -> Peer:
        return await (await gateway.peer()).welcome(features=features)

    first = asyncio.create_task(welcomed(["options"]))
    async with connect(gateway.url) as relay:
        assert relay.features == ("options",)
        (await first).cut()
        await welcomed()
        await until(lambda: relay.features == (), "an earlier gateway")


async def test_closing_leaves_nothing_behind_whatever_it_is_doing(gateway: Scripted) -> None:
    before = asyncio.all_tasks()

    async def use() -> None:
        async with connect(gateway.url) as relay, relay.follow("s") as followed_one:
            async for _ in followed_one:
                pass

    for moment in ("before the welcome", "before subscribed", "following"):
        using = asyncio.create_task(use())
        peer = await gateway.peer()
        if moment != "before the welcome":
            await peer.welcome()
            if moment == "following":
                await peer.subscribed()
            else:
                await peer.command("subscribe")
        using.cancel()
        await asyncio.gather(using, return_exceptions=True)
        assert using.cancelled()
        await peer.websocket.wait_closed()
        ours = [task for task in asyncio.all_tasks() - before if "protocol_handler" not in repr(task)]
        assert ours == [], moment


async def test_whoever_still_waits_when_the_block_is_left_is_told(gateway: Scripted) -> None:
    async with connect_greeted(gateway) as (relay, peer):
        waiting = asyncio.create_task(refused(relay.submit("s", "q")))
        await peer.command("subscribe")
    assert "closed" in str(await waiting)
    with pytest.raises(Disconnected):
        await relay.stop("s", "g1")
