"""The clients of `relay bench` notice whatever a relay could do wrong: proved against one that does it."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from relay.bench.figures import Tally
from relay.bench.sessions import Load, Sessions
from relay.errors import RelayError

Frame = dict[str, Any]
Frames = list[Frame]
WORDS = ["One ", "two ", "three ", "four."]


def _answer(session: str) -> Frames:
    """An honest one, live event by live event."""
    frames: Frames = [{"type": "status", "state": "queued"}]
    frames += [{"type": "tokens", "index": index, "count": 1, "text": word} for index, word in enumerate(WORDS)]
    text = "".join(WORDS).encode()
    proof = {"count": len(WORDS), "text_bytes": len(text), "crc32": zlib.crc32(text)}
    frames.append({"type": "end", "reason": "complete", **proof, "timings_ms": {"total": 1}})
    return [
        {"session": session, "seq": seq, "generation": "g_1", "attempt": 1, **frame}
        for seq, frame in enumerate(frames, 1)
    ]


class Gateway:
    """Sends its one answer as `tampered` makes it, and honestly to whoever subscribes again."""

    def __init__(self, tampered: Callable[[Frames], Frames], *, hangs_up: bool = False) -> None:
        self._tampered = tampered
        self._hangs_up = hangs_up
        self._asked = False
        self.url = ""

    async def __call__(self, websocket: ServerConnection) -> None:
        await self._send(websocket, {"type": "welcome"})
        try:
            async for raw in websocket:
                await self._on_command(websocket, json.loads(raw))
        except ConnectionClosed:
            pass  # it has seen enough

    async def _on_command(self, websocket: ServerConnection, command: Frame) -> None:
        session = command["session"]
        if command["type"] == "submit":
            self._asked = True
            accepted = {"type": "accepted", "id": command["id"], "session": session, "generation": "g_1"}
            await self._send(websocket, accepted, *self._tampered(_answer(session)))
            if self._hangs_up:
                await websocket.close(1012)
            return
        at = command["cursor"]["seq"] if command.get("cursor") else 0
        subscribed = {"type": "subscribed", "id": command["id"], "session": session, "epoch": "e", "at": at}
        subscribed |= {"head": at, "recovered": at > 0, "active": []}
        await self._send(websocket, subscribed, *(_answer(session)[at:] if self._asked else []))

    @staticmethod
    async def _send(websocket: ServerConnection, *frames: Frame) -> None:
        for frame in frames:
            await websocket.send(json.dumps(frame))


@asynccontextmanager
async def _serving(gateway: Gateway) -> AsyncIterator[str]:
    async with serve(gateway, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _tally(gateway: Gateway) -> Tally:
    async with _serving(gateway) as url, asyncio.timeout(20):
        sessions = Sessions(Load(sessions=1, viewers=1, answers=1, seconds=None, ramp_s=0, queue="default"), url)
        await sessions.run()
    return sessions.tally


def _changed(frames: Frames) -> Frames:
    return [{**frame, "text": "TWO "} if frame.get("text") == "two " else frame for frame in frames]


@pytest.mark.parametrize(
    ("tampered", "wrong"),
    [
        (lambda frames: frames, {}),
        (lambda frames: frames[:2] + frames[3:], {"lost": 1}),
        (lambda frames: frames[:1] + frames[4:], {"lost": 3}),
        (lambda frames: [*frames[:3], frames[2], *frames[3:]], {"doubled": 1}),
        (lambda frames: [*frames[:2], frames[3], frames[2], *frames[4:]], {"reordered": 1}),
        (_changed, {"wrong_text": 1}),
    ],
    ids=["nothing", "an event lost", "three events lost", "an event doubled", "two events swapped", "another text"],
)
async def test_it_counts_what_was_tampered_with(tampered: Callable[[Frames], Frames], wrong: dict[str, int]) -> None:
    tally = await _tally(Gateway(tampered))
    assert tally.wrong == {"lost": 0, "doubled": 0, "reordered": 0, "wrong_text": 0, **wrong}
    assert tally.good == (not wrong)
    assert (tally.asked, tally.complete) == (1, 1)


async def test_a_connection_that_breaks_is_resumed_and_nothing_is_wrong_with_that() -> None:
    tally = await _tally(Gateway(lambda frames: frames[:3], hangs_up=True))
    assert tally.good
    assert (tally.complete, tally.reconnects) == (1, 1)
    assert tally.tokens == len(WORDS)


async def test_nobody_there_is_a_sentence() -> None:
    async with _serving(Gateway(lambda frames: frames)) as url:
        pass
    load = Load(sessions=3, viewers=2, answers=1, seconds=None, ramp_s=0, queue="default")
    with pytest.raises(RelayError, match="cannot be reached"):
        await Sessions(load, url).run()
