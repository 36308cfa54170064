"""Event streams against a log in memory: what can happen between two looks at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.auth.identity import EVERYBODY, UNRESTRICTED
from relay.errors import ClientError
from relay.follow.follower import Follower
from relay.follow.page_cache import PageCache
from relay.gateway.event_stream import EventStream, Framing
from relay.gateway.follower_pool import FollowerPool
from relay.gateway.guard import Asked
from relay.gateway.pulse import ViewerLimits
from relay.protocol import events, frames
from relay.protocol.compact import catchups
from relay.protocol.words import Cursor
from relay.store.session.replies import Span
from relay.store.session.session_log import SessionLog
from tests.follow.following import LOST, Hearsay, no_orphans
from tests.gateway.test_connection import OFF
from tests.store.in_memory import Clock, admitted_and_claimed, redis_in_memory, session_log_on

WAIT_S = 10


class Gateway(SimpleNamespace):
    """As much of one as an event stream asks for."""

    redis: Redis
    session_log: SessionLog
    followers: FollowerPool

    def stream(self, generation: str | None, cursor: Cursor | None = None, start: str = "start") -> EventStream:
        return EventStream(self, Asked("s", EVERYBODY, UNRESTRICTED), cursor, start, generation)  # type: ignore[arg-type]

    async def look(self) -> None:
        """The follower that is here looks."""
        follower = self.followers.get("s", UNRESTRICTED)
        assert follower is not None
        await follower.sync()


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    Clock().install(monkeypatch)
    async with redis_in_memory() as redis:
        log = session_log_on(redis)
        made: list[Hearsay] = []

        def follower(session: str) -> Follower:
            made.append(Hearsay())
            return Follower(
                session,
                log,
                made[-1],
                PageCache(1_000_000),
                window_bytes=4096,
                max_frame_bytes=262144,
                lost_after_s=60,
                lost_members=b"{}",
                orphaned=no_orphans,
            )

        hub = FollowerPool(follower, log.own, linger_s=10)
        limits = ViewerLimits(buffer_bytes=65536, heartbeat_s=15, stall_s=60)
        yield Gateway(
            redis=redis,
            session_log=log,
            followers=hub,
            viewer_limits=limits,
            draining=asyncio.Event(),
            authentication=OFF,
        )
        await hub.aclose()


class Client:
    """Whoever asks; never hangs up by itself."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.left, self.subscribed = asyncio.Event(), asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
        if b"event: subscribed" in self.body:
            self.subscribed.set()


async def _answer(stream: EventStream, client: Client) -> None:
    await asyncio.wait_for(stream({"type": "http"}, client.receive, client.send), WAIT_S)  # type: ignore[arg-type]


