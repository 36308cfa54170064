"""What identity costs a connect: CPU time of a gateway for a handshake, `hello` and `welcome`, with and without auth.

First the code alone that tells who connects; then a gateway's process, where each client connects by a handshake
written by hand, reads `welcome` and hangs up. The rounds of all kinds take turns, so that a slow minute of the machine
meets all; of each kind the median round counts.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.datastructures import Headers

from relay import embedded
from relay.auth.factory import auth_of
from relay.auth.revocations import Revocations
from relay.gateway.authentication import Authentication
from relay.gateway.greeting import Greeting
from relay.protocol import frames
from relay.protocol.commands import Hello
from relay.settings import load
from tests.scenarios.credentials import SECRET, bearing, token
from tests.scenarios.processes import Process, until

CONNECTS = 300  # of a round
ROUNDS = 9
AT_ONCE = 8


class Kind:
    """A gateway, and the tokens that its clients bring: one for each connect, or None without auth."""

    def __init__(self, name: str, tokens: Callable[[], str | None], *, says_hello: bool = False) -> None:
        self.name = name
        self.tokens = tokens
        self.says_hello = says_hello
        self.rounds: list[float] = []


def connect_cost() -> None:
    if sys.platform != "linux":
        print("connect: CPU time of another process is read from /proc, which is not here")
        return
    asyncio.run(_alone())
    asyncio.run(_run())


async def _alone() -> None:
    """Wall time of what Connection asks about identity, from the handshake's headers to its close."""
    known = Revocations(None, keep_s=86400)  # type: ignore[arg-type]  # it is asked for nothing
    known._is_known = True
    on = Authentication(auth_of(load(auth_secret=SECRET), None), known, "127.0.0.1", "")  # type: ignore[arg-type]
    off = Authentication(None, known, "127.0.0.1", "")
    welcome = frames.Welcome(connection="c", protocol="relay.v1", heartbeat_s=15, limits={})

    async def nothing() -> None: ...

    async def connects(authentication: Authentication, tokens: list[str], *, says_hello: bool = False) -> float:
        began = time.perf_counter()
        for given in tokens:
            replies: Any = SimpleNamespace(send=lambda frame: None)
            greeting = Greeting(authentication, replies, lambda *_: welcome, nothing)
            await greeting.begin(Headers({} if says_hello else bearing(given)), None)
            if says_hello:
                await greeting.hello(Hello(given), None)
            greeting.close()
        return (time.perf_counter() - began) / len(tokens) * 1e6

    same = [token()] * CONNECTS
    kinds: dict[str, Callable[[], Awaitable[float]]] = {
        "without auth": lambda: connects(off, same),
        "the same token in each handshake": lambda: connects(on, same),
        "the same token in each hello": lambda: connects(on, same, says_hello=True),
        "another token (HS256) each time": lambda: connects(on, [token(n=secrets.token_hex(8)) for _ in same]),
    }
    for name, measure in kinds.items():
        print(f"identity alone, {name:35} {statistics.median([await measure() for _ in range(ROUNDS)]):7.1f} µs")


async def _run() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    one, numbers = token(), iter(range(10**9))
    with ExitStack() as stack:
        url = stack.enter_context(embedded.embedded_server())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (directory / "key.pem").write_bytes(pem)
        gateways = {
            "without auth": [
                Kind("without auth", lambda: None),
                Kind("without auth, with a hello", lambda: one, says_hello=True),
            ],
            "secret": [
                Kind("the same token in each handshake", lambda: one),
                Kind("the same token in each hello", lambda: one, says_hello=True),
                Kind("another token (HS256) each time", lambda: token(n=next(numbers))),
            ],
            "key": [
                Kind(
                    "another token (ES256) each time",
                    lambda: token(n=next(numbers), key=private, algorithm="ES256"),
                )
            ],
        }
        environments = {
            "without auth": {},
            "secret": {"RELAY_AUTH_SECRET": SECRET},
            "key": {"RELAY_AUTH_KEY_FILE": str(directory / "key.pem")},
        }
        processes = {
            name: Process(["relay", "gateway", "--port", "0"], directory, name, {"RELAY_REDIS_URL": url, **environment})
            for name, environment in environments.items()
        }
        try:
            ports = {name: await _port(process) for name, process in processes.items()}
            for _ in range(ROUNDS + 1):  # the first is for warmth
                for name, kinds in gateways.items():
                    for kind in kinds:
                        kind.rounds.append(await _round(processes[name].pid, ports[name], kind))
        finally:
            for process in processes.values():
                await process.kill()
        plain = statistics.median(gateways["without auth"][0].rounds[1:])
        for kind in (kind for kinds in gateways.values() for kind in kinds):
            median = statistics.median(kind.rounds[1:])
            print(f"connect, {kind.name:35} {median:7.0f} µs of CPU, {median - plain:+5.0f}")


async def _port(process: Process) -> int:
    await until(lambda: process.logged("listening"), "the gateway listens")
    line = process.logged("listening")
    assert line is not None
    port: int = line["port"]

    async def serves() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await until(serves, "the gateway serves")
    return port


async def _round(pid: int, port: int, kind: Kind) -> float:
    """Microseconds of the gateway's CPU for each connect."""
    tokens = [kind.tokens() for _ in range(CONNECTS)]
    waiting = iter(tokens)

    async def several(tokens: Iterator[str | None]) -> None:
        for given in tokens:
            await _connect(port, given, says_hello=kind.says_hello)

    await asyncio.sleep(0.2)
    before = _cpu_s(pid)
    await asyncio.gather(*(several(waiting) for _ in range(AT_ONCE)))
    await asyncio.sleep(0.2)
    return (_cpu_s(pid) - before) / CONNECTS * 1e6


async def _connect(port: int, given: str | None, *, says_hello: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    bearing = f"Authorization: Bearer {given}\r\n" if given is not None and not says_hello else ""
    writer.write(
        f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\n{bearing}Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    if says_hello:
        hello = f'{{"type":"hello","token":"{given}"}}'.encode()
        writer.write(b"\x81\xfe" + len(hello).to_bytes(2) + bytes(4) + hello)
    await reader.readuntil(b'"welcome"')
    writer.transport.abort()


def _cpu_s(pid: int) -> float:
    """User and system time so far; scheduler statistics count in nanoseconds, `stat` in hundredths of a second."""
    try:
        return int((Path("/proc") / str(pid) / "schedstat").read_text().split()[0]) / 1e9
    except OSError:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
