"""The wire's faults are what they say: otherwise the scenarios behind it prove nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.scenarios.processes import until
from tests.scenarios.wire import BOTH, Direction, Wire


class Peer:
    """One end of a connection, and all that has come to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.got = b""
        self.over = ""  # how it ended: "closed" or "reset"
        self._task = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(1000):
                self.got += data
            self.over = "closed"
        except ConnectionResetError:
            self.over = "reset"

    async def has(self, data: bytes) -> None:
        await until(lambda: self.got == data, f"{data!r} comes, not {self.got!r}")

    async def aclose(self) -> None:
        self._task.cancel()
        self.writer.transport.abort()
        await asyncio.gather(self._task, return_exceptions=True)


class Ends:
    """A server behind a wire, and what connects to it through the wire."""

    def __init__(self) -> None:
        self.served: list[Peer] = []
        self._made: list[Peer] = []

    async def __aenter__(self) -> Ends:
        self._server = await asyncio.start_server(lambda *streams: self.served.append(Peer(*streams)), "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.wire = await Wire(f"http://127.0.0.1:{port}/v1").__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for peer in [*self._made, *self.served]:
            await peer.aclose()
        await self.wire.__aexit__()
        self._server.close()

    async def connected(self) -> dict[Direction, Peer]:
        """Both ends of a new connection, by what flows towards them."""
        before = len(self.served)
        port = int(self.wire.url.rsplit(":")[-1].split("/")[0])
        client = Peer(*await asyncio.open_connection("127.0.0.1", port))
        self._made.append(client)
        await until(lambda: len(self.served) > before, "the server is connected")
        return {"up": self.served[-1], "down": client}


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    async with Ends() as made:
        yield made


def send(peers: dict[Direction, Peer], direction: Direction, data: bytes) -> None:
    peers["down" if direction == "up" else "up"].writer.write(data)


@pytest.mark.parametrize("direction", BOTH)
async def test_without_a_fault_everything_passes_and_a_hang_up_too(ends: Ends, direction: Direction) -> None:
    peers = await ends.connected()
    send(peers, direction, b"a\r\n" * 100_000)
    await peers[direction].has(b"a\r\n" * 100_000)
    assert ends.wire.passed[direction] == 300_000
    assert ends.wire.url.endswith("/v1")
    peers["down"].writer.close()
    await until(lambda: peers["up"].over == "closed", "the hang-up")
    await until(lambda: not ends.wire.connections, "the connection is forgotten")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_and_a_reset_reach_both_ends_and_the_next_connection_is_well(ends: Ends, reset: bool) -> None:
    peers = await ends.connected()
    ends.wire.cut(reset=reset)
    await until(lambda: peers["up"].over and peers["down"].over, "both ends are told")
    assert {peers["up"].over, peers["down"].over} == {"reset" if reset else "closed"}
    again = await ends.connected()
    send(again, "up", b"a")
    await again["up"].has(b"a")


@pytest.mark.parametrize("direction", BOTH)
async def test_a_stall_is_one_way_and_what_was_sent_meanwhile_arrives_after_it(
    ends: Ends, direction: Direction
) -> None:
    other: Direction = "down" if direction == "up" else "up"
    peers = await ends.connected()
    async with ends.wire.stalled(direction):
        send(peers, direction, b"late")
        send(peers, other, b"at once")
        await peers[other].has(b"at once")
        assert peers[direction].got == b""
    await peers[direction].has(b"late")


async def test_a_black_hole_swallows_everything_for_ever_and_nobody_is_told(ends: Ends) -> None:
    old = await ends.connected()
    async with ends.wire.black_hole():
        new = await ends.connected()
        for peers in (old, new):
            send(peers, "up", b"x")
            send(peers, "down", b"x")
    for peers in (old, new):
        send(peers, "up", b"y")
        send(peers, "down", b"y")
    old["down"].writer.close()
    well = await ends.connected()
    send(well, "up", b"well")
    await well["up"].has(b"well")
    assert [one.got for peers in (old, new) for one in peers.values()] == [b""] * 4
    assert [one.over for one in (old["up"], new["up"], new["down"])] == [""] * 3


async def test_latency_is_each_way_and_does_not_add_up_over_what_is_under_way(ends: Ends) -> None:
    peers = await ends.connected()
    async with ends.wire.slow(0.2):
        before = time.monotonic()
        for number in range(10):
            send(peers, "up", b"%d" % number)
            await asyncio.sleep(0.01)
        await peers["up"].has(b"0123456789")
        assert 0.25 <= time.monotonic() - before < 1.9  # ten times as long, one after the other
        send(peers, "down", b"!")
        await peers["down"].has(b"!")
        assert time.monotonic() - before >= 0.45


@pytest.mark.parametrize("direction", BOTH)
async def test_a_planned_cut_falls_behind_exactly_that_byte_of_all_that_passes(
    ends: Ends, direction: Direction
) -> None:
    one, other = await ends.connected(), await ends.connected()
    async with ends.wire.cutting(direction, after_bytes=7) as cut:
        send(one, direction, b"1234")
        await one[direction].has(b"1234")
        assert not cut.struck.is_set()
        send(other, direction, b"56789")
        await cut.struck.wait()
        await until(lambda: other["up"].over and other["down"].over, "both ends are told")
    assert other[direction].got == b"567"
    send(one, direction, b"5")
    await one[direction].has(b"12345")


async def test_who_is_away_refuses_and_comes_back_on_the_same_port(ends: Ends) -> None:
    peers = await ends.connected()
    async with ends.wire.away():
        await until(lambda: peers["up"].over and peers["down"].over, "both ends are told")
        with pytest.raises(ConnectionRefusedError):
            await ends.connected()
    peers = await ends.connected()
    async with ends.wire.refusing_connections():
        with pytest.raises(ConnectionRefusedError):
            await ends.connected()
        send(peers, "up", b"goes on")
        await peers["up"].has(b"goes on")