async def test_a_session_deleted_as_its_stream_begins_leaves_no_stream_that_waits_for_ever(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await admitted_and_claimed(gateway.session_log, "g1")
    span_of = gateway.session_log.span

    async def span_and_then_nothing(session: str, generation: str, sub: str | None) -> Span | None:
        span = await span_of(session, generation, sub)
        await gateway.session_log.delete("s", 60_000)
        return span

    monkeypatch.setattr(gateway.session_log, "span", span_and_then_nothing)
    client = Client()
    with pytest.raises(ClientError, match="deleted"):
        await _answer(gateway.stream("g1"), client)
    assert client.body == b""


async def test_a_follower_that_has_not_heard_of_the_new_life_yet_looks_before_anybody_is_refused(
    gateway: Gateway,
) -> None:
    gateway.followers.release(await gateway.followers.acquire("s", access=UNRESTRICTED))  # it lingers
    await gateway.session_log.delete("s", 60_000)
    writer = await admitted_and_claimed(gateway.session_log, "g1")
    await writer.tokens("exact text")
    await writer.end()
    client = Client()
    await _answer(gateway.stream("g1"), client)
    assert b"exact text" in client.body
    assert client.body.count(b"event: subscribed") == 1


async def test_a_single_event_of_another_generation_is_neither_shown_nor_taken_for_the_end(gateway: Gateway) -> None:
    one, other = (
        await admitted_and_claimed(gateway.session_log, "g1"),
        await admitted_and_claimed(gateway.session_log, "g2"),
    )
    follower = await gateway.followers.acquire("s", access=UNRESTRICTED)
    await one.tokens("mine")
    await other.end()
    await follower.sync()  # so that the events stand in its window, from where a single one comes as it is
    last = follower.frontier
    client = Client()
    answer = asyncio.create_task(_answer(gateway.stream("g1", Cursor(follower.epoch, last - 1)), client))
    await asyncio.wait_for(client.subscribed.wait(), WAIT_S)
    await one.tokens("more of mine")
    await one.end()
    while not answer.done():
        await follower.sync()
        await asyncio.sleep(0)
    await answer
    assert b"more of mine" in client.body
    assert b"g2" not in client.body
    gateway.followers.release(follower)


async def test_what_has_ended_has_nothing_live(gateway: Gateway) -> None:
    writer = await admitted_and_claimed(gateway.session_log, "g1")
    await writer.end()
    client = Client()
    await _answer(gateway.stream("g1", start="live"), client)
    assert (client.status, client.body) == (204, b"")


@pytest.mark.parametrize("text", ["\x85", "\u2028", "some words\u2029"])
def test_catchups_stay_within_the_bound_although_line_breaks_are_escaped(text: str) -> None:
    batches = [(seq, events.encode(events.Tokens("g1", 1, seq - 1, 1, text * 20))) for seq in range(1, 5000)]
    framed = [Framing("e")(frames.encode(frame)) for frame in catchups("s", 0, batches, 4999, 100_000)]
    assert len(framed) > 1
    assert max(map(len, framed)) <= 100_000


@pytest.mark.parametrize("start", ["start", "live"])
async def test_a_generation_that_redis_has_lost_is_streamed_until_it_is_back_or_ended(
    gateway: Gateway, start: str
) -> None:
    writer = await admitted_and_claimed(gateway.session_log, "g1")
    await writer.tokens("exact text")
    follower = await gateway.followers.acquire("s", access=UNRESTRICTED)
    await gateway.redis.flushall()
    await follower.sync()
    client = Client()
    answer = asyncio.create_task(_answer(gateway.stream("g1", start=start), client))
    await asyncio.wait_for(client.subscribed.wait(), WAIT_S)
    assert await gateway.session_log.bury("s", "g1", 1, LOST)
    await follower.sync()
    await answer
    assert (client.status, client.body.count(b"event: end")) == (200, 1)
    with pytest.raises(ClientError, match="no such"):
        await _answer(gateway.stream("g2"), Client())
    gateway.followers.release(follower)


async def test_a_new_epoch_as_its_stream_begins_is_no_reason_to_refuse_it(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await admitted_and_claimed(gateway.session_log, "g1")
    span_of = gateway.session_log.span

    async def span_and_then_another_epoch(session: str, generation: str, sub: str | None) -> Span | None:
        monkeypatch.setattr(gateway.session_log, "span", span_of)
        span = await span_of(session, generation, sub)
        assert span is not None
        await gateway.session_log.rotate("s", span.epoch, missing=False)
        return span

    monkeypatch.setattr(gateway.session_log, "span", span_and_then_another_epoch)
    client = Client()
    answer = asyncio.create_task(_answer(gateway.stream("g1"), client))
    await asyncio.wait_for(client.subscribed.wait(), WAIT_S)
    await gateway.session_log.stop("s", "g1")
    await gateway.look()
    await answer
    assert client.body.count(b"event: end") == 1


@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.parametrize("moment", ["span", "open", "range"])
async def test_what_ends_while_its_live_stream_begins_has_nothing_live(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, moment: str, followed: bool
) -> None:
    """Whichever read of the log it is whose reply the end overtakes."""
    writer = await admitted_and_claimed(gateway.session_log, "g1")
    await writer.tokens("a")
    if followed:
        gateway.followers.release(await gateway.followers.acquire("s", access=UNRESTRICTED))  # it lingers
    read = getattr(gateway.session_log, moment)

    async def and_then_it_ends(*arguments: Any, **named: Any) -> Any:
        reply = await read(*arguments, **named)
        monkeypatch.setattr(gateway.session_log, moment, read)
        await writer.end()
        return reply

    monkeypatch.setattr(gateway.session_log, moment, and_then_it_ends)
    client = Client()
    answer = asyncio.create_task(_answer(gateway.stream("g1", start="live"), client))
    subscribed = asyncio.create_task(client.subscribed.wait())
    await asyncio.wait([answer, subscribed], return_when=asyncio.FIRST_COMPLETED)
    subscribed.cancel()
    if not answer.done():
        await writer.end()  # where nobody has read at that moment
        await gateway.look()
    await answer
    assert (client.status, client.body) == (204, b"") or client.body.count(b"event: end") == 1


async def test_a_stream_of_a_generation_that_is_removed_before_its_end_was_shown_is_over(
    gateway: Gateway,
) -> None:
    """It has ended, and others took its place beyond the bound, while nothing was heard of it here."""
    bounded = session_log_on(gateway.redis, max_generations=1)
    writer = await admitted_and_claimed(bounded, "g1")
    client = Client()
    answer = asyncio.create_task(_answer(gateway.stream("g1"), client))
    await asyncio.wait_for(client.subscribed.wait(), WAIT_S)
    await writer.tokens("a")
    await writer.end()
    await admitted_and_claimed(bounded, "g2")
    await gateway.look()
    await answer


async def test_a_stream_of_a_generation_whose_end_was_lost_with_redis_is_over(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended, so nobody will bring it back."""
    writer = await admitted_and_claimed(gateway.session_log, "g1")
    await writer.tokens("a")
    await writer.end()
    follower = await gateway.followers.acquire("s", access=UNRESTRICTED)
    pages, reads = gateway.session_log.range, 0

    async def lost_before_the_page(*arguments: Any, **named: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:  # the first is a look, as the follower is lent
            await gateway.redis.flushall()
        return await pages(*arguments, **named)

    monkeypatch.setattr(gateway.session_log, "range", lost_before_the_page)
    client = Client()
    await _answer(gateway.stream("g1"), client)
    assert b'"code":"not_found"' in client.body
    gateway.followers.release(follower)


async def test_after_a_delete_elsewhere_a_stream_shows_nothing_of_what_was_deleted(gateway: Gateway) -> None:
    """This gateway follows the session, and has heard nothing of it yet."""
    writer = await admitted_and_claimed(gateway.session_log, "g1")
    await writer.tokens("private")
    watching = await gateway.followers.acquire("s", access=UNRESTRICTED)
    await gateway.session_log.delete("s", 60_000)
    client = Client()
    answer = asyncio.create_task(_answer(gateway.stream(None), client))
    await asyncio.wait_for(client.subscribed.wait(), WAIT_S)
    for _ in range(20):
        await asyncio.sleep(0)
    client.left.set()
    await answer
    assert b"private" not in client.body
    assert b"unsubscribed" not in client.body
    gateway.followers.release(watching)


@pytest.mark.parametrize("times", range(1, 9))
async def test_a_stream_that_is_cancelled_again_and_again_leaves_nothing_behind(gateway: Gateway, times: int) -> None:
    """As a cancel scope does it: at every await that follows."""
    await admitted_and_claimed(gateway.session_log, "g1")  # so that there is something to catch up with
    client = Client()

    async def never_taken(message: dict[str, Any]) -> None:
        await client.send(message)
        if client.subscribed.is_set():
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    stream: Any = gateway.stream(None)
    answer = asyncio.create_task(stream({"type": "http"}, client.receive, never_taken))
    await asyncio.wait_for(client.subscribed.wait(), WAIT_S)
    for _ in range(times):
        answer.cancel()
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.wait([answer]), WAIT_S)
    for _ in range(10):
        await asyncio.sleep(0)
    left = {task.get_name() for task in asyncio.all_tasks() - before}
    assert left == {"follower s"}  # it lingers
