"""Readers that take little, late or nothing: they end with the exact text, in bounded memory, and slow nobody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from relay.store.keys import Keys
from relay.store.session.session_log import SessionLog
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process, until
from tests.scenarios.world import Gateway, Script, World

SIP_EVERY_S = 0.1


@asynccontextmanager
async def trickle(gateway: Gateway, bytes_per_second: int) -> AsyncIterator[str]:
    """An address from which a client gets what the gateway says at this rate; what it says itself goes at once.

    Towards the gateway it is a peer that takes no more than that: its kernel holds next to nothing.
    """
    address = urlsplit(gateway.url)
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = socket.socket()
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        upstream.setblocking(False)
        await loop.sock_connect(upstream, (address.hostname, address.port))

        async def up() -> None:
            while data := await reader.read(65536):
                await loop.sock_sendall(upstream, data)

        async def down() -> None:
            while data := await loop.sock_recv(upstream, int(bytes_per_second * SIP_EVERY_S)):
                writer.write(data)
                await asyncio.sleep(SIP_EVERY_S)
            writer.close()

        carrying = [asyncio.create_task(up()), asyncio.create_task(down())]
        tasks.update(carrying)
        await asyncio.wait(carrying, return_when=asyncio.FIRST_COMPLETED)
        upstream.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _memory_bytes(process: Process) -> int:
    """Memory of its own (Linux)."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.slow
async def test_a_kilobyte_a_second_is_enough_for_two_hundred_tokens_a_second(relay: World) -> None:
    tokens = [f"w{number % 100} " for number in range(2000)]
    relay.fake.script = Script(tokens=tokens, tokens_per_second=200)
    gateway = await relay.gateway(RELAY_VIEWER_BUFFER_BYTES="1024")
    await relay.worker(RELAY_BATCH_SIZE="2")
    async with trickle(gateway, 1000) as url, Client(gateway.url, "s") as quick, Client(url, "s") as slow:
        await quick.subscribe()
        await slow.subscribe()
        connection = slow.connection
        generation = await quick.submit("q")
        await quick.ended(generation, 60)
        check(quick, generation, "".join(tokens))
        behind = quick.shown(generation).count - slow.shown(generation).count
        await slow.ended(generation, 60)
        check(slow, generation, "".join(tokens))
        assert slow.connection is connection is not None
        assert connection.close_code is None, "nobody is cut off for being slow"
        assert behind > 0
        assert sum(map(len, slow.raw)) < 0.3 * sum(map(len, quick.raw)), "what it had not taken came merged"


@pytest.mark.slow
async def test_two_hundred_readers_that_take_nothing_cost_bounded_memory_and_the_others_feel_nothing(
    relay: World,
) -> None:
    tokens = [f"{number:06d} " + "x" * 500 for number in range(8000)]
    relay.fake.script = Script(tokens=tokens)
    buffer_bytes, frame_bytes = 16384, 262_144
    gateway = await relay.gateway(RELAY_VIEWER_BUFFER_BYTES=str(buffer_bytes))
    await relay.worker(RELAY_MAX_ANSWER_BYTES="16777216")
    stuck = [Client(gateway.url, "s") for _ in range(200)]
    async with Client(gateway.url, "s") as quick:
        await quick.subscribe()
        for client in stuck:
            await client.connect(receive_buffer_bytes=4096)
            await client.subscribe()
            assert client.connection is not None
            client.connection.transport.pause_reading()
        before = _memory_bytes(gateway)
        generation = await quick.submit("q")
        await quick.ended(generation, 60)
        check(quick, generation, "".join(tokens))
        grown = _memory_bytes(gateway) - before
        print(f"{grown / len(stuck) / 1024:.0f} KiB per stuck reader")
        assert grown < len(stuck) * (buffer_bytes + frame_bytes) + 32 * 1024 * 1024
    for client in stuck:
        assert client.connection is not None
        client.connection.transport.abort()
    await until(lambda: _viewers(relay, gateway), "they have left")


async def _viewers(relay: World, gateway: Gateway) -> bool:
    return (await relay.metrics(gateway))["relay_subscriptions"] == 0


@pytest.mark.slow
async def test_fifty_thousand_tokens_resume_with_their_text_plus_next_to_nothing_trimmed_or_not(relay: World) -> None:
    tokens = [f" tok{number % 1000}" for number in range(50_000)]
    text_bytes = len("".join(tokens))
    relay.fake.script = Script(tokens=tokens)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as watching:
        await watching.subscribe()
        generation = await watching.submit("q")
        await watching.ended(generation, 60)
        check(watching, generation, "".join(tokens))
        resumed = Client(gateway.url, "s")
        for frame in watching.frames[:4]:  # a cursor near the beginning
            resumed.take({**frame, "id": None})
    log = SessionLog(
        relay.redis, relay.redis, Keys(relay.prefix), session_ttl_s=1000, max_generations=10, max_requests=10
    )
    for trimmed in (False, True):
        while trimmed and await log.trim("s", generation):
            pass
        if trimmed:
            gateway = await relay.gateway()  # that has none of it at hand
        newcomer = Client(gateway.url, "s")
        for client in (newcomer, resumed):
            client.url = newcomer.url
            begun_with = len(client.raw)
            await client.connect()
            await client.subscribe()
            await client.ended(generation, 60)
            check(client, generation, "".join(tokens))
            assert sum(map(len, client.raw[begun_with:])) <= 1.05 * text_bytes
            assert len(client.raw[begun_with:]) <= 2 + text_bytes // 250_000 + 1
            for _ in range(2):  # nothing new: nothing comes
                await client.disconnect()
                await client.connect()
                assert (await client.subscribe())["recovered"] is True
                told = len(client.frames)
                await client.command(type="ping")
                assert len(client.frames) == told
            await client.disconnect()
