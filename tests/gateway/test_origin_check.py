"""Who is let in, over a real socket: hosts, origins, the path of a proxy, and requests that nobody should send."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from starlette.routing import Route, WebSocketRoute
from structlog.testing import capture_logs

from relay.errors import SettingsError
from relay.gateway.app import app
from relay.gateway.gateway import Gateway
from relay.settings import Settings, load
from tests.gateway.serving import Streams, serving

PATIENCE_S = 10
HANDSHAKE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
HOST = b"Host: 127.0.0.1:8080\r\n"


class GuardResponse(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


class Knocking:
    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        self.connect = connect

    async def raw(self, request: bytes) -> GuardResponse:
        """The answer's head, and as much of its body as that promises."""
        reader, writer = await self.connect()
        try:
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            first, *lines = head.decode("latin-1").strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            status, length = int(first.split(" ")[1]), int(headers.get("content-length", 0))
            if request.startswith(b"HEAD") or status == 101:
                length = 0
            return GuardResponse(status, headers, await asyncio.wait_for(reader.readexactly(length), PATIENCE_S))
        finally:
            writer.transport.abort()

    async def get(self, path: str, host: str = "127.0.0.1:8080", origin: str | None = None) -> GuardResponse:
        sent = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n" + (f"Origin: {origin}\r\n" if origin else "") + "\r\n"
        return await self.raw(sent.encode("latin-1"))

    async def shake_hands(self, path: str, host: str = "127.0.0.1:8080", origin: str | None = None) -> GuardResponse:
        sent = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n" + (f"Origin: {origin}\r\n" if origin else "")
        return await self.raw(sent.encode("latin-1") + HANDSHAKE + b"\r\n")


@asynccontextmanager
async def knocking(**settings: Any) -> AsyncIterator[Knocking]:
    """At a gateway whose Redis is away."""
    gateway = Gateway(Settings(redis_url="redis://127.0.0.1:1/0", **settings))
    async with serving(app(gateway)) as connect:
        yield Knocking(connect)
    await gateway.redis.aclose()


async def test_a_request_for_the_websocket_that_is_no_handshake_is_told_what_a_proxy_must_pass_on() -> None:
    asked = b"GET /v1/ws HTTP/1.1\r\n" + HOST
    taken_away = [
        b"",
        b"Upgrade: websocket\r\n",
        b"Connection: Upgrade\r\n",
        b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    ]
    async with knocking() as gateway:
        for headers in taken_away:
            answer = await gateway.raw(asked + headers + b"\r\n")
            assert (answer.status, answer.error["code"]) == (426, "bad_message"), headers
            assert answer.error["retryable"] is False
            assert (
                "must speak HTTP/1.1 to the gateway and pass on the headers Upgrade and Connec"
                in answer.error["message"]
            )
            assert (answer.headers["upgrade"], answer.headers["connection"]) == ("websocket", "Upgrade")
        assert (await gateway.raw(b"GET /v1/ws HTTP/1.0\r\n" + HOST + b"\r\n")).status == 426
        refused = await gateway.raw(b"POST /v1/ws HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n")
        assert (refused.status, refused.headers["allow"]) in ((405, "GET, HEAD"), (405, "HEAD, GET"))
        assert (await gateway.shake_hands("/v1/ws")).status == 101


@pytest.mark.parametrize(
    ("version", "path", "status"),
    [(b"1.1", b"/", 400), (b"1.1", b"/v1/ws", 400), (b"1.1", b"/healthz", 200), (b"1.0", b"/", 403)],
)
async def test_a_request_without_a_host_is_told_what_it_lacks(version: bytes, path: bytes, status: int) -> None:
    """But for probes. HTTP/1.0 knew of no such header (RFC 9112, section 3.2)."""
    asked = HANDSHAKE if path == b"/v1/ws" else b""
    async with knocking() as gateway:
        answer = await gateway.raw(b"GET " + path + b" HTTP/" + version + b"\r\n" + asked + b"\r\n")
        assert answer.status == status
        if status == 400:
            assert (answer.error["code"], answer.error["message"]) == ("bad_message", "There is no Host header.")


@pytest.mark.parametrize("name", [b"Host", b"Origin"])
async def test_two_hosts_or_origins_are_refused_whatever_they_say(name: bytes) -> None:
    one = HOST if name == b"Host" else HOST + b"Origin: http://127.0.0.1:8080\r\n"
    for second in (b"127.0.0.1:8080", b"evil.example.com", b""):
        two = one + name + b": " + second + b"\r\n"
        async with knocking() as gateway:
            for path in (b"/", b"/healthz", b"/v1/ws"):
                for rest in (b"", HANDSHAKE):
                    answer = await gateway.raw(b"GET " + path + b" HTTP/1.1\r\n" + two + rest + b"\r\n")
                    assert answer.status == 400, (path, second)
                    if not (rest and name == b"Origin"):  # that one websockets itself refuses
                        assert answer.error["message"] == f"There is more than one {name.decode()} header."


