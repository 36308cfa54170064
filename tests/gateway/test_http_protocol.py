"""What uvicorn leaves open for a peer that misbehaves, over a real socket."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn
from prometheus_client import REGISTRY
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from relay import logging
from relay.gateway import http_protocol
from relay.gateway.event_stream import until_disconnected
from tests.gateway.serving import serving
from tests.scenarios.processes import until

PATIENCE_S = 10
GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def _said(reader: asyncio.StreamReader, what: bytes) -> None:
    await asyncio.wait_for(reader.readuntil(what), PATIENCE_S)


async def test_an_answer_that_runs_is_told_of_the_hang_up_though_other_requests_came_behind_it() -> None:
    told = asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        hang_up = asyncio.create_task(until_disconnected(receive))
        while not hang_up.done():  # what is written is how the server itself learns of it: it does not read ahead
            await send({"type": "http.response.body", "body": b"it goes on", "more_body": True})
            await asyncio.wait([hang_up], timeout=0.01)
        told.set()

    async with serving(stream) as connect:
        reader, writer = await connect()
        writer.write(GET * 3)
        await _said(reader, b"it goes on")
        writer.transport.abort()
        await asyncio.wait_for(told.wait(), PATIENCE_S)


async def _short(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"done"})


_UPLOAD = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    ("first", "then"),
    [(GET, b"\r\n"), (_UPLOAD + b"Content-Length: 1000\r\n\r\n", b"x"), (GET, b"GET / HT"), (b"", b"GET / HT")],
    ids=["an empty line", "a body that nobody wants", "half a request", "half of the first request"],
)
async def test_who_begins_to_say_something_and_does_not_go_on_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, first: bytes, then: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "REQUEST_TIMEOUT_S", 0.2)
    async with serving(_short) as connect:
        reader, writer = await connect()
        if first:
            writer.write(first)
            await _said(reader, b"done")
        writer.write(then)
        with pytest.raises(asyncio.IncompleteReadError):
            await _said(reader, b"anything more")
        writer.close()


async def _pour(writer: asyncio.StreamWriter, size: int) -> None:
    for _ in range(size // 2**16):
        writer.write(b"a" * 2**16)
        await writer.drain()


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET / HTTP/1.1\r\nX: ",
        b"GET /",
        _UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
        _UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n1;",
    ],
    ids=["a header", "an address", "a trailer", "a chunk's extension"],
)
async def test_a_head_without_end_is_cut_off_before_it_costs_anything(beginning: bytes) -> None:
    told = asyncio.Event()

    async def listening(scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnected(receive)
        told.set()

    async with serving(listening) as connect:
        _, writer = await connect()
        writer.write(beginning)
        with pytest.raises(ConnectionError):
            await _pour(writer, 64 * 2**20)
        writer.close()
        if beginning.startswith(_UPLOAD):
            await asyncio.wait_for(told.wait(), PATIENCE_S)


async def test_a_large_body_and_many_requests_in_a_row_are_none_of_that() -> None:
    async def swallow(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await _short(scope, receive, send)

    size = 4 * 2**20
    for app in (swallow, _short):
        async with serving(app) as connect:
            reader, writer = await connect()
            for _ in range(3):
                writer.write(_UPLOAD + b"Content-Length: %d\r\n\r\n" % size + b"b" * size + GET)
                await writer.drain()
                await _said(reader, b"done")
                await _said(reader, b"done")
            writer.close()


async def test_an_answer_of_which_nothing_is_taken_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "STALL_S", 0.1)
    large = _Large()
    async with serving(large) as connect:
        reader, writer = await connect()
        writer.write(GET)
        await _said(reader, b"\r\n\r\n")
        await until(lambda: large.transport is not None and large.transport.is_closing(), "the connection is cut")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(large.SIZE)
        writer.close()


async def test_a_slow_reader_gets_all_of_an_answer_and_a_stream_is_left_to_its_pulse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "STALL_S", 0.4)
    large = _Large(more_body=True)
    async with serving(large) as connect:
        reader, writer = await connect()
        writer.write(GET)
        await _said(reader, b"\r\n\r\n")
        await asyncio.sleep(1)  # a stream may stand still for longer
        large.goes_on.set()
        for _ in range(16):
            await asyncio.sleep(0.1)  # the reader's pace
            assert len(await reader.readexactly(large.SIZE // 16)) == large.SIZE // 16
        writer.close()


async def test_a_stream_that_is_cut_is_no_error_of_the_application(caplog: pytest.LogCaptureFixture) -> None:
    over = asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"it begins", "more_body": True})
        abort = http_protocol.abort_of(scope)
        assert abort is not None
        abort()
        over.set()

    async with serving(stream) as connect:
        reader, writer = await connect()
        writer.write(GET)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await _said(reader, b"anything more")
        await over.wait()
        writer.close()
    assert not caplog.records


_NO_REQUESTS = [
    (b"SECRET / HTTP/1.1\r\n\r\n", "method"),
    (b"GET / SECRET\r\n\r\n", "HTTP/"),
    (b"GET /SECRET\xff HTTP/1.1\r\n\r\n", "url"),
    (b"GET http://[SECRET HTTP/1.1\r\n\r\n", "The address or a header cannot be read."),
    (b"GET / HTTP/1.1\r\nX: " + b"SECRET" * 40_000, "The head of the request is too large."),
]


@pytest.mark.parametrize(("sent", "words"), _NO_REQUESTS, ids=[words for _, words in _NO_REQUESTS])
async def test_what_is_no_request_is_counted_and_said_once_a_minute_without_a_byte_of_it(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, words: str
) -> None:
    monkeypatch.setattr(http_protocol, "_refused", logging.RateLimitedLog(logging.get_logger("http"), "bad_request"))
    before = REGISTRY.get_sample_value("relay_bad_requests_total") or 0
    with capture_logs() as lines:
        async with serving(_short) as connect:
            for _ in range(5):
                _, writer = await connect()
                writer.write(sent)
            await until(lambda: REGISTRY.get_sample_value("relay_bad_requests_total") == before + 5, "all are counted")
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("warning", "bad_request"), *[("debug", "bad_request")] * 4,
    ]  # fmt: skip
    assert words in lines[0]["detail"]
    assert "SECRET" not in str(lines)


class _Large:
    """An app with far more to say than the kernel holds."""

    SIZE = 32 * 2**20

    def __init__(self, *, more_body: bool = False) -> None:
        self.transport: asyncio.Transport | None = None
        self.goes_on = asyncio.Event()
        self._more_body = more_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.transport = getattr(http_protocol.abort_of(scope), "__self__").transport  # noqa: B009
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % self.SIZE)]})
        await send({"type": "http.response.body", "body": b"x" * self.SIZE, "more_body": self._more_body})
        if self._more_body:
            await self.goes_on.wait()
            await send({"type": "http.response.body"})


async def _in_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in (b"one, ", b"", b"two, "):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"three"})


@pytest.mark.parametrize("version", [b"1.0", b"0.9", b"2.0"])
async def test_who_does_not_speak_http_1_1_gets_the_body_as_it_is_and_its_end_is_the_end(version: bytes) -> None:
    asked = b"POST / HTTP/%s\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n" % version
    for app, body in ((_in_pieces, b"one, two, three"), (_short, b"done"), (_reading(_in_pieces), b"one, two, three")):
        async with serving(app) as connect:
            reader, writer = await connect()
            writer.write(asked)
            answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
            head, _, rest = answer.partition(b"\r\n\r\n")
            assert rest == body
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nconnection: close" in head.lower()
            assert b"transfer-encoding" not in head.lower()
            writer.close()


def _reading(app: ASGIApp) -> ASGIApp:
    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await app(scope, receive, send)

    return read


async def test_http_1_1_gets_the_same_in_chunks_and_the_connection_goes_on() -> None:
    async with serving(_in_pieces) as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(GET)
            await _said(reader, b"transfer-encoding: chunked\r\n\r\n")
            body = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), PATIENCE_S)
            assert body == b"5\r\none, \r\n5\r\ntwo, \r\n5\r\nthree\r\n0\r\n\r\n"
        writer.close()


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    more_body = True
    while more_body:
        message = await receive()
        body += message["body"]
        more_body = message["more_body"]
    body = scope["method"].encode() + b" " + scope["path"].encode() + b" " + body + b"."
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


_TO_HTTP_2 = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"


@pytest.mark.parametrize("size", [1, 2**16], ids=["bytewise", "at once"])
async def test_an_upgrade_to_anything_else_is_as_if_nobody_had_asked_for_it(size: int) -> None:
    """Java's HttpClient asks for HTTP/2 with its first request, whatever that is, and curl --http2 does."""
    post = b"POST /a HTTP/1.1\r\nHost: x\r\n" + _TO_HTTP_2
    requests = {
        post + b"Content-Length: 5\r\n\r\nhello": b"POST /a hello.",
        post + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n": b"POST /a hello.",
        b"GET /b HTTP/1.1\r\n" + _TO_HTTP_2 + b"\r\n": b"GET /b .",
        GET: b"GET / .",
    }
    async with serving(_echo) as connect:
        reader, writer = await connect()
        sent = b"".join(requests)
        for first in range(0, len(sent), size):
            writer.write(sent[first : first + size])
            await asyncio.sleep(0)
        for answer in requests.values():
            await _said(reader, b"\r\n\r\n")
            assert await asyncio.wait_for(reader.readexactly(len(answer)), PATIENCE_S) == answer
        writer.write(b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n")
        await _said(reader, b"HTTP/1.1 400 Bad Request\r\n")
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n",
        b"HTTP/1.0\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    ],
    ids=["close", "HTTP/1.0"],
)
async def test_whoever_asks_for_an_upgrade_and_for_the_end_of_the_connection_gets_an_answer(head: bytes) -> None:
    async with serving(_echo) as connect:
        for asked, answer in ((b"GET /b " + head + b"\r\n", b"GET /b ."),
                              (b"POST /a " + head + b"Content-Length: 5\r\n\r\nhello", b"POST /a hello.")):  # fmt: skip
            reader, writer = await connect()
            writer.write(asked)
            told = await asyncio.wait_for(reader.read(), PATIENCE_S)
            assert told.endswith(b"\r\n\r\n" + answer)
            writer.close()


