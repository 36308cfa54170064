"""Every dialect of the tables, as raw bytes to the real provider: in one piece, in pieces cut anywhere, byte by byte.

The rows are in `dialects_*.py`; each says where its shape was seen.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import httpcore2
import httpx2
import pytest

from relay_workers.providers import openai_background
from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Provider, Text
from relay_workers.providers.openai import OpenAIProvider
from relay_workers.providers.openai_background import OpenAIBackgroundProvider
from tests.workers.providers import dialects_anthropic, dialects_openai, dialects_responses
from tests.workers.providers.dialect import Answer, Row, sse
from tests.workers.providers.dialects_anthropic import ANTHROPIC
from tests.workers.providers.dialects_openai import OPENAI
from tests.workers.providers.dialects_responses import RESPONSES
from tests.workers.providers.outcome import HI, check, outcome_of
from tests.workers.providers.raw_server import Framing, Response, raw_server

STRIDE = 6  # so many requests cover every border of a body
SHORT_BYTES = 450  # a body up to this size is cut in two at every byte
GIANT_BYTES = 20_000  # above this there are too many pieces
HANGS_S = 60  # no test waits so long, unless it would wait forever

Made = Callable[[str, Row], Provider]


def openai(url: str, row: Row) -> Provider:
    return OpenAIProvider(None, f"{url}/v1", "test-model", connect_timeout_s=5, **row.settings)


def anthropic(url: str, row: Row) -> Provider:
    return AnthropicProvider(None, url, "test-model", connect_timeout_s=5, **row.settings)


def responses(url: str, row: Row) -> Provider:
    return OpenAIBackgroundProvider(None, f"{url}/v1", "test-model", connect_timeout_s=5, **row.settings)


ROWS = [
    *(pytest.param(openai, row, id=f"openai: {row.name}") for row in OPENAI),
    *(pytest.param(anthropic, row, id=f"anthropic: {row.name}") for row in ANTHROPIC),
    *(pytest.param(responses, row, id=f"responses: {row.name}") for row in RESPONSES),
]
each_row = pytest.mark.parametrize(("made", "row"), ROWS)


def each_row_up_to(most_bytes: int) -> pytest.MarkDecorator:
    fit = [row for row in ROWS if isinstance(row.values[1], Row) and len(row.values[1].body) <= most_bytes]
    return pytest.mark.parametrize(("made", "row"), fit)


_TLS = ssl.create_default_context()


@pytest.fixture(autouse=True)
def _certificates_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client loads them, which takes longer than all else here."""
    monkeypatch.setattr(httpcore2, "default_ssl_context", lambda **_: _TLS)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A background response that breaks is opened again, which no row waits for."""
    monkeypatch.setattr(openai_background, "RECONNECT_PAUSES_S", ())


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in os.environ if name.startswith(("OPENAI_", "ANTHROPIC_")) or name.lower().endswith("_proxy")
    ]:
        monkeypatch.delenv(name)


def test_no_two_rows_have_the_same_name_and_each_has_a_source() -> None:
    for rows in (OPENAI, ANTHROPIC, RESPONSES):
        assert len({row.name for row in rows}) == len(rows)
        assert [row.name for row in rows if not row.source.startswith("https://")] == []


# Over a real connection


@each_row
async def test_a_dialect(made: Made, row: Row) -> None:
    """In one piece and byte by byte, compressed, and with each way in which a body can end."""
    async with raw_server(_response(row, [row.body])) as server, _closing(made(server.url, row)) as provider:
        check(row, await outcome_of(provider), "in one piece")

        size = 1 + len(row.body) // 5_000  # one byte, but for the giants
        server.response = _response(row, [row.body[at : at + size] for at in range(0, len(row.body), size)])
        check(row, await outcome_of(provider), f"in pieces of {size}")

        server.response = _response(row, [row.body], framing="length")
        check(row, await outcome_of(provider), "with content-length")

        if row.end == "clean":  # a body that is cut fails in the decoder; and only a cut shows where there is an end
            packed = gzip.compress(row.body, mtime=0)
            server.response = _response(row, [packed[at : at + 7] for at in range(0, len(packed), 7)])
            server.response.headers = {"content-encoding": "gzip"}
            check(row, await outcome_of(provider), "compressed")

            server.response = _response(row, [row.body], framing="close")
            check(row, await outcome_of(provider), "up to the end of the connection")


def _response(row: Row, pieces: list[bytes], framing: Framing = "chunked") -> Response:
    kept = [piece for piece in pieces if piece]
    return Response(kept, row.status, row.content_type, framing=framing, end=row.end)


# With the connection replaced: the same pieces, without the cost of a socket


@each_row_up_to(GIANT_BYTES)
async def test_a_dialect_cut_anywhere(made: Made, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every border between two bytes is a border between two pieces, in one of the requests."""
    transport = _Transport(row, monkeypatch)
    async with _closing(made("http://127.0.0.1:1", row)) as provider:
        for first in range(1, min(STRIDE, len(row.body)) + 1):
            transport.cut_at(range(first, len(row.body), STRIDE))
            check(row, await outcome_of(provider), f"cut at {first} and every {STRIDE} bytes")


