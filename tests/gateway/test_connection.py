"""One connection: what it was asked is answered in time and in order, whatever else happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from starlette.datastructures import Headers

from relay.auth.identity import Access, Identity
from relay.gateway import deadlines
from relay.gateway.authentication import Authentication
from relay.gateway.codecs import JSON
from relay.gateway.connection import Connection
from relay.gateway.deadlines import within_deadline
from relay.gateway.follower_pool import FollowerPool
from relay.gateway.submissions import Accepted
from relay.protocol.commands import Submit
from tests.follow.following import Stage
from tests.gateway.test_caller import Everything
from tests.gateway.test_viewer import Tray
from tests.scenarios.processes import until
from tests.store.in_memory import Clock, redis_in_memory, session_log_on

OFF = Authentication(None, None, "127.0.0.1", "")  # type: ignore[arg-type]  # nobody asks for revocations
LIMITS = {"max_command_bytes": 1 << 20, "max_content_bytes": 1 << 17, "max_subscriptions": 1}


class LiveTray(Tray):
    """A sink whose peer is always there."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_at = asyncio.get_running_loop().time()
        self.closed: tuple[int, str] | None = None

    def close(self, code: int, reason: str) -> None:
        self.closed = code, reason

    def unsent_bytes(self) -> int:
        return 0

    def taken_bytes(self) -> int:
        return 0

    def ping(self) -> None: ...

    def heard_at(self) -> float:
        return asyncio.get_running_loop().time()

    def replies(self, kind: str) -> list[Any]:
        return [frame.get("id") for frame in self.frames if frame["type"] == kind]


