"""Who may knock: browsers only from the gateway's own origin and host.

Any page a developer visits can send requests to their loopback, and a DNS name can be re-bound to it. So a request
that carries an Origin must come from this gateway or an allowed origin, and the Host must be one that this gateway
is known by: an address, localhost, its own --host, or the host of an allowed origin.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from relay.errors import ClientError
from relay.gateway.answers import error_answer

_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})  # for probes that know us by any name; nothing of a client's


class Guard:
    """ASGI middleware. Refuses with 403 `forbidden`, before anything of the request is read."""

    def __init__(self, app: ASGIApp, host: str, allowed_origins: str) -> None:
        self._app = app
        self._origins = set(origins(allowed_origins))
        self._hosts = {host.lower(), *(_host(origin) for origin in self._origins)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await refusal(scope, receive, send)
        else:
            await WebSocket(scope, receive, send).send_denial_response(refusal)

    def _refusal(self, headers: Headers) -> Response | None:
        host = headers.get("host", "").lower()
        if not self._knows(host):
            return _forbidden("This gateway is not known by that host name; RELAY_ALLOWED_ORIGINS can name it.")
        origin = headers.get("origin")
        if origin is None or origin.lower() in self._origins or _netloc(origin) == host:
            return None
        return _forbidden("Pages of that origin may not use this gateway; RELAY_ALLOWED_ORIGINS can allow it.")

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)  # an address cannot be re-bound
        except ValueError:
            return False
        return True


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # "http://[zz]" is no address, and nobody's origin
        return None


def origins(allowed: str) -> list[str]:
    """The entries of RELAY_ALLOWED_ORIGINS."""
    return [origin.strip().rstrip("/").lower() for origin in allowed.split(",") if origin.strip()]


def _host(origin: str) -> str:
    return urlsplit(origin if "://" in origin else f"//{origin}").hostname or ""


def _forbidden(sentence: str) -> Response:
    return error_answer(ClientError("forbidden", sentence))
