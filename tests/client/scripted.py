"""A gateway that says what a test tells it to, over real sockets, however wrong."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from relay.protocol.view import FrameDict
from tests.protocol.logs import EPOCH, SESSION, Body

TIMEOUT_S = 10.0
LIMITS = {"max_command_bytes": 1000}


class Peer:
    """One connection, seen from the gateway."""

    def __init__(self, websocket: ServerConnection) -> None:
        self.websocket = websocket
        self.at = asyncio.get_running_loop().time()

    @property
    def authorization(self) -> str | None:
        assert self.websocket.request is not None
        return self.websocket.request.headers.get("Authorization")

    @property
    def path(self) -> str:
        """That was dialled, with its query."""
        assert self.websocket.request is not None
        return self.websocket.request.path

    async def welcome(self, heartbeat_s: float = 15, **more: Any) -> Peer:
        known = {"connection": "c", "protocol": "relay.v1", "heartbeat_s": heartbeat_s, "limits": LIMITS}
        await self.send(type="welcome", **known, **more)
        return self

    async def send(self, **frame: Any) -> None:
        await self.websocket.send(msgspec.json.encode(frame), text=True)

    async def command(self, kind: str, timeout_s: float = TIMEOUT_S) -> FrameDict:
        """The next command, which must be of this type."""
        async with asyncio.timeout(timeout_s):
            command: FrameDict = msgspec.json.decode(await self.websocket.recv())
        assert command["type"] == kind, command
        return command

    async def silent(self, for_s: float) -> None:
        """No command comes for a while."""
        try:
            async with asyncio.timeout(for_s):
                raise AssertionError(f"a command came: {await self.websocket.recv()!r}")
        except TimeoutError:
            return

    async def subscribed(self, *, at: int | None = None, **fields: Any) -> FrameDict:
        """Take a `subscribe` and answer it: recovered if it has a cursor, unless told otherwise."""
        command = await self.command("subscribe")
        cursor = command.get("cursor")
        known = {"session": command["session"], "epoch": EPOCH, "recovered": cursor is not None, "active": []}
        start = (cursor["seq"] if cursor else 0) if at is None else at
        await self.send(**{"type": "subscribed", "id": command["id"], "at": start, "head": start, **known, **fields})
        return command

    async def accepted(self, generation: str = "g1", *, duplicate: bool = False, **fields: Any) -> FrameDict:
        """Take a `submit` and answer it."""
        command = await self.command("submit")
        known = {"id": command["id"], "session": command["session"], "generation": generation, "duplicate": duplicate}
        await self.send(**{"type": "accepted", **known, **fields})
        return command

    async def live(self, seq: int, body: Body | FrameDict, session: str = SESSION) -> None:
        event = msgspec.json.decode(body) if isinstance(body, bytes) else body
        await self.send(**{"session": session, "seq": seq, **event})

    async def catchup(self, first: int, seq: int, *bodies: Body) -> None:
        events = [msgspec.json.decode(body) for body in bodies]
        await self.send(**{"type": "catchup", "session": SESSION, "from": first, "seq": seq, "events": events})

    async def close(self, code: int, reason: str = "") -> None:
        await self.websocket.close(code, reason)

    def cut(self) -> None:
        self.websocket.transport.abort()


class Scripted:
    """Listens on loopback; `peer` hands out the connections in the order in which they came."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: Server | None = None
        self.url = ""

    async def __aenter__(self) -> Scripted:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            self._port,
            subprotocols=[Subprotocol("relay.v1.json")],
            compression=None,
            ping_interval=None,
            close_timeout=0.2,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def peer(self, timeout_s: float = TIMEOUT_S) -> Peer:
        async with asyncio.timeout(timeout_s):
            return await self._peers.get()

    async def greeted(self, heartbeat_s: float = 15) -> Peer:
        return await (await self.peer()).welcome(heartbeat_s)

    @property
    def waiting(self) -> int:
        """Connections that nobody has asked for."""
        return self._peers.qsize()

    async def _serve(self, websocket: ServerConnection) -> None:
        self._peers.put_nowait(Peer(websocket))
        await websocket.wait_closed()