class Held:
    """Submits that are carried out when the test lets them."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go = asyncio.Event()

    async def submit(self, submit: Submit, access: Access, language: str | None, by: float | None) -> Accepted:
        async with within_deadline("submit", by):
            self.begun.append(submit.request_id)
            await self.go.wait()
        return Accepted("g1", duplicate=False)


class Peer:
    """A client of one connection, without a wire."""

    def __init__(self, hub: FollowerPool | None = None, authentication: Authentication | None = None) -> None:
        self.sink, self.held = LiveTray(), Held()
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.connection = Connection(
            self.sink, JSON, hub, self.held, LIMITS, authentication or OFF,  # type: ignore[arg-type]
            language=None, heartbeat_s=1000, stall_s=1000,
        )  # fmt: skip
        self.running = asyncio.create_task(self.connection.run(self._queue.get, Headers()))

    def says(self, **command: Any) -> None:
        self._queue.put_nowait({"type": "websocket.receive", "text": msgspec.json.encode(command).decode()})

    def submits(self, *names: str) -> None:
        for name in names:
            self.says(type="submit", id=name, session="s", request_id=name, content="?")

    async def leaves(self) -> None:
        self._queue.put_nowait({"type": "websocket.disconnect"})
        await self.running


async def test_a_command_that_waits_for_another_is_answered_as_soon_and_is_not_begun_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deadlines, "ANSWER_WITHIN_S", 0.3)
    peer = Peer()
    peer.submits("one", "two", "three")
    await until(lambda: len(peer.sink.replies("error")) == 3, "all are answered")
    assert peer.sink.replies("error") == ["one", "two", "three"]
    assert {frame["code"] for frame in peer.sink.frames if frame["type"] == "error"} == {"unavailable"}
    assert peer.held.begun == ["one"]
    await peer.leaves()


async def test_a_drain_answers_what_was_asked_before_it_closes() -> None:
    peer = Peer()
    peer.submits("one", "two")
    await until(lambda: peer.held.begun == ["one"], "it is being carried out")
    closed = asyncio.Event()
    peer.connection.drain(500, closed.set)
    for _ in range(20):
        await asyncio.sleep(0)
    assert peer.sink.frames[-1] == {"type": "draining", "reconnect_in_ms": 500}
    assert not closed.is_set()
    peer.held.go.set()
    await closed.wait()
    assert peer.sink.replies("accepted") == ["one", "two"]
    await peer.leaves()


async def test_a_drain_closes_whenever_the_last_answer_is_given() -> None:
    """Also if that was between its being told and its first step: then nothing is left to wait for."""
    for turns in range(12):
        peer, closed = Peer(), asyncio.Event()
        peer.submits("one")
        await until(lambda peer=peer: peer.held.begun == ["one"], "it is being carried out")  # type: ignore[misc]
        peer.held.go.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        peer.connection.drain(500, closed.set)
        async with asyncio.timeout(20):
            await closed.wait()
        await peer.leaves()


async def test_a_drain_of_a_connection_that_asked_nothing_closes_it_at_once() -> None:
    peer = Peer()
    closed = asyncio.Event()
    peer.connection.drain(500, closed.set)
    assert closed.is_set()
    await peer.leaves()


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[FollowerPool, Stage]]:
    Clock().install(monkeypatch)
    async with redis_in_memory() as redis:
        stage = Stage(redis, session_log_on(redis))
        made = FollowerPool(stage.another, stage.log.own, linger_s=10)
        yield made, stage
        await made.aclose()


async def test_a_session_that_is_deleted_while_it_is_subscribed_again_still_counts(
    hub: tuple[FollowerPool, Stage],
) -> None:
    lender, stage = hub
    peer = Peer(lender)
    peer.says(type="subscribe", id="1", session="s")
    await until(lambda: peer.sink.replies("subscribed") == ["1"], "it is subscribed")
    await stage.log.delete("s", 60_000)
    peer.says(type="subscribe", id="2", session="s")
    await until(lambda: peer.sink.replies("subscribed") == ["1", "2"], "it is subscribed again")
    peer.says(type="subscribe", id="3", session="other")
    await until(lambda: peer.sink.replies("error") == ["3"], "max_subscriptions is 1")
    await peer.leaves()


async def test_a_connection_that_is_cancelled_while_it_leaves_gives_back_what_it_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clock().install(monkeypatch)
    async with redis_in_memory() as redis:
        stage = Stage(redis, session_log_on(redis))
        hub = FollowerPool(lambda _: stage.follower, stage.log.own, linger_s=0)
        before = asyncio.all_tasks()
        peer = Peer(hub)
        peer.says(type="subscribe", session="s", id="sub")
        await until(lambda: peer.sink.replies("subscribed") == ["sub"], "it is subscribed")
        peer.submits("one")
        await until(lambda: peer.held.begun == ["one"], "it is being carried out")
        peer.running.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        peer.running.cancel()  # what was asked is waited for
        await asyncio.wait([peer.running])
        await until(lambda: stage.source.listener is None, "the follower's end")
        await until(lambda: asyncio.all_tasks() <= before, "the end of all tasks")
        await hub.aclose()


async def test_a_newer_token_that_allows_less_ends_what_it_may_not_read(hub: tuple[FollowerPool, Stage]) -> None:
    pool, _ = hub
    known = Everything()
    known.tokens = {
        "wide": Identity("ann", frozenset({"read"})),
        "narrow": Identity("ann", frozenset({"read"}), sessions=("other",)),
    }
    peer = Peer(pool, known)  # type: ignore[arg-type]
    peer.says(type="subscribe", id="early", session="s")
    peer.says(type="hello", id="1", token="wide")
    peer.says(type="subscribe", id="2", session="s")
    await until(lambda: peer.sink.replies("subscribed") == ["2"], "it follows")
    assert [frame["code"] for frame in peer.sink.frames if frame.get("id") == "early"] == ["unauthenticated"]
    peer.says(type="refresh", id="3", token="narrow")
    await until(lambda: peer.sink.replies("refreshed") == ["3"], "the newer token counts")
    told = [(frame["type"], frame.get("session")) for frame in peer.sink.frames[-3:]]
    assert told == [("error", "s"), ("unsubscribed", "s"), ("refreshed", None)]
    peer.says(type="subscribe", id="4", session="s")
    await until(lambda: "4" in peer.sink.replies("error"), "it is refused")
    await peer.leaves()
    assert known.watching == {}


async def test_a_token_that_changes_while_a_subscribe_is_under_way_decides(hub: tuple[FollowerPool, Stage]) -> None:
    pool, _ = hub
    known = Everything()
    known.tokens = {
        "wide": Identity("ann", frozenset({"read"})),
        "narrow": Identity("ann", frozenset({"read"}), sessions=("other",)),
    }
    peer = Peer(pool, known)  # type: ignore[arg-type]
    peer.says(type="hello", token="wide")
    acquired, go = pool.acquire, asyncio.Event()

    async def slowly(*arguments: Any, **named: Any) -> Any:
        follower = await acquired(*arguments, **named)
        await go.wait()
        return follower

    pool.acquire = slowly  # type: ignore[method-assign]
    peer.says(type="subscribe", id="1", session="s")
    peer.says(type="refresh", id="2", token="narrow")
    await until(lambda: peer.sink.replies("refreshed") == ["2"], "the newer token counts")
    go.set()
    await until(lambda: peer.sink.replies("error") == ["1"], "it is refused")
    assert peer.sink.replies("subscribed") == []
    await peer.leaves()


async def test_who_says_no_good_hello_in_time_is_let_go() -> None:
    peer = Peer(authentication=Everything())  # type: ignore[arg-type]
    peer.says(type="ping", id="1")
    await until(lambda: peer.sink.replies("error") == ["1"], "it is told to say hello")
    peer.connection._greeting._hello_timer.on_due()
    assert [frame["code"] for frame in peer.sink.frames] == ["unauthenticated", "unauthenticated"]
    assert peer.sink.closed == (4501, "No hello with a good token came in time.")
    await peer.leaves()