async def test_who_is_let_in_and_gets_the_headers_that_pages_of_other_origins_need() -> None:
    allowed = "https://chat.example.com, https://*.preview.example.com, relay.internal"
    cases: list[tuple[str, str, str | None, int]] = [
        ("/", "127.0.0.1:8080", None, 200),
        ("/", "relay.internal:8080", None, 200),
        ("/", "pr-7.preview.example.com", None, 200),
        ("/", "rebound.example.com", None, 403),
        ("/", "chat.example.com@evil.example.com", None, 403),
        ("/", "user@localhost", None, 403),
        ("/", "127.0.0.1:8080", "https://chat.example.com", 200),
        ("/", "127.0.0.1:8080", "https://pr-7.preview.example.com", 200),
        ("/", "127.0.0.1:8080", "https://a.b.preview.example.com", 403),
        ("/", "127.0.0.1:8080", "https://relay.internal", 403),
        ("/", "relay.internal", "https://relay.internal", 200),
        ("/", "127.0.0.1:8080", "http://localhost:8080", 200),
        ("/", "[::1]:8080", "http://localhost:8080", 200),
        ("/", "localhost:8080", "http://127.0.0.1:8081", 403),
        ("/", "127.0.0.1:8080", "null", 403),
    ]
    async with knocking(allowed_origins=allowed) as gateway:
        for path, host, origin, status in cases:
            answer = await gateway.get(path, host, origin)
            assert answer.status == status, (host, origin)
            has_cors = origin if status == 200 else None
            assert answer.headers.get("access-control-allow-origin") == has_cors, (host, origin)
            assert (await gateway.shake_hands("/v1/ws", host, origin)).status == (101 if status == 200 else 403)
        for origin, shown in {"https://chat.example.com": True, "https://evil.example.com": False}.items():
            probe = await gateway.get("/healthz", "any.example.com", origin)
            assert probe.status == 200
            assert ("access-control-allow-origin" in probe.headers) is shown


async def test_elsewhere_than_on_loopback_the_names_of_this_machine_are_places_of_their_own() -> None:
    async with knocking(host="0.0.0.0") as gateway:
        assert (await gateway.get("/", "127.0.0.1:8080", "http://127.0.0.1:8080")).status == 200
        assert (await gateway.get("/", "127.0.0.1:8080", "http://localhost:8080")).status == 403


async def test_under_the_path_of_a_proxy_everything_answers_with_it_and_without() -> None:
    async with knocking(root_path="/chat/relay") as gateway:
        for prefix in ("", "/chat/relay", "/ch%61t/relay"):
            for path in ("/", "/healthz", "/relay-client.js"):
                assert (await gateway.get(prefix + path)).status == 200, prefix + path
            assert (await gateway.shake_hands(prefix + "/v1/ws")).status == 101
            assert (await gateway.get(prefix + "/v1/ws")).status == 426
            assert (await gateway.get(prefix + "/", "rebound.example.com")).status == 403
            assert (await gateway.get(prefix + "/healthz", "rebound.example.com")).status == 200
        redirected = await gateway.get("/chat/relay?x=//evil.example.com")
        assert (redirected.status, redirected.headers["location"]) == (307, "/chat/relay/")
        for path in ("/chat", "/chat/", "/chat/relay2/", "/chat/relay/chat/relay/", "/chat/relay//"):
            assert (await gateway.get(path)).status == 404, path
        assert (await gateway.shake_hands("/chat/relay")).status == 404
    async with knocking() as gateway:
        assert (await gateway.get("/chat/relay/")).status == 404


async def test_a_refusal_names_what_was_refused_and_the_setting() -> None:
    async with knocking() as gateway:
        with capture_logs() as lines:
            for _ in range(3):
                await gateway.shake_hands("/v1/ws", origin="https://chat.example.com")
                await gateway.get("/", host="chat.example.com")
    setting = {"setting": "RELAY_ALLOWED_ORIGINS", "log_level": "warning", "part": "guard"}
    assert [line for line in lines if line["log_level"] != "debug"] == [
        {"event": "origin_refused", "origin": "https://chat.example.com", "host": "127.0.0.1:8080", **setting},
        {"event": "host_refused", "host": "chat.example.com", **setting},
    ]


async def test_strangers_cannot_fill_the_log_and_what_they_say_is_cut_and_escaped() -> None:
    async with knocking() as gateway:
        with capture_logs() as lines:
            for number in range(100):
                await gateway.get("/", origin=f"https://{number % 50}.example.com")
            await gateway.get("/", host="\xff" + "x" * 6_000)
    told = [line for line in lines if line["log_level"] == "warning"]
    names = [f"https://{number}.example.com" for number in range(11)]  # the eleventh: one line for all others
    assert [line["origin"] for line in told if line["event"] == "origin_refused"] == names
    assert [line["host"] for line in told if line["event"] == "host_refused"] == ["\\xff" + "x" * 199]


