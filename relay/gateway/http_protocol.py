"""uvicorn's HTTP protocol, changed where it trusts its peer.

- The ASGI extension `relay.connection` lets the application cut the connection. Otherwise a stream whose peer takes
  nothing could not be ended.
- Malformed requests are counted, and logged once a minute with what was wrong. uvicorn logs each, without that.
- A peer has limited time and bytes for sending a request, and limited time for taking the answer. uvicorn waits for
  ever for both.
- A request that is being answered learns that its peer has gone, even if others were sent after it. uvicorn tells only
  the last.
- Only HTTP/1.1 clients get chunks. uvicorn sends them to everybody.
- An upgrade to anything but a WebSocket is ignored (RFC 9110, section 7.8); Java's HttpClient asks for one with every
  first request. With uvicorn that request loses its body.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from relay import logging, metrics

_EXTENSION = "relay.connection"
REQUEST_TIMEOUT_S = 20.0  # for the head of a request, and for the first one to begin
STALL_S = 60.0  # in which a peer must take some part of a complete answer; streams have their own pulse
MAX_HEAD_BYTES = 64 * 1024  # and at most one read (of 256 KiB) more; also for trailers

_refused = logging.RateLimitedLog(logging.get_logger("http"), "bad_request")


def abort_of(scope: Mapping[str, Any]) -> Callable[[], None] | None:
    """What cuts the connection of a request; None on another server than ours."""
    extension: dict[str, Any] = scope.get("extensions", {}).get(_EXTENSION, {})
    return extension.get("abort")


def mark_stopping(state: ServerState) -> None:
    """The server stops. uvicorn tells existing connections, but would wait for one that was just accepted."""
    state.going = True  # type: ignore[attr-defined]  # every protocol of a server has this object


def is_stopping(state: ServerState) -> bool:
    return getattr(state, "going", False)


class RelayHttpProtocol(HttpToolsProtocol):
    """One connection, until it is upgraded to a WebSocket."""

    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _unfinished_bytes = 0  # since a head or a piece of a body was complete
    _answering: RequestResponseCycle | None = None
    _upgrade_at: int | None = None  # where the parser saw the end of a request that asked for another protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if is_stopping(self.server_state):
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._watch_stall(None)
        answering, self._answering = self._answering, None
        if answering is not None and not answering.response_complete:
            # uvicorn tells only the request that came last; the one being answered may have others after it.
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unfinished_bytes += len(data)
        self._parse(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self._unfinished_bytes > MAX_HEAD_BYTES:  # the parser copies a header again with every read
            self.send_400_response("The head of the request is too large.")
        elif self._timer is None and self._idle():
            self._await_head()  # the data ended uvicorn's wait for the next request, but began none

    def _parse(self, data: bytes) -> None:
        super().data_received(data)
        rest = memoryview(data)
        while self._upgrade_at is not None and not self.transport.is_closing():
            rest, self._upgrade_at = rest[self._upgrade_at :], None
            head = self._head_without_upgrade()
            # A new parser: this one takes the message for over, and with `close` or HTTP/1.0 the connection, too.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            super().data_received(head)
            if not self.transport.is_closing():
                super().data_received(cast(bytes, rest))

    def send_400_response(self, msg: str) -> None:
        _tell_refused(_what_is_wrong(sys.exception()) or msg)
        super().send_400_response(msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_stall(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch_stall(None)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()
        cast(dict[str, Any], self.scope)["extensions"] = {_EXTENSION: {"abort": self._abort}}

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._unfinished_bytes = 0
        if not self._ignores_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished_bytes = 0
        if not self._ignores_upgrade():
            super().on_message_complete()

    def _ignores_upgrade(self) -> bool:
        asked = bool(self.parser.should_upgrade()) and not self._should_upgrade()
        return asked and any(name == b"upgrade" for name, _ in self.headers)  # CONNECT has no such header

    def _unsupported_upgrade_warning(self) -> None:
        """uvicorn calls this while it handles the parser's exception, which says how far the parser came."""
        upgrade = sys.exception()
        if upgrade is not None and self._ignores_upgrade():
            self._upgrade_at = upgrade.args[0]

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if cycle.scope["http_version"] != "1.1":
            cycle.keep_alive = cycle.waiting_for_100_continue = False
            app = _without_chunks(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _abort(self) -> None:
        """The application returns before the transport reports its loss, which uvicorn would log as an error."""
        if self._answering is not None:
            self._answering.disconnected = True
        self.transport.abort()

    def _watch_stall(self, unsent: int | None) -> None:
        """Check after STALL_S whether less is unsent; None: stop checking."""
        if self._stall is not None:
            self._stall.cancel()
        self._stall = None if unsent is None else self.loop.call_later(STALL_S, self._check_stall, unsent)

    def _check_stall(self, before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        goes_on = self._answering is not None and not self._answering.response_complete
        if goes_on or unsent < before:
            self._watch_stall(unsent)
        else:
            self.transport.abort()

    def _idle(self) -> bool:
        """Whether there is no request, and uvicorn does not wait for one."""
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and not self.pipeline and self.timeout_keep_alive_task is None

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _without_chunks(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """A body of unknown length ends with the connection (RFC 9112, section 6.3)."""

    async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        has_length = False

        async def send_whole(message: ASGISendEvent) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", []))
                if not has_length:
                    cycle.chunked_encoding = False
            elif message["type"] == "http.response.body" and not has_length:
                while cycle.flow.write_paused and not cycle.disconnected:
                    await cycle.flow.drain()  # here, so that `send` takes this body at once
                cycle.expected_content_length = len(message.get("body", b""))  # what uvicorn must still expect
            await send(message)

        await app(scope, receive, send_whole)

    return answer


def _what_is_wrong(error: BaseException | None) -> str:
    """The parser's own message, without any text of the peer; "" if it has none."""
    if isinstance(error, httptools.HttpParserCallbackError):
        return "The address or a header cannot be read."
    return f"{error}." if isinstance(error, httptools.HttpParserError) else ""


def _tell_refused(what: str) -> None:
    metrics.bad_requests.inc()
    _refused.log(detail=what)
