"""Addresses of a gateway, in every form that people use. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

_PATH = "/v1/ws"
_SCHEMES = {"http": "ws", "https": "wss"}


def websocket_address(url: str) -> str:
    """The address for e.g. `http://host/relay/?ticket=t`; idempotent. Raises ValueError if it is not an address."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix(_PATH) + _PATH
    found = urlunsplit((_SCHEMES.get(parts.scheme, parts.scheme), parts.netloc, path, parts.query, ""))
    try:
        parse_uri(found)
    except InvalidURI as error:
        raise ValueError(str(error)) from error
    return found


def shown(url: str) -> str:
    """The address for messages: without a password, and without the query, which may hold tickets."""
    scheme, has_scheme, rest = url.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{has_scheme}{host.rpartition('@')[2]}{slash}{path}"
