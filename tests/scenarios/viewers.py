"""Viewers that come back: by themselves, with their cursor, whatever happens to their connection.

async with watching(relay, gateway.url, chance) as viewers:
    generation = await viewers.ask(gateway)
    ...
    await viewers.saw(generation, TEXT)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from relay.protocol.view import FrameDict
from tests.fakes.provider import Call
from tests.scenarios.client import Client, check
from tests.scenarios.event_source import EventSource
from tests.scenarios.processes import TIMEOUT_S
from tests.scenarios.world import Gateway, World

_CONNECT_S = 2.0
_PAUSE_S = 0.1
_STAYS_S = (0.05, 0.8)
_LOST = (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, EOFError, httpx2.HTTPError)


class Viewer:
    """One viewer of one session over WebSocket. `silence_s`: then a connection is dead.

    `leaves`: it hangs up every so often. `connections`: so far.
    """

    def __init__(
        self, name: str, url: str, session: str, chance: random.Random, silence_s: float, *, leaves: bool = False
    ) -> None:
        self.name = name
        self.client = Client(url, session, chance.choice(["json", "msgpack"]))
        self.connections = 0
        self._url = url
        self._chance = chance
        self._silence_s = silence_s
        self._leaves = leaves
        self._leaves_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self, when: Awaitable[Any] | None = None) -> None:
        """Watch from now on, or from then on. Only once: a second reader of one client sees everything twice."""
        assert self._task is None
        self._task = asyncio.create_task(self._watch(when), name=self.name)

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Until a condition on its client holds; fails at once if the viewer itself has failed."""
        assert self._task is not None
        waiting = asyncio.create_task(self.client.until(condition, f"{self.name}: {what}"))
        await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            waiting.cancel()
            self._task.result()
        await waiting

    async def shows(self, generation: str, tokens: int) -> None:
        await self.until(lambda: self.count(generation) >= tokens, f"{tokens} tokens")

    async def ended(self, generation: str) -> None:
        await self.until(lambda: self.client.ends[generation], f"the end of {generation}")

    async def settled(self) -> None:
        """Until whatever was on its way has come, or was lost with the connection."""
        if self.client.connection is not None:
            try:
                await self._alive_until(await self.client.begin(type="ping"))
            except ConnectionClosed:
                pass

    def count(self, generation: str) -> int:
        shown = self.client.view.generations.get(generation)
        return shown.count if shown is not None else 0

    async def _watch(self, when: Awaitable[Any] | None) -> None:
        if when is not None:
            await when
        loop = asyncio.get_running_loop()
        while True:
            self._leaves_at = loop.time() + (self._chance.uniform(*_STAYS_S) if self._leaves else 3600)
            try:
                await self._connection()
            except _LOST:
                pass  # it comes back
            await asyncio.sleep(_PAUSE_S * self._chance.random())

    async def _connection(self) -> None:
        """One connection, from its first byte until it is lost, dead or left."""
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self.client.connect()
            self.connections += 1
            while True:
                reply = await self.client.begin(**self.client.view.subscribe())
                if not await self._alive_until(reply):
                    return
                if reply.result()["type"] == "subscribed":
                    break
                await asyncio.sleep(_PAUSE_S)  # unavailable
            await self._alive_until(asyncio.get_running_loop().create_future())
        finally:
            await self.client.cut()

    async def _alive_until(self, wanted: asyncio.Future[FrameDict]) -> bool:
        """Whether it came, before the connection was over."""
        gone: asyncio.Future[Any] = asyncio.ensure_future(self.client.gone.wait())
        either: list[asyncio.Future[Any]] = [wanted, gone]
        loop = asyncio.get_running_loop()
        try:
            while not wanted.done() and not gone.done():
                left_s = min(self._leaves_at, self.client.heard_at + self._silence_s) - loop.time()
                if left_s <= 0:
                    return False
                await asyncio.wait(either, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            return wanted.done()
        finally:
            gone.cancel()


class StreamViewer(Viewer):
    """The same over Server-Sent Events, resumed by `Last-Event-ID`."""

    async def _connection(self) -> None:
        client, cursor, loop = self.client, self.client.view.cursor, asyncio.get_running_loop()
        headers = {"Last-Event-ID": f"{cursor.epoch}:{cursor.seq}"} if cursor is not None else {}
        client.view.subscribe()
        url = f"{self._url}/v1/sessions/{client.session}/events"
        stream = EventSource(url, client, headers=headers)
        async with asyncio.timeout(_CONNECT_S) as connecting, stream:
            connecting.reschedule(None)
            self.connections += 1
            while not stream.over.is_set() and loop.time() < min(self._leaves_at, stream.heard_at + self._silence_s):
                await stream.heard(_PAUSE_S)


class Viewers:
    """Several viewers of one session: a steady one, a restless one, one that comes late, and one by another way."""

    def __init__(self, relay: World, url: str, chance: random.Random, silence_s: float) -> None:
        self.session = "s"
        self._relay = relay
        self._chance = chance
        self._watching = False
        self.steady = Viewer("steady", url, self.session, chance, silence_s)
        self.restless = Viewer("restless", url, self.session, chance, silence_s, leaves=True)
        self.late = Viewer("late", url, self.session, chance, silence_s)
        self.stream = StreamViewer("stream", url, self.session, chance, silence_s)
        self.all = [self.steady, self.restless, self.late, self.stream]

    async def ask(self, gateway: Gateway, *, provider_is_asked: bool = True) -> str:
        """Submit, past every fault. The first time, begin to watch: the late one at a random token of the answer."""
        first, self._watching = not self._watching, True
        if first:
            for viewer in (self.steady, self.restless, self.stream):
                viewer.start()
        await self.steady.until(lambda: not self.steady.client.view.waiting, "subscribed")
        path = f"/v1/sessions/{self.session}/generations"
        status, reply, _ = await gateway.http("POST", path, {"content": "Go"})
        assert status == 202, reply
        if first:
            late = self._chance.randrange(len(self._script_tokens()))
            self.late.start(self._sent(late) if provider_is_asked else None)
        return str(reply["generation"])

    async def saw(self, generation: str, text: str, reason: str = "complete") -> FrameDict:
        """All of them come to the same end, with exactly this text, and nothing follows it."""
        for viewer in self.all:
            await viewer.ended(generation)
        await self.steady.settled()
        ends = [check(viewer.client, generation, text, reason) for viewer in self.all]
        return ends[0]

    async def _sent(self, tokens: int) -> None:
        """Until the provider has come so far, or to its end."""
        await self._relay.fake.wait_for(
            lambda fake: fake.calls and (fake.calls[0].sent >= tokens or _is_over(fake.calls[0])), TIMEOUT_S
        )

    def _script_tokens(self) -> list[str]:
        script = self._relay.fake.script
        assert not callable(script)
        return script.tokens


def _is_over(call: Call) -> bool:
    return call.held or call.finished or call.client_gone_at is not None


@asynccontextmanager
async def watching(
    relay: World, url: str, chance: random.Random, silence_s: float = TIMEOUT_S
) -> AsyncIterator[Viewers]:
    """`url`: of the gateway, or of a wire to it. A gateway's heartbeat has to be well below `silence_s`."""
    viewers = Viewers(relay, url, chance, silence_s)
    try:
        yield viewers
    finally:
        for viewer in viewers.all:
            await viewer.aclose()
