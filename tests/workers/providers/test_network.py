"""Connections to providers: every byte in order, bounded, and silence that was the server's."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpcore2
import httpx2
import pytest

from relay import timeouts
from relay.turns import PER_TURN
from relay_workers.providers import access
from relay_workers.providers.network import Backend, Connection
from tests.scenarios.processes import until
from tests.scenarios.redis_tls import certificates

WAIT_S = 10
LONG_S = 60  # never the reason here
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server_that(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, asyncio.StreamWriter]]:
    """Our end, and the server's."""
    theirs: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs.set_result(writer)

    async with server_that(serve) as port:
        ours = await Backend().connect_tcp("127.0.0.1", port)
        assert isinstance(ours, Connection)
        writer = await theirs
        try:
            yield ours, writer
        finally:
            await ours.aclose()
            if not writer.is_closing():
                writer.transport.abort()


async def test_what_arrives_while_the_loop_is_busy_is_read_at_once() -> None:
    async with connected() as (ours, theirs):
        for chunk in (b"one ", b"two ", b"three"):
            theirs.write(chunk)
            await asyncio.sleep(0)
        await until(lambda: len(ours._received) == 13, "all of it has arrived")
        assert await ours.read(65_536) == b"one two three"


async def test_a_turn_of_a_reader_that_has_left_is_the_next_one_s() -> None:
    connection = Connection()
    left = asyncio.create_task(connection.read(10))
    await asyncio.sleep(0)
    for _ in range(12):
        timeouts.turns().ask(lambda: None)
    connection.data_received(b"one")
    left.cancel()  # before its turn
    await asyncio.gather(left, return_exceptions=True)
    assert await connection.read(10) == b"one"


