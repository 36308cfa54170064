"""No route and no command is reached without asking who is there."""

from __future__ import annotations

import asyncio
import json
from typing import get_args

import pytest
from starlette.routing import Route, WebSocketRoute
from structlog.testing import capture_logs

from relay import metrics
from relay.auth.revocations import Revocations
from relay.gateway.app import app
from relay.gateway.gateway import Gateway
from relay.protocol import commands
from relay.settings import Settings
from tests.gateway.test_origin_check import HANDSHAKE, HOST, PATIENCE_S, knocking
from tests.scenarios.credentials import SECRET, token

# What shows nothing of anybody. `/v1/ws` asks with its first command; as a plain request it only says what is amiss.
SCRAPE = "scrape-0123456789"
PUBLIC = {"/healthz", "/readyz", "/", "/relay-client.js", "/v1/ws"}


@pytest.fixture(autouse=True)
def nobody_is_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is away here, and without it no token is good."""
    monkeypatch.setattr(Revocations, "is_revoked", lambda self, identity: False)


def addresses() -> list[tuple[str, str]]:
    """Method and path of every route over HTTP."""
    routes = app(Gateway(Settings.model_construct())).routes
    assert all(isinstance(route, Route | WebSocketRoute) for route in routes)
    return [
        (method, route.path.format(session="s", generation="g"))
        for route in routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
    ]


@pytest.mark.parametrize(("method", "path"), addresses())
async def test_every_address_asks_for_a_token_but_the_public_ones(method: str, path: str) -> None:
    async with knocking(auth_secret=SECRET) as gateway:
        body = b"{}" if method == "POST" else b""
        asked = f"{method} {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        answer = await gateway.raw(asked.encode() + HOST + b"\r\n" + body)
        assert (answer.status == 401) == (path not in PUBLIC), answer
        if answer.status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), [one for one in addresses() if one[1] not in PUBLIC])
async def test_a_token_without_any_scope_opens_nothing_but_what_is_on_offer(method: str, path: str) -> None:
    async with knocking(auth_secret=SECRET) as gateway:
        body = b'{"session": "s", "sub": "x"}' if method == "POST" else b""
        asked = f"{method} {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        given = f"Authorization: Bearer {token(scope='')}\r\n"
        answer = await gateway.raw(asked.encode() + given.encode() + HOST + b"\r\n" + body)
        expected = 503 if path == "/v1/capabilities" else 403  # the first needs Redis, which is away here
        assert answer.status == expected, answer


@pytest.mark.parametrize("kind", [str(kind.__struct_config__.tag) for kind in get_args(commands.Command)])
async def test_every_command_but_hello_is_refused_before_it(kind: str) -> None:
    async with knocking(auth_secret=SECRET) as gateway:
        reader, writer = await gateway.connect()
        try:
            writer.write(b"GET /v1/ws HTTP/1.1\r\n" + HOST + HANDSHAKE + b"\r\n")
            await reader.readuntil(b"\r\n\r\n")
            fields = {"session": "s", "generation": "g", "request_id": "r", "content": "?", "token": "bad"}
            writer.write(masked(json.dumps({"type": kind, "id": "1", **fields}).encode()))
            head = await reader.readexactly(2)
            size = head[1] if head[1] < 126 else int.from_bytes(await reader.readexactly(2))
            frame = json.loads(await reader.readexactly(size))
            assert (frame["type"], frame["id"], frame["code"]) == ("error", "1", "unauthenticated")
        finally:
            writer.transport.abort()


def masked(payload: bytes) -> bytes:
    """A text message of a client, with a mask of nothing."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2)
    return b"\x81" + size + bytes(4) + payload


@pytest.mark.parametrize(
    ("headers", "settings", "status"),
    [
        ("", {}, 200),
        ("X-Forwarded-For: 203.0.113.9\r\n", {}, 403),
        ("Forwarded: for=203.0.113.9\r\n", {}, 403),
        ("X-Real-IP: 203.0.113.9\r\n", {}, 403),
        ("", {"host": "0.0.0.0", "open_to_everybody": True}, 403),
        (
            f"X-Real-IP: 203.0.113.9\r\nAuthorization: Bearer {SCRAPE}\r\n",
            {"metrics_token": SCRAPE},
            200,
        ),
        (
            f"Authorization: Bearer {SCRAPE}\r\n",
            {"metrics_token": SCRAPE, "auth_secret": SECRET},
            200,
        ),
        (
            "Authorization: Bearer scrapes-12345678\r\n",
            {"metrics_token": SCRAPE, "auth_secret": SECRET},
            401,
        ),
        (
            "X-Real-IP: 203.0.113.9\r\nAuthorization: Bearer scrapes-12345678\r\n",
            {"metrics_token": SCRAPE},
            403,
        ),
        (f"Authorization: Bearer {token(scope='admin')}\r\n", {"auth_secret": SECRET}, 200),
        (f"Authorization: Bearer {token()}\r\n", {"auth_secret": SECRET}, 403),
        ("", {"auth_secret": SECRET}, 401),
    ],
)
async def test_metrics_are_for_operators_and_scrapers(headers: str, settings: dict[str, object], status: int) -> None:
    async with knocking(**settings) as gateway:
        answer = await gateway.raw(b"GET /metrics HTTP/1.1\r\n" + HOST + headers.encode() + b"\r\n")
        assert answer.status == status, answer


