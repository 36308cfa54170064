"""uvicorn's HTTP protocol, opened up in three places.

It offers the application, as the ASGI extension `relay.connection`, to cut the connection: a stream whose peer takes
nothing could else not be ended. It gives a peer only so long to say what it wants: uvicorn waits for ever. And it tells
a request whose answer runs that its peer has gone, also if others were sent behind it: uvicorn tells only the last.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

EXTENSION = "relay.connection"
REQUEST_TIMEOUT_S = 20.0  # for the head of a request, and for the first one to begin


class RelayHttpProtocol(HttpToolsProtocol):
    """One connection, until it is upgraded to a WebSocket."""

    _timer: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        answering, self._answering = self._answering, None
        if answering is not None and not answering.response_complete:
            # uvicorn tells the request that came last; the one being answered may have others behind it.
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()
        cast(dict[str, Any], self.scope)["extensions"] = {EXTENSION: {"abort": self.transport.abort}}

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
