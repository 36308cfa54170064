"""Who may knock: browsers only from the gateway's own origin and host.

Any page a developer visits can send requests to their loopback, and a DNS name can be re-bound to it. So a request
that carries an Origin must come from this gateway or an allowed origin, and the Host must be one that this gateway
is known by: an address, localhost, its own --host, or the host of an allowed origin.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from relay import logging
from relay.errors import ClientError
from relay.gateway.answers import error_answer
from relay.origins import Origins, host_name, is_loopback

TOLD_EVERY_S = 60.0
_TOLD_AT_ONCE = 10  # different ones in that time
_SHOWN = 200  # characters of what a client sent
_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})  # for probes that know us by any name; nothing of a client's
_SETTING = "RELAY_ALLOWED_ORIGINS"

log = logging.get("guard")


class Guard:
    """ASGI middleware. Refuses with 403 `forbidden`, before anything of the request is read.

    Whom it lets in from another origin gets the CORS headers.
    """

    def __init__(self, app: ASGIApp, host: str, allowed_origins: str) -> None:
        self._app = app
        self._with_cors = CORSMiddleware(
            app,
            allow_origin_regex=".*",  # who has come so far is allowed
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Content-Type", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["Retry-After"],
        )
        self._origins = Origins(allowed_origins, loopback=is_loopback(host))
        self._own_host = host.lower()
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        is_allowed = origin is not None and self._origins.allows(origin, host)
        refusal = _ambiguous(headers)
        if refusal is None and scope["path"] not in _OPEN:
            refusal = self._refusal(host, origin, is_allowed)
        if refusal is None:
            await (self._with_cors if is_allowed else self._app)(scope, receive, send)
        elif scope["type"] == "http":
            await error_answer(refusal)(scope, receive, send)
        else:
            await WebSocket(scope, receive, send).send_denial_response(error_answer(refusal))

    def _refusal(self, host: str, origin: str | None, is_allowed: bool) -> ClientError | None:
        if not self._knows(host):
            self._refusals.tell("host_refused", host=host)
            return ClientError("forbidden", f"This gateway is not known by that host name; {_SETTING} can name it.")
        if origin is None or is_allowed:
            return None
        self._refusals.tell("origin_refused", origin=origin, host=host)
        return ClientError("forbidden", f"Pages of that origin may not use this gateway; {_SETTING} can allow it.")

    def _knows(self, host: str) -> bool:
        name = host_name(host)
        if name is None:
            return False
        if name == self._own_host or name == "localhost" or name.endswith(".localhost") or self._origins.has_host(name):
            return True
        try:
            ipaddress.ip_address(name)  # an address cannot be re-bound
        except ValueError:
            return False
        return True


class Refusals:
    """Tells the operator of each once a minute, and of no more than some: a stranger chooses what they say."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: set[tuple[str, ...]] = set()
        self._since = 0.0
        self._untold: Counter[str] = Counter()

    def tell(self, event: str, **sent: str) -> None:
        if self._clock() - self._since >= TOLD_EVERY_S:
            self._told.clear()
            self._since = self._clock()
        shown = {name: _shown(value) for name, value in sent.items()}
        what = (event, *shown.values())
        if what in self._told or len(self._told) >= _TOLD_AT_ONCE:
            self._untold[event] += 1
            return
        self._told.add(what)
        log.warning(event, **shown, setting=_SETTING, untold=self._untold.pop(event, 0))


def _ambiguous(headers: Headers) -> ClientError | None:
    """A proxy before us may have gone by the other one (RFC 9112, section 3.2)."""
    for name in ("Host", "Origin"):
        if len(headers.getlist(name)) > 1:
            return ClientError("bad_message", f"There is more than one {name} header.")
    return None


def _shown(sent: str) -> str:
    """Bounded, and nothing in it that a terminal would obey."""
    return sent[:_SHOWN].encode("unicode_escape").decode()
