"""What viewers hear when a healthy Redis drops the gateway's subscription connection: 2,000 sessions are followed.

`CLIENT KILL TYPE pubsub`, three times, while one session in fifty has an answer running. Nobody should hear of it:
no `degraded`, no `unavailable` for those who subscribe in that moment, every frame in order. The times are of this
machine and hour; the counts are not.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from relay import embedded
from tests.scenarios.processes import until
from tests.scenarios.world import Gateway, World, world
from tests.sink_order import Order

SESSIONS = 2_000
PER_CONNECTION = 100
ASKING = 50  # one session in so many
NEWCOMERS = 100
DROPS = 3
WAIT_S = 60.0
_ROW = "{:>5} {:>9} {:>9} {:>11} {:>12} {:>9} {:>13} {:>8} {:>7}"
_COLUMNS = ("drop", "degraded", "restored", "subscribed", "unavailable", "new p95", "last heard s", "ended", "order")
_decode = msgspec.json.decode


def dropped() -> None:
    asyncio.run(_dropped())


async def _dropped() -> None:
    with embedded.embedded_server() as url, tempfile.TemporaryDirectory() as directory:
        async with world(url, Path(directory)) as relay:
            gateway = await relay.gateway()
            await relay.worker("--tokens-per-second", "20", provider="demo", RELAY_CONCURRENCY=str(SESSIONS))
            crowd = [Viewer(gateway, f"{n}-") for n in range(SESSIONS // PER_CONNECTION)]
            try:
                for viewer in crowd:
                    await viewer.follow(PER_CONNECTION)
                print(f"{SESSIONS} sessions followed over {len(crowd)} connections; times in ms, or s where named")
                print(_ROW.format(*_COLUMNS))
                for drop in range(1, DROPS + 1):
                    await _row(relay, gateway, crowd, drop)
            finally:
                for viewer in crowd:
                    await viewer.aclose()


async def _row(relay: World, gateway: Gateway, crowd: list[Viewer], drop: int) -> None:
    for viewer in crowd:
        viewer.heard.clear()
    asked = [viewer.session(n) for viewer in crowd for n in range(0, PER_CONNECTION, ASKING)]
    for viewer in crowd:
        await asyncio.gather(*[viewer.ask(n, f"{drop}-{n}") for n in range(0, PER_CONNECTION, ASKING)])
    newcomer = Viewer(gateway, f"new{drop}-")
    assert int(await relay.redis.client_kill_filter(_type="pubsub")) >= 1
    killed_at = time.monotonic()
    try:
        replies = await newcomer.follow(NEWCOMERS)
        await until(lambda: sum(viewer.heard["end"] for viewer in crowd) == len(asked), "the answers' ends", WAIT_S)
        heard = sum((viewer.heard for viewer in (*crowd, newcomer)), Counter[str]())
        late = max((viewer.notice_at for viewer in crowd), default=0.0) - killed_at
        print(
            _ROW.format(
                drop, heard["degraded"], heard["restored"], heard["subscribed"], heard["unavailable"],
                round(sorted(replies)[int(0.95 * len(replies))] * 1000), f"{max(late, 0):.1f}",
                f"{heard['end']}/{len(asked)}", heard["order"],
            ),
            flush=True,
        )  # fmt: skip
    finally:
        await newcomer.aclose()


class Viewer:
    """One connection that follows many sessions and counts what it hears of them unasked."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.heard: Counter[str] = Counter()
        self.notice_at = 0.0  # of the last `degraded` or `restored`
        self._url = gateway.url.replace("http", "ws", 1) + "/v1/ws"
        self._name = name
        self._order = Order()
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._connection: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    def session(self, n: int) -> str:
        return f"{self._name}{n}"

    async def follow(self, sessions: int) -> list[float]:
        """Connect and follow so many at once; how long each reply took, in seconds."""
        self._connection = await connect(
            self._url, subprotocols=[Subprotocol("relay.v1.json")], proxy=None, max_size=None, ping_interval=None
        )
        self._reader = asyncio.create_task(self._read(self._connection))
        began = time.monotonic()

        async def one(n: int) -> float:
            await self._command(f"s{n}", type="subscribe", session=self.session(n), start="start")
            return time.monotonic() - began

        return await asyncio.gather(*map(one, range(sessions)))

    async def ask(self, n: int, request_id: str) -> None:
        name = f"a{request_id}"
        fields = {"session": self.session(n), "request_id": request_id, "content": "Tell me about lighthouses."}
        reply = await self._command(name, type="submit", **fields)
        assert reply["type"] == "accepted", reply

    async def aclose(self) -> None:
        if self._connection is not None and self._reader is not None:
            await self._connection.close()
            await self._reader

    async def _command(self, name: str, **fields: Any) -> dict[str, Any]:
        assert self._connection is not None
        reply = self._replies[name] = asyncio.get_running_loop().create_future()
        await self._connection.send(msgspec.json.encode({"id": name, **fields}), text=True)
        return await asyncio.wait_for(reply, WAIT_S)

    async def _read(self, connection: ClientConnection) -> None:
        async for raw in connection:
            payload = raw.encode() if isinstance(raw, str) else raw
            self._take(_decode(payload), payload)

    def _take(self, frame: dict[str, Any], payload: bytes) -> None:
        if self._order.complaint(payload):
            self.heard["order"] += 1
        if frame["type"] in ("degraded", "restored"):
            self.notice_at = time.monotonic()
        if (name := frame.get("id")) is not None:
            if frame["type"] == "error":
                self.heard[frame["code"]] += 1
            if (reply := self._replies.pop(name, None)) is not None:
                reply.set_result(frame)
            return
        events = frame["events"] if frame["type"] == "catchup" else [frame]
        self.heard.update(event["type"] for event in events)
