"""A viewer: a cursor into a follower. What its sink has no room for waits in the log, not here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from relay.follow.broadcast import Burst
from relay.follow.replay import Trimmed
from relay.gateway.codecs import JSON
from relay.gateway.sinks import AsgiSink
from relay.gateway.viewer import MAX_BURST_BYTES, Viewer
from tests.follow.following import MAX_FRAME_BYTES, Stage
from tests.sink_order import Order
from tests.store.in_memory import Clock, redis_in_memory, session_log_on

WAIT_S = 10


class Tray:
    """A sink that has room when the test says so, and keeps what it was given."""

    def __init__(self) -> None:
        self.frame_lock = asyncio.Lock()
        self.frames: list[dict[str, Any]] = []
        self.bursts = 0
        self.open = asyncio.Event()
        self.open.set()
        self._order = Order()

    def send(self, payload: bytes) -> None:
        assert not self._order.complaint(payload)
        self.frames.append(msgspec.json.decode(payload))

    def burst(self, burst: Burst) -> None:
        self.bursts += 1
        for payload in burst.payloads:
            self.send(payload)

    def writable(self) -> bool:
        return self.open.is_set()

    async def room(self) -> None:
        await self.open.wait()

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)

    def spans(self) -> list[tuple[int, int]]:
        return [(frame.get("from", frame["seq"]), frame["seq"]) for frame in self.frames if "seq" in frame]


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    Clock().install(monkeypatch)
    async with redis_in_memory() as redis:
        made = Stage(redis, session_log_on(redis), window_bytes=1_000_000)
        await made.follower.start()
        yield made
        await made.aclose()


@pytest.fixture
async def tray(stage: Stage) -> AsyncIterator[Tray]:
    tray = Tray()
    viewer = Viewer(stage.follower, tray, lambda _: None)
    viewer.begin(None, "start", None)
    yield tray
    await viewer.aclose()


async def settled(stage: Stage) -> None:
    """Let what is due on the loop happen; nothing here waits for anything else."""
    stage.deliver()
    for _ in range(20):
        await asyncio.sleep(0)


async def test_who_keeps_up_gets_each_burst_as_it_is(stage: Stage, tray: Tray) -> None:
    await stage.tokens("a", "b")
    await settled(stage)
    await stage.tokens("c")
    await settled(stage)
    assert tray.bursts == 2
    assert tray.spans() == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]


async def test_who_has_no_room_gets_what_he_missed_in_one_frame_and_then_keeps_up(stage: Stage, tray: Tray) -> None:
    await stage.tokens("a")
    await settled(stage)
    tray.open.clear()
    for text in "bcd":
        await stage.tokens(text)
        await settled(stage)
    assert tray.spans()[-1] == (3, 3)
    tray.open.set()
    await settled(stage)
    assert tray.spans()[3:] == [(4, 6)]
    await stage.tokens("e")
    await settled(stage)
    assert tray.spans()[4:] == [(7, 7)]
    assert tray.bursts == 2


async def test_more_at_once_than_a_viewer_should_hold_comes_merged(stage: Stage, tray: Tray) -> None:
    batches = MAX_BURST_BYTES // 1000 + 1
    await stage.tokens(*["x" * 1000] * batches)
    await settled(stage)
    assert tray.bursts == 0
    assert tray.spans()[0][0] == 1
    assert tray.spans()[-1][1] == batches + 2
    assert len(tray.spans()) > 1  # the stage's frames are small
    await stage.tokens("y")
    await settled(stage)
    assert tray.bursts == 1


class Gone(Tray):
    """Its peer has left with unsent bytes on the way: there is no room, and nobody waits for it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = False
        self.asked = 0

    def writable(self) -> bool:
        self.asked += 1
        assert self.asked < 1000, "it asks without end"
        return super().writable()

    async def room(self) -> None:
        if not self.gone:
            await super().room()


async def test_a_viewer_whose_peer_has_left_holds_up_nobody(stage: Stage) -> None:
    sink = Gone()
    viewer = Viewer(stage.follower, sink, lambda _: None)
    viewer.begin(None, "start", None)
    await stage.tokens("a")
    await settled(stage)
    sink.open.clear()
    await stage.tokens("b")
    await settled(stage)
    sink.gone = True
    sink.open.set()
    sink.open.clear()
    await settled(stage)
    assert sink.spans()[-1] == (3, 3)
    viewer.restart()  # it may still be told of things, until its connection lets it go
    await settled(stage)
    await viewer.aclose()