def _head(line: bytes, *headers: bytes) -> bytes:
    return b"".join(part + b"\r\n" for part in (line, HOST.rstrip(), *headers, b""))


_ODD = [
    _head(b"GET /v1/ws\xff HTTP/1.1", HANDSHAKE.rstrip()),
    _head(b"GET /v1/ws?a=\xff HTTP/1.1", HANDSHAKE.rstrip()),
    _head(b"GET /v1/%FF%00 HTTP/1.1", HANDSHAKE.rstrip()),
    _head(b"GET * HTTP/1.1", HANDSHAKE.rstrip()),
    _head(b"GET http://127.0.0.1:8080/v1/ws HTTP/1.1", HANDSHAKE.rstrip()),
    _head(b"GET /v1/ws HTTP/1.1", HANDSHAKE.rstrip(), b"Sec-WebSocket-Protocol: \xff\xfe"),
    _head(b"GET /v1/ws HTTP/1.1", HANDSHAKE.rstrip(), b"Sec-WebSocket-Protocol: a, a,,"),
    _head(b"GET /v1/ws HTTP/1.1", HANDSHAKE.rstrip(), b"Sec-WebSocket-Extensions: ;;;"),
    _head(b"GET /v1/ws HTTP/1.1", HANDSHAKE.rstrip(), b"Origin: \xff\x80"),
    _head(b"GET /v1/ws HTTP/1.1", HANDSHAKE.rstrip(), b"X-Forwarded-For: \xff,,[::", b"X-Forwarded-Proto: \xff"),
    _head(b"GET /v1/ws HTTP/1.1", HANDSHAKE.rstrip(), b"Content-Length: 5") + b"hello",
    _head(b"GET /v1/ws HTTP/1.1", HANDSHAKE.rstrip(), *[b"X: y"] * 200),
    _head(b"GET /v1/ws HTTP/1.1", HANDSHAKE.rstrip(), b"X: " + b"y" * 9000),
    _head(b"POST /v1/ws HTTP/1.1", HANDSHAKE.rstrip()),
    _head(b"GET /v1/ws HTTP/1.1", HANDSHAKE.rstrip().replace(b"13", b"8")),
    _head(b"GET /v1/ws HTTP/1.1", b"Upgrade: websocket", b"Connection: Upgrade"),
    _head(b"GET /\xff HTTP/1.1"),
    _head(b"GET /v1/sessions/%00%1b HTTP/1.1"),
    _head(b"GET /v1/sessions/s/events?from=%ff&cursor=%00 HTTP/1.1"),
    _head(b"GET /v1/sessions/s/events HTTP/1.1", b"Last-Event-ID: \xff:1"),
    _head(b"OPTIONS * HTTP/1.1"),
    _head(b"CONNECT a:1 HTTP/1.1"),
    _head(b"TRACE / HTTP/1.1"),
    _head(b"GET http://127.0.0.1:8080 HTTP/1.1"),
    _head(b"GET / HTTP/2.0"),
    _head(b"GET / HTTP/1.1", b"X: a", b" folded"),
    _head(b"GET / HTTP/1.1", b"X-Forwarded-For: \xff,,[::", b"X-Forwarded-Proto: \xff"),
    _head(b"OPTIONS / HTTP/1.1", b"Origin: http://127.0.0.1:8080", b"Access-Control-Request-Method: \xff",
          b"Access-Control-Request-Headers: \xff\x80,,"),
    _head(b"POST /v1/sessions/s/generations HTTP/1.1", b"Content-Type: application/json;charset=\xff",
          b"Accept-Language: \xff;;q", b"Accept: \xff,;", b"Content-Length: 2") + b"{}",
    _head(b"POST /v1/sessions/s/generations HTTP/1.1", b"Expect: nonsense", b"Content-Length: 0"),
    _head(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 3") + b"0\r\n\r\n",
    _head(b"POST / HTTP/1.1", b"Content-Length: 99999999999999999999999"),
    _head(b"POST /v1/sessions/s/generations HTTP/1.1", b"Content-Type: application/json",
          b"Transfer-Encoding: chunked") + b"zz\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: " + b"a" * 60_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost:99999999999999999999\r\n\r\n",
    b"GET /\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
]  # fmt: skip


async def test_whatever_is_sent_is_their_fault_and_no_traceback_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with capture_logs() as lines:
        async with knocking() as gateway:
            for request in _ODD:
                answer = await gateway.raw(request)
                assert answer.status < 500, (request[:200], answer)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record for record in caplog.records if record.levelno > logging.WARNING or record.exc_info] == []
    assert {line["log_level"] for line in lines} == {"warning", "debug"}  # those of a minute but the first
    assert max(len(str(line)) for line in [*lines, *told]) < 1000


