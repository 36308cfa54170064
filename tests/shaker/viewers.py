"""Viewers that come, go and come back with their cursor, to whichever gateway, over WebSocket or as event streams.

They apply the contract's rules for what belongs to a subscription, and nothing else; none shares code with a client of
ours. What they were sent is judged when all is over.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import httpx2
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.typing import Subprotocol

from relay.protocol.view import FrameDict

CONNECT_S = 20.0
STAYS_S = (0.05, 2.5)
_LOST = (OSError, TimeoutError, WebSocketException, InvalidHandshake, EOFError, httpx2.HTTPError)


class Book:
    """What one viewer was sent over all its connections. `asked_s`: loop time of the subscribe in force."""

    def __init__(
        self, name: str, on_event: Callable[[Book, str], None], on_alarm: Callable[[Book], None], *, live: bool = False
    ) -> None:
        self.name = name
        self.record: list[FrameDict] = []
        self.asked_s = 0.0
        self.epoch = ""
        self.last = 0
        self._live = live
        self._on_event = on_event
        self._on_alarm = on_alarm

    @property
    def cursor(self) -> str:
        return f"{self.epoch}:{self.last}" if self.epoch else ""

    @property
    def start(self) -> str:
        """Live only where it has nothing yet."""
        return "live" if self._live and not self.epoch else "start"

    @property
    def began_at(self) -> int:
        """Where what it was sent begins, since it was last told to forget what it had."""
        begun = [frame for frame in self.record if frame["type"] == "subscribed" and not frame["recovered"]]
        return int(begun[-1]["at"]) if begun else 0

    def take(self, frame: FrameDict) -> None:
        if frame["type"] == "subscribed":
            self.epoch, self.last = frame["epoch"], frame["at"]
        elif "seq" in frame:
            self.last = frame["seq"]
            for event in frame["events"] if frame["type"] == "catchup" else [frame]:
                if event.get("generation"):
                    self._on_event(self, event["generation"])
        else:
            if frame["type"] == "degraded":
                self._on_alarm(self)
            return
        self.record.append(frame)


class Viewer:
    """One person's device. `steady`: from then on it stays."""

    def __init__(self, session: str, book: Book, urls: list[str], chance: random.Random) -> None:
        self.book = book
        self.steady = asyncio.Event()
        self._session = session
        self._urls = urls
        self._chance = chance
        self.task = asyncio.create_task(self._run(), name=book.name)

    async def aclose(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._connection(self._chance.choice(self._urls))
            except _LOST:
                pass  # it comes back
            await asyncio.sleep(self._chance.uniform(0, 0.3))

    async def _connection(self, url: str) -> None:
        """One connection, until it is lost, or left."""
        raise NotImplementedError

    async def _while_it_stays(self, reading: asyncio.Task[Any]) -> None:
        """Until everything is read, or, as long as nobody has told it to stay, it has had enough."""
        leaves = asyncio.create_task(self._leaves())
        try:
            await asyncio.wait([reading, leaves], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, leaves):
                task.cancel()
            outcomes = await asyncio.gather(reading, leaves, return_exceptions=True)
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]

    async def _leaves(self) -> None:
        await asyncio.sleep(self._chance.uniform(*STAYS_S))
        if self.steady.is_set():
            await asyncio.Event().wait()


class WebSocketViewer(Viewer):
    _asked = 0

    async def _connection(self, url: str) -> None:
        codec: Any = self._chance.choice([msgspec.json, msgspec.msgpack])
        name = Subprotocol("relay.v1.json" if codec is msgspec.json else "relay.v1.msgpack")
        address = url.replace("http", "ws", 1) + "/v1/ws"
        async with asyncio.timeout(CONNECT_S) as connecting:
            connection = await connect(address, subprotocols=[name], proxy=None, max_size=None, ping_interval=None)
            connecting.reschedule(None)
            try:
                await self._while_it_stays(asyncio.create_task(self._read(connection, codec)))
            finally:
                connection.transport.abort()

    async def _read(self, connection: Any, codec: Any) -> None:
        waiting = await self._subscribe(connection, codec)
        async for raw in connection:
            frame = codec.decode(raw)
            kind, reply = frame["type"], frame.get("id")
            if kind == "error" and reply == waiting:
                await asyncio.sleep(0.1)
                waiting = await self._subscribe(connection, codec)
            elif kind == "unsubscribed":
                return  # deleted; it asks again
            elif waiting and not (kind == "subscribed" and reply == waiting):
                pass  # of an earlier subscription
            else:
                waiting = ""
                self.book.take(frame)
            if not waiting and self._chance.random() < 0.01:  # the same connection may subscribe again at any time
                waiting = await self._subscribe(connection, codec)

    async def _subscribe(self, connection: Any, codec: Any) -> str:
        self._asked += 1
        self.book.asked_s = asyncio.get_running_loop().time()
        command: FrameDict = {"type": "subscribe", "id": f"n{self._asked}", "session": self._session}
        if self.book.cursor:
            command["cursor"] = {"epoch": self.book.epoch, "seq": self.book.last}
        elif self.book.start == "live":
            command["from"] = "live"
        await connection.send(codec.encode(command), text=codec is msgspec.json)
        return str(command["id"])


class StreamViewer(Viewer):
    """An event stream of the session. With `only`, of one generation: then it is over with that."""

    def __init__(
        self, session: str, book: Book, urls: list[str], chance: random.Random, only: str | None = None
    ) -> None:
        self.over = asyncio.Event()
        self.only = only
        self.after_end = ""  # what came then, instead of the close
        self.came_too_late = False  # what it wanted live had ended before it was subscribed to
        super().__init__(session, book, urls, chance)

    async def _run(self) -> None:
        while not self.over.is_set():
            try:
                await self._connection(self._chance.choice(self._urls))
            except _LOST:
                pass  # it comes back
            await asyncio.sleep(self._chance.uniform(0, 0.3))

    async def _connection(self, url: str) -> None:
        self.book.asked_s = asyncio.get_running_loop().time()
        parameters = {"from": self.book.start, **({"generation": self.only} if self.only else {})}
        headers = {"Last-Event-ID": self.book.cursor} if self.book.cursor else {}
        timeout = httpx2.Timeout(CONNECT_S, read=None)
        async with httpx2.AsyncClient(trust_env=False, timeout=timeout) as http:
            request = http.build_request(
                "GET", f"{url}/v1/sessions/{self._session}/events", params=parameters, headers=headers
            )
            async with asyncio.timeout(CONNECT_S):
                response = await http.send(request, stream=True)
            try:
                if response.status_code == 200:
                    await self._while_it_stays(asyncio.create_task(self._read(response)))
                elif self.only and response.status_code in (204, 404):  # it was seen to its end; it is no more
                    self.came_too_late = response.status_code == 204 and self.book.start == "live"
                    self.over.set()
            finally:
                await response.aclose()

    async def _read(self, response: httpx2.Response) -> None:
        ended = False
        async for event in httpx2.EventSource(response, max_event_size=None):
            if event.data and ended:
                self.after_end = event.event
            elif event.data:
                frame = json.loads(event.data)
                if event.event == "unsubscribed" or (self.only and event.event == "error"):
                    self.over.set() if self.only else None
                    return
                self.book.take(frame)
                ended = self.only is not None and any(e["type"] == "end" for e in frame.get("events", [frame]))
        if ended:
            self.over.set()
