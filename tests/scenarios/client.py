"""A client that trusts nobody: it follows the contract's rules, and counts every frame that should not have come.

On one subscription the server sends everything once and in order. So a frame that the rules would drop is a doubled
one, a gap is a lost or reordered one, and both are errors here, not something to recover from.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from relay.protocol.view import FrameDict, Generation, SessionView
from tests.scenarios.checker import judge
from tests.scenarios.processes import TIMEOUT_S


class Client:
    """One connection after the other to a gateway, with the state of one session."""

    def __init__(self, url: str, session: str, codec: str = "json", headers: dict[str, str] | None = None) -> None:
        self.codec = codec
        self._coding: Any = {"json": msgspec.json, "msgpack": msgspec.msgpack}[codec]
        self.url = url.replace("http", "ws", 1) + "/v1/ws"
        self.session = session
        self.headers = headers or {}  # of the handshake, besides its own
        self.view = SessionView(session)
        self.frames: list[FrameDict] = []  # every log frame and `subscribed`, over all connections
        self.raw: list[bytes] = []  # the same, as they came
        self.kinds: list[str] = []  # types of all frames
        self.record: list[FrameDict] = []  # those that the rules let it take: what the checker judges
        self.holes = False  # it follows one generation only
        self.wrong: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.after_end: list[FrameDict] = []
        self.unsubscribed = 0  # times that it was told so unasked
        self.notices: list[tuple[str, float]] = []  # degraded and restored, and their loop times
        self.welcome: FrameDict = {}
        self.connection: ClientConnection | None = None
        self.gone = asyncio.Event()  # the other side has hung up
        self.heard_at = 0.0  # loop time of the last frame of any kind
        self._reader: asyncio.Task[None] | None = None
        self._replies: dict[str, asyncio.Future[FrameDict]] = {}
        self.news = asyncio.Condition()
        self._next_id = 0

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def connect(self, *, receive_buffer_bytes: int | None = None) -> None:
        """`receive_buffer_bytes`: what the kernel may hold for a client that does not read; it holds megabytes else."""
        address = urlsplit(self.url)
        sock = socket.socket()
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
        except OSError:
            sock.close()
            raise
        self.connection = await connect(
            self.url,
            sock=sock,
            subprotocols=[Subprotocol(f"relay.v1.{self.codec}")],
            additional_headers=self.headers,
            proxy=None,
            max_size=None,
            ping_interval=None,
        )
        self.gone.clear()
        self.welcome = self._coding.decode(await self.connection.recv())
        assert self.welcome["type"] == "welcome"
        self.heard_at = asyncio.get_running_loop().time()
        self._reader = asyncio.create_task(self._read(self.connection))

    async def disconnect(self) -> None:
        if self.connection is not None and self._reader is not None:
            await self.connection.close()
            await self._reader
            self.connection = None

    async def cut(self) -> None:
        """As a phone in a lift: the connection is gone, nobody says goodbye."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self.connection is not None:
            self.connection.transport.abort()
            self.connection = None

    async def command(self, **fields: Any) -> FrameDict:
        """Send a command with an id of its own; its reply, `error` included."""
        reply = await self.begin(**fields)
        return await asyncio.wait_for(reply, TIMEOUT_S)

    async def begin(self, **fields: Any) -> asyncio.Future[FrameDict]:
        assert self.connection is not None
        self._next_id += 1
        name = str(fields.get("id") or f"c{self._next_id}")
        reply = self._replies[name] = asyncio.get_running_loop().create_future()
        await self.connection.send(self._coding.encode({"id": name, **fields}), text=self.codec == "json")
        return reply

    async def subscribe(self, *, start: str = "start") -> FrameDict:
        """Follow the session from the cursor, if there is one."""
        return await self.command(**self.view.subscribe(start=start))

    async def submit(self, content: str, request_id: str = "r1", **fields: Any) -> str:
        """The generation of a question."""
        reply = await self.command(
            type="submit", session=self.session, request_id=request_id, content=content, **fields
        )
        assert reply["type"] == "accepted", reply
        return str(reply["generation"])

    async def stop(self, generation: str) -> FrameDict:
        return await self.command(type="stop", session=self.session, generation=generation)

    async def until(self, condition: Any, what: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until a condition on this client holds; looked at after every frame."""
        try:
            async with asyncio.timeout(timeout_s), self.news:
                await self.news.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"{what} did not come; the last frames: {self.frames[-5:]}") from None

    async def ended(self, generation: str, timeout_s: float = TIMEOUT_S) -> Generation:
        """The generation, once its end has come."""
        await self.until(
            lambda: generation in self.view.generations and self.view.generations[generation].end is not None,
            f"the end of {generation}",
            timeout_s,
        )
        return self.view.generations[generation]

    def shown(self, generation: str) -> Generation:
        return self.view.generations[generation]

    async def _read(self, connection: ClientConnection) -> None:
        try:
            async for raw in connection:
                assert isinstance(raw, str) == (self.codec == "json")
                frame = self._coding.decode(raw)
                self.heard_at = asyncio.get_running_loop().time()
                async with self.news:
                    self.take(frame, raw if isinstance(raw, bytes) else raw.encode())
                    self.news.notify_all()
        except ConnectionClosed:
            pass  # whoever waits for frames will notice
        finally:
            self.gone.set()

    def take(self, frame: FrameDict, raw: bytes = b"") -> None:
        """Apply one frame and judge it."""
        self.kinds.append(frame["type"])
        if frame.get("session") == self.session and (frame["type"] == "subscribed" or "seq" in frame):
            waiting = self.view.waiting
            outcome = self.view.apply(frame)
            if outcome != "dropped" or not waiting:
                self.record.append(frame)
            self.frames.append(frame)
            self.raw.append(raw)
            if outcome != "applied" and not waiting:
                self.wrong[outcome] += 1
            self._judge(frame)
        if frame["type"] in ("degraded", "restored"):
            self.notices.append((frame["type"], asyncio.get_running_loop().time()))
        if frame["type"] == "unsubscribed" and not frame.get("id"):
            self.unsubscribed += 1
        reply = self._replies.pop(frame.get("id") or "", None)
        if reply is not None and not reply.done():
            reply.set_result(frame)

    def _judge(self, frame: FrameDict) -> None:
        if frame["type"] == "subscribed" and not frame["recovered"]:
            self.ends.clear()
        events = frame["events"] if frame["type"] == "catchup" else [frame]
        for event in events:
            generation = event.get("generation", "")
            if self.ends[generation] and event["type"] != "message":
                self.after_end.append(event)
            if event["type"] == "end":
                self.ends[generation] += 1


def check(
    client: Client, generation: str, text: str, reason: str = "complete", voided: Sequence[str] | None = None
) -> FrameDict:
    """The client was sent `text`, byte for byte, as the contract promises it, and shows it. Returns the end."""
    end = judge(client.record, generation, text, reason, voided=voided, holes=client.holes).assert_clean()
    assert client.shown(generation).text.encode() == text.encode()
    assert not client.wrong, f"frames that should not have come: {client.wrong}"
    return end