async def test_no_root_path_begins_as_an_address_of_the_gateway_does() -> None:
    gateway = Gateway(load(redis_url="redis://127.0.0.1:1/0"))
    paths = [route.path for route in app(gateway).routes if isinstance(route, Route | WebSocketRoute)]
    await gateway.redis.aclose()
    ours = {path.split("/")[1] for path in paths} - {"", "{path:path}"}  # the page; what is no WebSocket of ours
    assert ours >= {"v1", "healthz"}
    for first in ours:
        with pytest.raises(SettingsError, match="begin as an address of the gateway"):
            load(root_path=f"/{first}")


_SENT_BY_OPENAI = (  # 7.55.0, chat.completions.stream
    "authorization,content-type,openai-organization,openai-project,user-agent,x-stainless-arch,"
    "x-stainless-helper-method,x-stainless-lang,x-stainless-os,x-stainless-package-version,x-stainless-retry-count,"
    "x-stainless-runtime,x-stainless-runtime-version"
)
_SENT_BY_ANTHROPIC = (  # 1.14.0, beta.messages
    "anthropic-beta,anthropic-dangerous-direct-browser-access,anthropic-version,authorization,content-type,user-agent,"
    "x-api-key,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,x-stainless-retry-count,"
    "x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"
)
_SENT_BY_OURS = "authorization,content-type,idempotency-key,last-event-id,x-relay-disconnect,x-relay-session"


@pytest.mark.parametrize("sent", [_SENT_BY_OPENAI, _SENT_BY_ANTHROPIC, _SENT_BY_OURS])
async def test_pages_of_allowed_origins_may_send_what_official_clients_send(sent: str) -> None:
    origin = b"Origin: https://chat.example.com"
    asked = [b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: " + sent.encode()]
    async with knocking(allowed_origins="https://chat.example.com") as gateway:
        answer = await gateway.raw(_head(b"OPTIONS /v1/sessions/s/generations HTTP/1.1", origin, *asked))
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
        assert answer.headers["access-control-allow-headers"].split(", ") == sent.split(",")
        assert {"POST", "PATCH", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
        assert "Origin" in answer.headers["vary"]
        assert int(answer.headers["access-control-max-age"]) > 0
        assert "access-control-allow-credentials" not in answer.headers
        foreign = _head(b"OPTIONS /v1/sessions/s/generations HTTP/1.1", b"Origin: https://evil.example.com", *asked)
        refused = await gateway.raw(foreign)
        assert refused.status == 403
        assert not any(name.startswith("access-control-") for name in refused.headers)


async def test_pages_of_allowed_origins_may_read_errors_and_what_they_need_of_the_headers() -> None:
    async with knocking(allowed_origins="https://chat.example.com") as gateway:
        for path, status in (("/v1/nothing", 404), ("/readyz", 503), ("/v1/sessions/%20", 400)):
            answer = await gateway.get(path, origin="https://chat.example.com")
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
            assert "X-Relay-Session" in answer.headers["access-control-expose-headers"]
            assert "Origin" in answer.headers["vary"]


async def test_pages_of_allowed_origins_may_read_the_error_of_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starlette makes that answer outside of every middleware."""

    def broken() -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr("relay.metrics.text", broken)
    async with knocking(allowed_origins="https://chat.example.com") as gateway:
        with capture_logs():
            answer = await gateway.get("/metrics", origin="https://chat.example.com")
            foreign = await gateway.get("/metrics", origin="https://evil.example.com")
    assert (answer.status, answer.error["code"]) == (500, "internal")
    assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
    assert foreign.status == 500
    assert "access-control-allow-origin" not in foreign.headers


async def test_what_a_browser_might_show_cannot_be_framed_guessed_or_kept() -> None:
    async with knocking() as gateway:
        page = (await gateway.get("/")).headers
        for rule in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "default-src 'none'"):
            assert rule in page["content-security-policy"].split("; ")
        assert (page["referrer-policy"], page["cross-origin-opener-policy"]) == ("no-referrer", "same-origin")
        assert (await gateway.get("/relay-client.js")).headers["cross-origin-resource-policy"] == "cross-origin"
        for path in ("/", "/relay-client.js", "/healthz", "/readyz", "/v1/nothing", "/v1/sessions/%20"):
            assert (await gateway.get(path)).headers["x-content-type-options"] == "nosniff", path
        for path in ("/healthz", "/readyz", "/v1/nothing", "/v1/sessions/%20"):
            assert (await gateway.get(path)).headers["cache-control"] == "no-store", path