async def test_what_comes_between_its_turn_and_its_read_is_not_the_end_of_a_body() -> None:
    connection = Connection()
    reads: list[bytes] = []

    async def read_twice() -> None:
        for _ in range(2):
            reads.append(await connection.read(10))

    reading = asyncio.create_task(read_twice())
    await asyncio.sleep(0)
    connection.data_received(b"one ")
    timeouts.turns().ask(lambda: connection.data_received(b"more"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert reads == [b"one more"]
    connection.data_received(b"two")
    await reading
    assert reads == [b"one more", b"two"]


async def test_also_who_has_something_to_read_waits_for_a_turn() -> None:
    connections = [Connection() for _ in range(3 * PER_TURN)]
    for connection in connections:
        connection.data_received(b"x")
    reads = [asyncio.create_task(connection.read(10)) for connection in connections]
    done: list[int] = []
    while sum(done) < len(connections):
        await asyncio.sleep(0)
        done.append(sum(read.done() for read in reads) - sum(done))
    assert max(done) == PER_TURN
    assert [await read for read in reads] == [b"x"] * len(connections)


async def test_who_waits_for_a_turn_was_not_left_in_silence() -> None:
    connection = Connection()
    reading = asyncio.create_task(connection.read(10, 3600))
    await asyncio.sleep(0)
    connection.data_received(b"one")
    connection._read_overdue()
    assert await reading == b"one"


async def test_a_read_gives_no_more_than_it_was_asked_for_and_loses_nothing() -> None:
    async with connected() as (ours, theirs):
        theirs.write(b"abcdefg")
        theirs.close()
        assert [await ours.read(3) for _ in range(4)] == [b"abc", b"def", b"g", b""]


async def test_a_server_that_sends_more_than_is_read_has_to_wait() -> None:
    sent = bytes(range(256)) * 40_000
    async with connected() as (ours, theirs):
        theirs.write(sent)
        theirs.close()
        await until(lambda: ours._paused, "enough has arrived")
        assert len(ours._received) < 1_000_000 < len(sent)
        read = bytearray()
        while data := await ours.read(100_000):
            read += data
        assert read == sent


async def test_a_reset_comes_after_what_had_arrived() -> None:
    async with connected() as (ours, theirs):
        theirs.write(b"last words")
        await until(lambda: ours._received, "they have arrived")
        theirs.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.transport.abort()
        await until(lambda: ours._lost is not None, "it is reset")
        assert await ours.read(65_536) == b"last words"
        with pytest.raises(httpcore2.ReadError):
            await ours.read(65_536)
        with pytest.raises(httpcore2.WriteError):
            await ours.write(b"?")


async def test_a_silent_server_is_a_timeout() -> None:
    async with connected() as (ours, _):
        with pytest.raises(httpcore2.ReadTimeout):
            await ours.read(65_536, 0.05)


async def test_a_server_that_spoke_while_we_were_busy_was_not_silent() -> None:
    async with connected() as (ours, theirs):
        reading = asyncio.create_task(ours.read(65_536, 0.1))
        await asyncio.sleep(0)
        theirs.write(b"x")
        for _ in range(4):
            time.sleep(0.2)  # noqa: ASYNC251 - it is the loop that is to be blocked
        assert await reading == b"x"


async def test_a_read_that_is_cancelled_loses_nothing() -> None:
    async with connected() as (ours, theirs):
        reading = asyncio.create_task(ours.read(65_536, LONG_S))
        await until(lambda: ours._reader is not None, "it reads")
        theirs.write(b"x")
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert await asyncio.wait_for(ours.read(65_536, LONG_S), WAIT_S) == b"x"


async def test_a_server_that_takes_nothing_is_a_timeout() -> None:
    async with connected() as (ours, theirs):
        theirs.transport.pause_reading()  # type: ignore[attr-defined]  # it is a socket's
        with pytest.raises(httpcore2.WriteTimeout):
            await writing(ours)


async def writing(ours: Connection) -> None:
    while True:
        await ours.write(b"x" * 1_000_000, 0.05)


async def test_nobody_listens_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(httpcore2.ConnectError):
            await Backend().connect_tcp("127.0.0.1", unused.getsockname()[1])


# With the whole HTTP client


async def replying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await head_of(reader):
        writer.write(REPLY)


async def head_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def test_the_client_is_given_these_connections_and_keeps_them() -> None:
    async with server_that(replying) as port, access.Client(LONG_S, trust_env=False) as client:
        for _ in range(2):
            async with client.stream("GET", f"http://127.0.0.1:{port}") as response:
                assert isinstance(response.extensions["network_stream"], Connection)
                assert await response.aread() == b"ok"
        assert len(client._transport._pool.connections) == 1  # type: ignore[attr-defined]  # httpx2's own


async def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used_again() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(REPLY)
        writer.close()

    async with server_that(once) as port, access.Client(LONG_S, trust_env=False) as client:
        for _ in range(5):
            assert (await client.get(f"http://127.0.0.1:{port}")).text == "ok"


async def test_over_tls_and_a_server_that_ends_it_without_a_goodbye(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(files["cert"], files["key"])
    ours = ssl.create_default_context(cafile=files["ca"])

    async def streaming(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for number in range(20):
            writer.write(b"%d " % number)
            await writer.drain()
        writer.transport._ssl_protocol._transport.close()  # type: ignore[attr-defined]  # no close_notify

    async with server_that(streaming, theirs) as port:
        async with access.Client(LONG_S, trust_env=False, verify=ours) as client:
            answer = await client.get(f"https://127.0.0.1:{port}")
            assert answer.text.split() == [str(number) for number in range(20)]
        async with access.Client(LONG_S, trust_env=False) as client:  # that does not know the authority
            with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(f"https://127.0.0.1:{port}")


async def test_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = certificates(tmp_path)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(files["cert"], files["key"])
    ours = ssl.create_default_context(cafile=files["ca"])
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        verb, target, _ = (await head_of(reader)).split(b"\r\n")[0].split(b" ")
        asked.append(verb)
        host, _, port = target.decode().partition(":")
        upstream, upstream_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pumped(reader, upstream_writer), pumped(upstream, writer))

    async def pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async with server_that(replying, theirs) as port, server_that(proxy) as proxy_port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy_port}")
        async with (
            access.Client(LONG_S, verify=ours) as client,
            client.stream("GET", f"https://127.0.0.1:{port}") as response,
        ):
            body = await response.aread()
    assert (body, asked) == (b"ok", [b"CONNECT"])
    assert isinstance(response.extensions["network_stream"], Connection)


async def test_what_a_proxy_sends_in_the_clear_is_not_read_as_tls() -> None:
    async with connected() as (ours, theirs):
        theirs.write(b"HTTP/1.1 200 OK\r\n\r\n" + REPLY)
        assert await ours.read(19) == b"HTTP/1.1 200 OK\r\n\r\n"
        with pytest.raises(httpcore2.ConnectError):
            await ours.start_tls(ssl.create_default_context(), "localhost", LONG_S)
