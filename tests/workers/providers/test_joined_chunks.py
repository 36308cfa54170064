"""Chunks that came with one read are one piece; everything else is as h11 has it."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import h11
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_workers.providers import access
from relay_workers.providers.joined_chunks import JoinedChunks
from tests.workers.providers.test_network import server_that

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

chunks = st.binary(min_size=1, max_size=20).map(lambda data: b"%x\r\n%b\r\n" % (len(data), data))
ends = st.sampled_from(
    [
        b"", b"0\r\n\r\n", b"0\r\nTrailer: yes\r\n\r\n", b"0\r\n\r\nHTTP/1.1",
        b"0\r\n", b"2", b"2\r\nab", b"zz\r\n", b"2\r\nabc",
    ]
)  # fmt: skip


def outcome(reads: list[bytes], *, joined: bool) -> tuple[bytes, list[str], int]:
    """What h11 makes of these reads and the end behind them: (data, what else, events of data)."""
    connection: Any = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(HEAD)
    assert isinstance(connection.next_event(), h11.Response)
    if joined:
        connection._reader = JoinedChunks(connection._reader)
    data, pieces = b"", 0
    others: list[str] = []
    for read in [*reads, b""]:
        connection.receive_data(read)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                return data, [*others, str(error)], pieces
            if isinstance(event, h11.Data):
                data, pieces = data + bytes(event.data), pieces + 1
                continue
            if event is h11.NEED_DATA:
                break
            others.append(repr(event))
            if not isinstance(event, h11.EndOfMessage):
                return data, others, pieces
    return data, others, pieces


@given(st.lists(chunks, max_size=8), ends, st.data())
def test_whatever_a_server_sends_comes_out_the_same(sent: list[bytes], end: bytes, data: st.DataObject) -> None:
    body = b"".join(sent) + end
    at = sorted(data.draw(st.lists(st.integers(1, len(body) - 1), max_size=6, unique=True)) if len(body) > 1 else [])
    reads = [read for start, stop in zip([0, *at], [*at, len(body)], strict=True) if (read := body[start:stop])]
    plain, joined = outcome(reads, joined=False), outcome(reads, joined=True)
    assert joined[:2] == plain[:2]
    assert joined[2] <= len(reads)


async def test_it_is_in_force_and_the_connection_is_used_again() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(HEAD + b"".join(b"1\r\n%d\r\n" % digit for digit in range(8)) + b"0\r\n\r\n")

    async with server_that(serve) as port, access.Client(10) as client:
        for _ in range(2):
            request = httpx2.Request("GET", f"http://127.0.0.1:{port}")
            response = await client.send(request, stream=True)
            assert [piece async for piece in response.aiter_raw()] == [b"01234567"]
    assert connections == 1


async def test_of_a_compressed_body_what_comes_before_a_corrupt_block_is_handed_on() -> None:
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b"whole") + packer.flush(zlib.Z_SYNC_FLUSH)
    head = HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"%x\r\n%b\r\n" % (len(packed), packed) + b"4\r\n\xff\xff\xff\xff\r\n0\r\n\r\n")

    read: list[bytes] = []

    async def read_all(response: httpx2.Response) -> None:
        async for piece in response.aiter_bytes():
            read.append(piece)

    async with server_that(serve) as port, access.Client(10) as client:
        response = await client.send(httpx2.Request("GET", f"http://127.0.0.1:{port}"), stream=True)
        with pytest.raises(httpx2.DecodingError):
            await read_all(response)
    assert read == [b"whole"]
