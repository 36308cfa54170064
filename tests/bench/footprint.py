"""What a session takes in Redis, and a connection, a follower and a slow reader in a gateway.

Differences over many of a kind, divided: of Redis' own `used_memory`, and of the gateway's PSS (its private memory and
its share of what it has in common with others, Linux).
"""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect

from relay import embedded
from relay.protocol import events
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.queue.queue import Queue
from relay.store.session.replies import Claim
from relay.store.session.session_log import Append, SessionLog
from tests.scenarios.processes import Process, until

SESSIONS = 100
TURNS = 50
BATCHES, BATCH = 200, 2  # an answer of 400 tokens at 30 a second
CONNECTIONS = 300
SLOW_READERS = 50
SLOW_TEXT_BYTES = 8_000_000  # more than the kernel takes for a reader
_QUESTION = "What does a lighthouse keeper do when the lamp goes out at night?"
_TOKEN = " word"


class Filled:
    """A server of its own, and a hand to write into it."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        keys = Keys("b")
        self.log = SessionLog(redis, redis, keys, session_ttl_s=600, max_generations=200, max_requests=1000)
        self.queue = Queue(redis, redis, keys, max_backlog=100_000, ttl_s=600, trim_after_s=600)

    async def used(self) -> int:
        return int((await self.redis.info("memory"))["used_memory"])

    async def cost(self, make: Callable[[int], Awaitable[object]], count: int = SESSIONS) -> float:
        """Bytes for each of so many."""
        before = await self.used()
        for number in range(count):
            await make(number)
        return (await self.used() - before) / count

    async def begin(self, session: str, generation: str) -> int:
        job = Job(session, generation, f"r{generation}", "h" * 43, "default", f"m{generation}", _QUESTION)
        assert await self.log.admit(job) is not None
        claim = await self.log.claim(session, generation, "w", 60_000, 0)
        assert isinstance(claim, Claim)
        return claim.fence

    async def answer(self, session: str, generation: str) -> None:
        fence = await self.begin(session, generation)
        await self.write(session, generation, fence, BATCHES, BATCH)
        await self.log.end(session, generation, fence, "complete", b'{"finish":"stop"}', BATCHES * BATCH, "a")

    async def write(self, session: str, generation: str, fence: int, batches: int, tokens: int) -> None:
        text, crc32 = _TOKEN * tokens, 0
        for n in range(1, batches + 1):
            crc32, index = zlib.crc32(text.encode(), crc32), (n - 1) * tokens
            body = events.encode(events.Tokens(generation, 1, index, tokens, text))
            append = Append("tokens", body, index, tokens, text, n * len(text), crc32)
            await self.log.append(session, generation, fence, n, 60_000, append)

    async def turns(self, session: str, count: int) -> None:
        for number in range(count):
            await self.answer(session, f"g{number}")

    async def trim(self, session: str, count: int) -> None:
        for number in range(count):
            while await self.log.trim(session, f"g{number}"):
                pass


async def in_redis() -> None:
    with embedded.embedded_server() as url:
        async with Redis.from_url(url, protocol=2) as redis:
            filled = Filled(redis)
            await filled.turns("warm", 1)  # the scripts
            _say("session, empty", await filled.cost(lambda number: filled.log.open(f"empty{number}")))
            one = await filled.cost(lambda number: filled.turns(f"one{number}", 1))
            _say("session, 1 turn of 400 tokens", one)
            _say("… trimmed", one + await filled.cost(lambda number: filled.trim(f"one{number}", 1)))
            many = await filled.cost(lambda number: filled.turns(f"many{number}", TURNS), 10)
            _say(f"session, {TURNS} turns", many)
            _say("… trimmed", many + await filled.cost(lambda number: filled.trim(f"many{number}", TURNS), 10))
            _say(
                "job that waits",
                await filled.cost(
                    lambda number: filled.queue.enqueue(
                        Job(f"s{number}", f"g{number}", "r", "h" * 43, "default", "m", _QUESTION), 1000
                    )
                ),
            )


async def in_gateway() -> None:
    with embedded.embedded_server() as url, tempfile.TemporaryDirectory() as directory:
        async with Redis.from_url(url, protocol=2) as redis:
            environment = {"RELAY_REDIS_URL": url, "RELAY_PREFIX": "b", "RELAY_STALL_S": "600"}
            gateway = Process(["relay", "gateway", "--port", "0"], Path(directory), "gateway", environment)
            try:
                await until(lambda: gateway.logged("listening"), "the gateway listens")
                line = gateway.logged("listening")
                assert line is not None
                await until(lambda: _serves(line["port"]), "the gateway serves")
                await _connections(Filled(redis), gateway.pid, line["port"])
            finally:
                await gateway.kill()


async def _connections(filled: Filled, pid: int, port: int) -> None:
    for number in range(20):  # what is made once
        await _viewer(port, f"warm{number}")
    before = await _pss(pid)

    async def cost(name: str, make: Callable[[int], Awaitable[object]], count: int = CONNECTIONS) -> None:
        nonlocal before
        for number in range(count):
            await make(number)
        now = await _pss(pid)
        _say(name, (now - before) / count)
        before = now

    await cost("connection, idle", lambda number: _connection(port))
    await cost("connection that follows a session of its own", lambda number: _viewer(port, f"own{number}"))
    await cost("connection that follows a session with others", lambda number: _viewer(port, "one"))
    fence = await filled.begin("slow", "g")
    await cost("connection of a reader that takes nothing", lambda number: _viewer(port, "slow"), SLOW_READERS)
    await filled.write("slow", "g", fence, SLOW_TEXT_BYTES // (1000 * len(_TOKEN)), 1000)
    await asyncio.sleep(2)
    _say(f"… {SLOW_TEXT_BYTES:,} bytes of text later, more", (await _pss(pid) - before) / SLOW_READERS)


async def _serves(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


_open: list[ClientConnection] = []


async def _connection(port: int) -> ClientConnection:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    made = await connect(
        f"ws://127.0.0.1:{port}/v1/ws", sock=sock, proxy=None, compression=None, ping_interval=None, max_queue=1
    )
    await made.recv()
    _open.append(made)
    return made


async def _viewer(port: int, session: str) -> None:
    made = await _connection(port)
    await made.send('{"type":"subscribe","session":"' + session + '"}')
    await made.recv()


async def _pss(pid: int) -> int:
    await asyncio.sleep(1)  # what was only needed in between is given back
    lines = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _say(name: str, size: float) -> None:
    print(f"{name:50} {size:10,.0f} bytes")


def footprint() -> None:
    asyncio.run(in_redis())
    if sys.platform == "linux":
        asyncio.run(in_gateway())
