"""The hot path: uvicorn's WebSocket protocol, extended so that a frame is built once and written to many.

The application gets it as the ASGI extension `relay.transport`. It adds: writing ready-made frames, the transport's
buffer (which peer is slow, and by how much), pings whose answers are noted, and answers to handshakes and bytes that
uvicorn 0.54 leaves hanging or logs with a traceback.
"""

from __future__ import annotations

import struct
from asyncio import TimerHandle
from collections.abc import Callable, Mapping
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.protocol import State

from relay.gateway.deadlines import CLOSE_TIMEOUT_S
from relay.gateway.http_protocol import is_stopping

_EXTENSION = "relay.transport"
SHUTDOWN_GRACE_S = 3.0
MAX_FRAGMENTS = 1024


def protocol_of(scope: Mapping[str, Any]) -> RelayWebSocketProtocol | None:
    """The protocol under a WebSocket; None on another server than ours."""
    extension: dict[str, Any] = scope.get("extensions", {}).get(_EXTENSION, {})
    return extension.get("protocol")


def text_frame(payload: bytes) -> bytes:
    """A whole text message as a server sends it: one unmasked frame (RFC 6455, section 5.2)."""
    return _header(0x81, len(payload)) + payload


def binary_frame(payload: bytes) -> bytes:
    """The same for a binary message."""
    return _header(0x82, len(payload)) + payload


def _header(first: int, size: int) -> bytes:
    if size < 126:
        return struct.pack("!BB", first, size)
    if size < 65536:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)


class RelayWebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection. `heard_at`: loop time of the last bytes from the peer."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._server_state = named["server_state"]
        self.heard_at = self.loop.time()
        self.on_writable: Callable[[], None] | None = None
        self.on_shutdown: Callable[[Callable[[], None]], None] | None = None  # must call its argument, in time
        self._written = 0
        self._abort_timer: TimerHandle | None = None

    # What the application uses

    def write_frames(self, frames: bytes) -> None:
        """Hand ready-made frames to the transport; ignored after a close."""
        if not self.close_sent and not self.transport.is_closing():
            self._written += len(frames)
            self.transport.write(frames)

    def limit_buffer(self, high_bytes: int) -> None:
        self.transport.set_write_buffer_limits(high=high_bytes)

    def limit_messages(self, max_bytes: int) -> None:
        """A larger message closes 1009, before it is read to its end."""
        self.conn.max_message_size = max_bytes

    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def taken_bytes(self) -> int:
        """Bytes that the kernel has taken so far; stands still while the peer takes nothing."""
        return self._written - self.unsent_bytes()

    def ping(self) -> None:
        if not self.close_sent and not self.transport.is_closing():
            self.conn.send_ping(b"relay")
            self._write_pending()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame after what is unsent; cut the connection if the peer does not follow in time.

        uvicorn would wait for room first: for ever, if the peer takes nothing.
        """
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    # Where it differs from uvicorn's

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if is_stopping(self._server_state):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        if not self.handshake_initiated:
            self._receive_handshake(data)
            return
        super().data_received(data)

    def _receive_handshake(self, data: bytes) -> None:
        """uvicorn never answers a handshake that websockets' parser rejects, and leaves the socket open."""
        self.conn.receive_data(data)
        if self.conn.handshake_exc is not None or self.conn.parser_exc is not None:
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
                b"Content-Length: 24\r\n\r\nThe handshake is broken."
            )
            self.transport.close()
            return
        self.handle_events()

    def send_receive_event_to_app(self) -> None:
        """uvicorn logs a traceback for text that is not UTF-8; it is the peer's error, closed with 1007."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.fail(1007, "invalid UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        """A peer that keeps sending pings and takes no answer gets none: pongs must not pile up."""
        if self.writable.is_set():
            self._write_pending()
        else:
            self.conn.data_to_send()

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self._abort_soon()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._abort_soon()

    def handle_pong(self, event: Frame) -> None:
        """`heard_at` has noted it; uvicorn's own keepalive is off (it would cut a reader that is merely slow)."""

    def handle_cont(self, event: Frame) -> None:
        """websockets bounds a message's bytes, but not into how many empty pieces it may be cut."""
        if len(self.frames) >= MAX_FRAGMENTS:
            self.frames = []
            self.conn.fail(1009, "too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        if self.on_writable is not None:
            self.on_writable()  # a sender that waits for room must not wait for ever

    def shutdown(self) -> None:
        """uvicorn raises here if the peer has closed already, which would end the shutdown of all others."""
        if self.handshake_complete and self.conn.state is not State.OPEN:
            self.transport.abort()
            return
        if self.on_shutdown is not None and self.handshake_complete and not self.close_sent:
            self.on_shutdown(self._shut)
        else:
            self._shut()

    def _shut(self) -> None:
        if self.handshake_complete and self.conn.state is not State.OPEN:
            return  # the peer was faster
        super().shutdown()
        self._abort_soon(SHUTDOWN_GRACE_S)

    async def send(self, message: Any) -> None:
        """uvicorn does not count a refused handshake as complete, and reports it as an error of the application."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    async def run_asgi(self) -> None:
        cast(dict[str, Any], self.scope["extensions"])[_EXTENSION] = {"protocol": self}
        await super().run_asgi()
        self._abort_soon()

    def _write_pending(self) -> None:
        data = b"".join(self.conn.data_to_send())
        self._written += len(data)
        self.transport.write(data)

    def _abort_soon(self, within_s: float = CLOSE_TIMEOUT_S) -> None:
        """Abort a closed transport in the end, which would otherwise wait for ever for its peer to take the rest."""
        if self.disconnected:
            return
        if self._abort_timer is not None:
            if self._abort_timer.when() <= self.loop.time() + within_s:
                return
            self._abort_timer.cancel()
        self._abort_timer = self.loop.call_later(within_s, self.transport.abort)