@pytest.mark.parametrize("lost", [False, True])
async def test_restored_comes_behind_what_was_missed(stage: Stage, tray: Tray, lost: bool) -> None:
    await stage.tokens("a")
    await settled(stage)
    stage.follower.broadcast.degraded()
    if lost:
        stage.follower.broadcast.restart()
    await stage.tokens("b")
    stage.deliver()
    stage.follower.broadcast.restored()  # in the turn in which a look has found it
    await settled(stage)
    assert [frame["type"] for frame in tray.frames][-1] == "restored"
    assert tray.spans()[-1][1] == 4


async def test_who_was_told_that_it_is_degraded_and_subscribes_again_is_told_that_it_is_restored(
    stage: Stage,
) -> None:
    tray = Tray()
    first, second, third = (Viewer(stage.follower, tray, lambda _: None) for _ in range(3))
    first.begin(None, "start", None)
    await stage.tokens("a")
    await settled(stage)
    stage.follower.broadcast.degraded()
    tray.open.clear()
    await stage.tokens("b")
    await settled(stage)
    stage.follower.broadcast.restored()  # there is no room for what it lacks
    await first.aclose()
    tray.frames.clear()
    second.begin(None, "start", None, earlier=first)
    tray.open.set()
    await settled(stage)
    assert [frame["type"] for frame in tray.frames] == ["subscribed", "catchup", "restored"]
    await second.aclose()
    third.begin(None, "start", None, earlier=second)  # which owes nothing
    await settled(stage)
    assert [frame["type"] for frame in tray.frames][3:] == ["subscribed", "catchup"]
    await third.aclose()


async def test_all_the_catch_ups_of_a_connection_together_hold_its_buffer_and_one_frame(
    stage: Stage, seqs_in_order_at_every_sink: list[str]
) -> None:
    """Each would make a frame, and put it behind those of the others."""
    stuck = asyncio.Event()

    async def take_nothing(_: Any) -> None:
        await stuck.wait()

    await stage.tokens(*["x" * 500] * 40)
    await settled(stage)
    stage.follower.window.clear()  # a read of the log lies between the look for room and the frame
    sink = AsgiSink(take_nothing, JSON, 2000)
    viewers = [Viewer(stage.follower, sink, lambda _: None) for _ in range(50)]
    for viewer in viewers:
        stage.follower.broadcast.viewers.add(viewer)
        viewer._catch_up()  # without the 50 replies to `subscribe`, which have their own bound
    for _ in range(500):
        await asyncio.sleep(0)
    assert 2000 <= sink.unsent_bytes() <= 2000 + MAX_FRAME_BYTES
    for viewer in viewers:
        await viewer.aclose()
    stuck.set()
    await sink.aclose()
    seqs_in_order_at_every_sink.clear()  # fifty of one session, and none has begun


class Speechless(Tray):
    """It has no words for what is to be said."""

    def __init__(self) -> None:
        super().__init__()
        self.closes: list[int] = []

    def burst(self, burst: Burst) -> None:
        raise RecursionError

    def close(self, code: int, reason: str) -> None:
        self.closes.append(code)


async def test_what_cannot_be_said_to_some_is_said_to_all_others(stage: Stage) -> None:
    trays = [Speechless(), Tray(), Speechless(), Tray(), Speechless(), Tray(), Speechless()]
    viewers = [Viewer(stage.follower, tray, lambda _: None) for tray in trays]
    for viewer in viewers:
        viewer.begin(None, "start", None)
    for text in "ab":
        await stage.tokens(text)
        await settled(stage)
    for tray in trays:
        if isinstance(tray, Speechless):
            assert (tray.closes, tray.spans()) == ([1011], [])
        else:
            assert tray.spans() == [(1, 1), (2, 2), (3, 3), (4, 4)]
    for viewer in viewers:
        await viewer.aclose()


async def test_what_an_earlier_life_has_forgotten_begins_no_later_one_anew(
    stage: Stage, tray: Tray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def forgotten(*_: Any) -> Any:
        asked.set()
        await go.wait()
        raise Trimmed

    tray.open.clear()
    await stage.tokens("a", "b")
    await settled(stage)
    stage.follower.window.clear()
    with monkeypatch.context() as patched:
        patched.setattr(stage.follower.pages, "segment_after", forgotten)
        tray.open.set()
        await asyncio.wait_for(asked.wait(), WAIT_S)
    await stage.log.rotate("s", stage.follower.epoch, missing=False)
    await stage.follower.sync()
    go.set()
    await settled(stage)
    assert [frame["type"] for frame in tray.frames].count("subscribed") == 2
    assert tray.spans() == [(1, 4)]
