"""Where frames leave: one sink per connection, the same for every transport and server.

A sink never waits. It tells whether it has room; whoever has more to send than fits waits for `room` and then sends
what is true by then. That is how a slow reader costs a cursor and not a queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from relay import metrics
from relay.gateway.websocket_protocol import CLOSE_TIMEOUT_S, RelayWebSocketProtocol, text_frame
from relay.log.follower import Burst


class Sink(Protocol):
    """The sending side of one connection."""

    def send(self, payload: bytes) -> None:
        """One frame."""

    def burst(self, burst: Burst) -> None:
        """Live events, encoded once for all sinks of a kind."""

    def writable(self) -> bool:
        """Whether there is room: less unsent than the viewer's buffer."""

    async def room(self) -> None:
        """Return when there is room, or the connection is gone."""

    def close(self, code: int, reason: str) -> None: ...


class Liveness(Protocol):
    """What a sink knows of its peer, for deciding who is dead and who is merely slow."""

    def unsent_bytes(self) -> int: ...

    def taken_bytes(self) -> int:
        """Bytes taken so far; stands still while the peer takes nothing."""

    def ping(self) -> None: ...

    def heard_at(self) -> float:
        """Loop time of the last bytes from the peer."""


class TransportSink:
    """Writes ready-made frames to uvicorn's transport, past every queue."""

    def __init__(self, protocol: RelayWebSocketProtocol, buffer_bytes: int) -> None:
        self._protocol = protocol
        self._room = asyncio.Event()
        self._room.set()
        protocol.limit_buffer(buffer_bytes)
        protocol.on_writable = self._room.set
        self.sent_at = asyncio.get_running_loop().time()

    def send(self, payload: bytes) -> None:
        self._write(text_frame(payload))
        metrics.frames.labels("single").inc()

    def burst(self, burst: Burst) -> None:
        self._write(burst.joined(text_frame))
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


class AsgiSink:
    """The same for any other ASGI server: a bounded outbox that one task empties with `send`.

    It cannot ping, so it claims to have heard from its peer just now; the server's own keepalive decides there.
    """

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]], buffer_bytes: int) -> None:
        self._send = send
        self._buffer_bytes = buffer_bytes
        self._outbox: list[bytes] = []
        self._closing: tuple[int, str] | None = None
        self._gone = False
        self._unsent = self._taken = 0
        self._stirred = asyncio.Event()
        self._room = asyncio.Event()
        self.sent_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._run(), name="asgi sink")

    def send(self, payload: bytes) -> None:
        self.sent_at = asyncio.get_running_loop().time()
        self._outbox.append(payload)
        self._unsent += len(payload)
        self._stirred.set()
        metrics.frames.labels("single").inc()

    def burst(self, burst: Burst) -> None:
        for payload in burst.payloads:
            self.send(payload)

    def writable(self) -> bool:
        return self._unsent < self._buffer_bytes

    async def room(self) -> None:
        while not self.writable() and not self._gone:
            self._room.clear()
            await self._room.wait()

    def close(self, code: int, reason: str) -> None:
        self._closing = (code, reason)
        self._stirred.set()

    def unsent_bytes(self) -> int:
        return self._unsent

    def taken_bytes(self) -> int:
        return self._taken

    def ping(self) -> None:
        pass

    def heard_at(self) -> float:
        return asyncio.get_running_loop().time()

    async def aclose(self) -> None:
        """Let a close that was said go out, then end."""
        if self._closing is not None:
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._closing is None or self._outbox:
                await self._stirred.wait()
                self._stirred.clear()
                outbox, self._outbox = self._outbox, []
                for payload in outbox:
                    await self._send({"type": "websocket.send", "text": payload.decode()})
                    self._unsent -= len(payload)
                    self._taken += len(payload)
                    if self.writable():
                        self._room.set()
            code, reason = self._closing
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except Exception:  # whatever a server raises when the peer has left; the reader hears of it, too
            metrics.closes.labels("gone").inc()
        finally:
            self._gone = True
            self._room.set()
