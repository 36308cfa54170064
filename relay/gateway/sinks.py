"""Sinks: the sending side of each connection, with one interface for every transport and server.

A sink never waits. It says whether it has room. A sender with more than fits waits for `room`, and then sends what is
current by then. So a slow reader costs a cursor, not a queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from relay import metrics
from relay.follow.broadcast import Burst
from relay.gateway.codecs import Codec
from relay.gateway.deadlines import CLOSE_TIMEOUT_S
from relay.gateway.websocket_protocol import RelayWebSocketProtocol


class Sink(Protocol):
    """The sending side of one connection. `frame_lock`: hold it while making a catch-up frame for this sink."""

    frame_lock: asyncio.Lock

    def send(self, payload: bytes) -> None:
        """One frame."""

    def burst(self, burst: Burst) -> None:
        """Live events, encoded once for all sinks of a kind."""

    def writable(self) -> bool:
        """Whether there is room: less unsent than the viewer's buffer."""

    async def room(self) -> None:
        """Return when there is room or the connection is gone; `writable`, in the same step, says which."""

    def close(self, code: int, reason: str) -> None: ...


class Liveness(Protocol):
    """What a sink knows about its peer, to tell a dead peer from a slow one."""

    def unsent_bytes(self) -> int: ...

    def taken_bytes(self) -> int:
        """Bytes taken so far; stands still while the peer takes nothing."""

    def ping(self) -> None: ...

    def heard_at(self) -> float:
        """Loop time of the last bytes from the peer."""


class TransportSink:
    """Writes ready-made frames to uvicorn's transport, past every queue."""

    def __init__(self, protocol: RelayWebSocketProtocol, codec: Codec, buffer_bytes: int) -> None:
        self._protocol = protocol
        self.frame_lock = asyncio.Lock()
        self._frame = codec.frame
        self._room = asyncio.Event()
        self._room.set()
        protocol.limit_buffer(buffer_bytes)
        protocol.on_writable = self._room.set
        self.sent_at = asyncio.get_running_loop().time()

    def send(self, payload: bytes) -> None:
        self._write(self._frame(payload))
        metrics.frames.labels("single").inc()

    def burst(self, burst: Burst) -> None:
        self._write(burst.joined(self._frame))
        metrics.frames.labels("live").inc(len(burst.payloads))

    def writable(self) -> bool:
        return self._protocol.writable.is_set()

    async def room(self) -> None:
        while not self.writable() and not self._protocol.disconnected:
            self._room.clear()
            await self._room.wait()

    def close(self, code: int, reason: str) -> None:
        self._protocol.close(code, reason)

    def unsent_bytes(self) -> int:
        return self._protocol.unsent_bytes()

    def taken_bytes(self) -> int:
        return self._protocol.taken_bytes()

    def ping(self) -> None:
        self._protocol.ping()

    def heard_at(self) -> float:
        return self._protocol.heard_at

    def _write(self, frames: bytes) -> None:
        self.sent_at = asyncio.get_running_loop().time()
        self._protocol.write_frames(frames)


class BufferedSink:
    """A sink over an ASGI `send`: an outbox, bounded by `writable`, and one task that delivers it.

    It cannot ping, so it claims to have just heard from its peer; the server's own keepalive has to find dead ones.
    """

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]], buffer_bytes: int) -> None:
        self.closing: tuple[int, str] | None = None
        self.gone = asyncio.Event()
        self.frame_lock = asyncio.Lock()
        self._send = send
        self._buffer_bytes = buffer_bytes
        self._outbox: list[bytes] = []
        self._unsent = self._taken = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self.sent_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._run(), name="outbox")

    def send(self, payload: bytes) -> None:
        self.put(payload)
        metrics.frames.labels("single").inc()

    def burst(self, burst: Burst) -> None:
        for payload in burst.payloads:
            self.put(payload)
        metrics.frames.labels("live").inc(len(burst.payloads))

    def put(self, payload: bytes) -> None:
        """Queue it for delivery; ignored after a close."""
        if self.closing is None:
            self.sent_at = asyncio.get_running_loop().time()
            self._outbox.append(payload)
            self._unsent += len(payload)
            self._wake.set()

    def writable(self) -> bool:
        return self._unsent < self._buffer_bytes

    async def room(self) -> None:
        while not self.writable() and not self.gone.is_set():
            self._room.clear()
            await self._room.wait()

    def close(self, code: int, reason: str) -> None:
        self.closing = self.closing or (code, reason)
        self._wake.set()

    def unsent_bytes(self) -> int:
        return self._unsent

    def taken_bytes(self) -> int:
        return self._taken

    def ping(self) -> None:
        pass

    def heard_at(self) -> float:
        return asyncio.get_running_loop().time()

    async def aclose(self) -> None:
        """Let a requested close go out, then end."""
        try:
            if self.closing is not None:
                await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def deliver(self, payloads: list[bytes]) -> None:
        """Hand these to the server, in order; `delivered` counts them as they go."""
        raise NotImplementedError

    async def finish(self, code: int, reason: str) -> None:
        """Send the close."""
        raise NotImplementedError

    def delivered(self, size: int) -> None:
        self._unsent -= size
        self._taken += size
        if self.writable():
            self._room.set()

    async def _run(self) -> None:
        try:
            while self.closing is None or self._outbox:
                await self._wake.wait()
                self._wake.clear()
                outbox, self._outbox = self._outbox, []
                await self.deliver(outbox)
            await self.finish(*self.closing)
        except Exception:  # whatever a server raises when the peer has left; the reader learns of it, too
            metrics.closes.labels("gone").inc()
        finally:
            self.gone.set()
            self._room.set()


class AsgiSink(BufferedSink):
    """A WebSocket under any other ASGI server."""

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]], codec: Codec, buffer_bytes: int) -> None:
        self._codec = codec
        super().__init__(send, buffer_bytes)

    async def deliver(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            await self._send({"type": "websocket.send", self._codec.carrier: self._codec.message(payload)})
            self.delivered(len(payload))

    async def finish(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})
