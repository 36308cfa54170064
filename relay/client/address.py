"""Addresses of a gateway, in every form in which people have them. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

_PATH = "/v1/ws"
_SCHEMES = {"http": "ws", "https": "wss"}


def websocket_address(url: str) -> str:
    """Of `http://host/relay/?ticket=t`, or of what this returns for it. Raises ValueError if it is no address."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix(_PATH) + _PATH
    found = urlunsplit((_SCHEMES.get(parts.scheme, parts.scheme), parts.netloc, path, parts.query, ""))
    try:
        parse_uri(found)
    except InvalidURI as error:
        raise ValueError(str(error)) from error
    return found


def shown(url: str) -> str:
    """For messages: without the query, where tickets are."""
    return url.partition("?")[0]
