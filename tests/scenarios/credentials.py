"""Tokens for scenarios, as somebody's backend signs them."""

from __future__ import annotations

import sys
import time
from typing import Any

import jwt
import pytest
from websockets.asyncio.client import connect

SECRET = "a-secret-of-the-scenarios-of-more-than-32-bytes"
HEADERS: dict[str, str] = {}  # of every request of the scenarios, unless it brings its own


def token(sub: str | None = "alice", *, key: Any = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Good for an hour; a claim that is None is left out."""
    now = int(time.time())
    wanted = {"sub": sub, "iat": now, "exp": now + 3600, **claims}
    return jwt.encode({name: value for name, value in wanted.items() if value is not None}, key, algorithm)


def bearing(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def lines() -> bytes:
    """The same for a request that is written by hand."""
    return "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items()).encode()


def everywhere(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every client of the scenarios brings a token that owns and may do everything. Returns the gateways' settings."""
    mine = bearing(token(scope="read submit stop delete admin"))
    before = connect.__init__

    def bearing_connect(self: connect, *arguments: Any, additional_headers: Any = None, **named: Any) -> None:
        before(self, *arguments, additional_headers={**mine, **(additional_headers or {})}, **named)

    monkeypatch.setattr(connect, "__init__", bearing_connect)
    monkeypatch.setattr(sys.modules[__name__], "HEADERS", mine)
    return {"RELAY_AUTH_SECRET": SECRET, "RELAY_TOKEN": mine["Authorization"].removeprefix("Bearer ")}