@pytest.mark.slow
@each_row_up_to(SHORT_BYTES)
async def test_a_dialect_in_two_pieces_cut_at_every_byte(made: Made, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = _Transport(row, monkeypatch)
    async with _closing(made("http://127.0.0.1:1", row)) as provider:
        for at in range(1, len(row.body)):
            transport.cut_at([at])
            check(row, await outcome_of(provider), f"cut at {at}: …{row.body[max(0, at - 20) : at]!r}")


class _Transport:
    """In place of HTTPX's: every response is the row's body, in pieces."""

    def __init__(self, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
        self._row = row
        self._pieces: list[bytes] = []

        async def handle(_: object, request: httpx2.Request) -> httpx2.Response:
            headers = {"content-type": row.content_type}
            return httpx2.Response(row.status, headers=headers, stream=_Pieces(self._pieces, row), request=request)

        monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle)

    def cut_at(self, borders: Sequence[int]) -> None:
        edges = [0, *borders, len(self._row.body)]
        self._pieces = [self._row.body[start:stop] for start, stop in pairwise(edges) if stop > start]


class _Pieces(httpx2.AsyncByteStream):
    def __init__(self, pieces: list[bytes], row: Row) -> None:
        self._pieces, self._end = pieces, row.end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._end == "cut":
            raise httpx2.RemoteProtocolError("peer closed connection without sending complete message body")
        if self._end == "reset":
            raise httpx2.ReadError("")


# When it comes out


@pytest.mark.parametrize("eol", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("made", [openai, anthropic, responses])
async def test_text_is_out_before_the_byte_after_its_event(
    made: Made, eol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that sends nothing more until its text is shown is not waited for; nor is LF after CR."""
    begun: dict[Made, bytes] = {
        openai: sse(*dialects_openai.HELLO, eol=eol),
        anthropic: dialects_anthropic.events(dialects_anthropic.START, *dialects_anthropic.TEXT[:3], eol=eol),
        responses: dialects_responses.events(dialects_responses.CREATED, *dialects_responses.TEXT, eol=eol),
    }
    shown = asyncio.Event()

    async def handle(_: object, request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=_Held(begun[made], shown), request=request)

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle)
    row = Row("", "", b"", Answer(""))
    text = ""
    async with _closing(made("http://127.0.0.1:1", row)) as provider, aclosing(provider.stream(HI)) as parts:
        async with asyncio.timeout(HANGS_S):
            while text != dialects_openai.SAID:
                part = await anext(parts)
                text += part.text if isinstance(part, Text) else ""
        shown.set()


class _Held(httpx2.AsyncByteStream):
    """Sends these bytes, one by one, and nothing more before `shown`."""

    def __init__(self, body: bytes, shown: asyncio.Event) -> None:
        self._body, self._shown = body, shown

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for byte in self._body:
            yield bytes([byte])
        await self._shown.wait()


@asynccontextmanager
async def _closing(provider: Provider) -> AsyncIterator[Provider]:
    try:
        yield provider
    finally:
        await provider.aclose()