async def test_what_fails_without_its_upgrade_is_counted_once() -> None:
    before = REGISTRY.get_sample_value("relay_bad_requests_total") or 0
    async with serving(_echo) as connect:
        reader, writer = await connect()
        writer.write(b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n" + _TO_HTTP_2 + b"\r\nhello")
        assert (await asyncio.wait_for(reader.read(), PATIENCE_S)).startswith(b"HTTP/1.1 400 ")
        writer.close()
    assert REGISTRY.get_sample_value("relay_bad_requests_total") == before + 1


async def test_any_number_of_such_upgrades_in_one_read_is_no_more_than_as_many_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = b"GET /b HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with serving(_echo) as connect:
        reader, writer = await connect()
        writer.write(one * 3000)
        for _ in range(3000):
            await _said(reader, b"\r\n\r\nGET /b .")
        writer.close()
    assert caplog.records == []


async def test_a_connection_that_comes_when_the_server_goes_is_not_waited_for() -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    state = ServerState()
    config = uvicorn.Config(never, lifespan="off", log_config=None)
    config.load()
    http_protocol.mark_stopping(state)
    loop = asyncio.get_running_loop()
    made = lambda: http_protocol.RelayHttpProtocol(config=config, server_state=state, app_state={})  # noqa: E731
    async with await loop.create_server(made, "127.0.0.1", 0) as listening:
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), PATIENCE_S)
        writer.close()
    assert not state.connections