async def test_a_metrics_token_opens_nothing_else() -> None:
    async with knocking(metrics_token=SCRAPE, auth_secret=SECRET) as gateway:
        for path in ("/v1/capabilities", "/v1/sessions/s"):
            asked = f"GET {path} HTTP/1.1\r\nAuthorization: Bearer {SCRAPE}\r\n".encode()
            assert (await gateway.raw(asked + HOST + b"\r\n")).status == 401


@pytest.mark.parametrize(
    "header",
    ["Basic YWxpY2U6cHc=", "Bearer", "Bearer  ", f"Token {token()}", f"Bearer {token()}\r\nAuthorization: Bearer x"],
)
async def test_an_authorization_that_is_none_is_refused(header: str) -> None:
    async with knocking(auth_secret=SECRET) as gateway:
        asked = f"GET /v1/sessions/s HTTP/1.1\r\nAuthorization: {header}\r\n".encode()
        answer = await gateway.raw(asked + HOST + b"\r\n")
        assert (answer.status, answer.error["code"]) == (401, "unauthenticated")


async def test_a_stranger_s_message_is_not_looked_at_beyond_64_kib() -> None:
    async with knocking(auth_secret=SECRET) as gateway:
        for size, reply in ((17_000, b"too_large"), (65_537, b"\x88")):
            reader, writer = await gateway.connect()
            try:
                writer.write(b"GET /v1/ws HTTP/1.1\r\n" + HOST + HANDSHAKE + b"\r\n")
                await reader.readuntil(b"\r\n\r\n")
                writer.write(
                    b"\x81\xff" + size.to_bytes(8) + bytes(4) + b'{"type":"hello","token":"' + bytes(size - 25)
                )
                await asyncio.wait_for(reader.readuntil(reply), PATIENCE_S)
            finally:
                writer.transport.abort()


async def test_after_welcome_messages_may_be_as_large_as_without_auth() -> None:
    async with knocking(auth_secret=SECRET) as gateway:
        reader, writer = await gateway.connect()
        try:
            bearing = f"Authorization: Bearer {token()}\r\n".encode()
            writer.write(b"GET /v1/ws HTTP/1.1\r\n" + HOST + bearing + HANDSHAKE + b"\r\n")
            await asyncio.wait_for(reader.readuntil(b'"welcome"'), PATIENCE_S)
            ping = b'{"type":"nothing","t":"' + b"x" * 400_000 + b'"}'
            writer.write(b"\x81\xff" + len(ping).to_bytes(8) + bytes(4) + ping)
            await asyncio.wait_for(reader.readuntil(b"unknown_type"), PATIENCE_S)
        finally:
            writer.transport.abort()


@pytest.mark.parametrize(
    ("header", "is_refused"),
    [("Basic YWxpY2U6cHc=", False), ("Bearer not.a.token", True), ("Bearer ", True), ("", False)],
)
async def test_another_scheme_s_header_leaves_the_hello_to_come(header: str, is_refused: bool) -> None:
    """A proxy with a password of its own passes its header on."""
    async with knocking(auth_secret=SECRET) as gateway:
        reader, writer = await gateway.connect()
        try:
            given = f"Authorization: {header}\r\n".encode() if header else b""
            writer.write(b"GET /v1/ws HTTP/1.1\r\n" + HOST + given + HANDSHAKE + b"\r\n")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(masked(json.dumps({"type": "hello", "token": token()}).encode()))
            await asyncio.wait_for(reader.readuntil(b'"unauthenticated"' if is_refused else b'"welcome"'), PATIENCE_S)
        finally:
            writer.transport.abort()


async def test_a_revoked_token_is_counted_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Revocations, "is_revoked", lambda self, identity: True)
    before = metrics.auth_refusals.labels("token", "revoked")._value.get()
    async with knocking(auth_secret=SECRET) as gateway:
        asked = f"GET /v1/sessions/s HTTP/1.1\r\nAuthorization: Bearer {token()}\r\n".encode()
        assert (await gateway.raw(asked + HOST + b"\r\n")).status == 401
    assert metrics.auth_refusals.labels("token", "revoked")._value.get() == before + 1


async def test_who_brings_no_token_or_one_that_does_not_allow_it_is_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.auth.refusals._refused._seldom._told", {})
    asked = b"GET /v1/sessions/a%1B%5B2J HTTP/1.1\r\n"
    with capture_logs() as lines:
        async with knocking(auth_secret=SECRET) as gateway:
            assert (await gateway.raw(asked + HOST + b"\r\n")).status == 401
            narrow = f"Authorization: Bearer {token(sessions=['other'], scope='read stop')}\r\n".encode()
            assert (await gateway.raw(b"GET /v1/sessions/s HTTP/1.1\r\n" + narrow + HOST + b"\r\n")).status == 403
    found = [line for line in lines if line["event"] == "access_refused"]
    assert [(line["code"], line["session"]) for line in found] == [("unauthenticated", "a\\x1b[2J"), ("forbidden", "s")]
    assert "other" not in str(lines)
    assert "eyJ" not in str(lines)
