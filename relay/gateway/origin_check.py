"""The origin check: browsers may send requests only from the gateway's own origin and host.

Any page that a developer visits can send requests to their loopback, and a DNS name can be re-bound to it. So a
request with an Origin must come from this gateway or an allowed origin, and the Host must be a name of this gateway:
an address, localhost, its own --host, or the host of an allowed origin.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from relay import logging
from relay.errors import ClientError
from relay.gateway import cors
from relay.gateway.responses import error_response
from relay.origins import Origins, host_name, is_loopback

_MAX_KINDS = 10  # lines per minute for each kind of refusal: a stranger chooses the text in them
_SHOWN = 200  # characters of what a client sent
_UNCHECKED_PATHS = frozenset(
    {"/healthz", "/readyz", "/metrics"}
)  # for probes, which may use any name for us; these paths show nothing of a client
_SETTING = "RELAY_ALLOWED_ORIGINS"

logger = logging.get_logger("guard")


class OriginCheck:
    """ASGI middleware. Refuses with 403 `forbidden` before the request's body is read; with 400 if it names no host.

    Allowed requests from another origin get the CORS headers.
    """

    def __init__(self, app: ASGIApp, host: str, allowed_origins: str) -> None:
        self._app = app
        self._origins = Origins(allowed_origins, loopback=is_loopback(host))
        self._own_host = host.lower()
        self._hosts, self._foreign = (
            logging.RateLimitedLog(logger, event, kinds=_MAX_KINDS) for event in ("host_refused", "origin_refused")
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        is_allowed = origin is not None and self._origins.allows(origin, host)
        refusal = _ambiguous(headers)
        if refusal is None and scope["path"] not in _UNCHECKED_PATHS:
            refusal = _nameless(scope, headers) or self._refusal(host, origin, is_allowed)
        if refusal is None:
            if origin is not None and is_allowed and scope["type"] == "http":
                if cors.is_preflight(scope["method"], headers):
                    await cors.preflight_response(headers)(scope, receive, send)
                    return
                send = cors.readable_by(origin, send)
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await error_response(refusal)(scope, receive, send)
        else:
            await WebSocket(scope, receive, send).send_denial_response(error_response(refusal))

    def _refusal(self, host: str, origin: str | None, is_allowed: bool) -> ClientError | None:
        if not self._is_known_host(host):
            host = _shown(host)
            self._hosts.log(host, host=host, setting=_SETTING)
            return ClientError("forbidden", f"This gateway is not known by that host name; {_SETTING} can name it.")
        if origin is None or is_allowed:
            return None
        origin, host = _shown(origin), _shown(host)
        self._foreign.log((origin, host), origin=origin, host=host, setting=_SETTING)
        return ClientError("forbidden", f"Pages of that origin may not use this gateway; {_SETTING} can allow it.")

    def _is_known_host(self, host: str) -> bool:
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


def let_read(response: Response, headers: Headers, host: str, allowed_origins: str) -> None:
    """For an answer that is made outside of the middleware: pages of allowed origins may read it, too."""
    origin, origins = headers.get("origin"), Origins(allowed_origins, loopback=is_loopback(host))
    if origin is not None and origins.allows(origin, headers.get("host", "")):
        cors.add(response.headers, origin)


def _ambiguous(headers: Headers) -> ClientError | None:
    """A proxy in front of us may have used the other one (RFC 9112, section 3.2)."""
    for name in ("Host", "Origin"):
        if len(headers.getlist(name)) > 1:
            return ClientError("bad_message", f"There is more than one {name} header.")
    return None


def _nameless(scope: Scope, headers: Headers) -> ClientError | None:
    """HTTP/1.1 requires a host (RFC 9112, section 3.2); HTTP/1.0, which probes often use, does not."""
    if "host" in headers or scope.get("http_version") == "1.0":
        return None
    return ClientError("bad_message", "There is no Host header.")


def _shown(sent: str) -> str:
    """Bounded, and without anything that a terminal would obey."""
    return sent[:_SHOWN].encode("unicode_escape").decode()
