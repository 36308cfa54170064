"""The gateway's app under a server that is not ours: the plain `send` carries the same frames."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from relay.follow.broadcast import Burst
from relay.gateway.codecs import JSON
from relay.gateway.sinks import AsgiSink


class Peer:
    """The other side of an ASGI `send`: takes a message only when it is allowed to."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.may = asyncio.Semaphore(0)

    async def send(self, message: dict[str, Any]) -> None:
        await self.may.acquire()
        self.taken.append(message)

    def allow(self, count: int) -> None:
        for _ in range(count):
            self.may.release()


async def test_frames_go_out_in_order_and_a_close_comes_last() -> None:
    peer = Peer()
    peer.allow(10)
    sink = AsgiSink(peer.send, JSON, 1000)
    sink.send(b'{"a":1}')
    sink.burst(Burst(1, [b'{"b":2}', b'{"c":3}']))
    sink.close(1003, "no")
    await sink.aclose()
    assert [json.loads(message["text"]) for message in peer.taken[:3]] == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert peer.taken[3:] == [{"type": "websocket.close", "code": 1003, "reason": "no"}]


async def test_it_has_no_room_until_the_peer_takes_and_then_wakes_who_waits() -> None:
    peer = Peer()
    sink = AsgiSink(peer.send, JSON, 10)
    sink.send(b"x" * 8)
    assert sink.writable()
    sink.send(b"y" * 8)
    assert not sink.writable()
    waiting = asyncio.create_task(sink.room())
    peer.allow(1)
    await waiting
    assert (sink.unsent_bytes(), sink.taken_bytes()) == (8, 8)
    await sink.aclose()


async def test_a_peer_that_has_left_wakes_who_waits() -> None:
    async def gone(message: dict[str, Any]) -> None:
        raise RuntimeError("left")

    sink = AsgiSink(gone, JSON, 4)
    sink.send(b"x" * 8)
    await sink.room()
    await sink.aclose()
