"""Real Redis servers for the scenarios: a Cluster, a master with its Sentinels, one that speaks TLS only.

Each is a process in a directory of its own, listens on a free port of 127.0.0.1, and is ended by its pid.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from relay.embedded import die_with_parent
from tests.scenarios.processes import free_port, until

NODE_TIMEOUT_MS = 1000
SERVICE = "relay-master"
SLOTS = 16384


def binary() -> str:
    """A redis-server of 7.0 or newer; skips the test where there is none, except in CI."""
    found = shutil.which("redis-server")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout if found else ""
    match = re.search(r"v=(\d+)", version)
    if found is None or match is None or int(match[1]) < 7:
        why = f"redis-server 7.0 or newer is needed on PATH; there is {version.strip() or 'none'}"
        missing(why)
    return found


def missing(why: str) -> NoReturn:
    """Skip the test, except in CI, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


class Server:
    """One redis-server process; `options` are its command line."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        password: str = "",
        tls: dict[str, Any] | None = None,
        sentinel: bool = False,
    ) -> None:
        self.port = free_port()
        self.bus_port = free_port()  # a Cluster's own; else of no use
        self._options = options
        self._directory = directory / str(self.port)
        self._directory.mkdir()
        self._tls = tls
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        where: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "socket_timeout": 5, "decode_responses": True}
        where["password"] = password or None
        self.redis = Redis(**where, **({"ssl": True, **tls} if tls else {}))

    async def start(self) -> None:
        port = ["--port", "0", "--tls-port"] if self._tls else ["--port"]
        kind: list[str] = []
        if self._sentinel:
            config = self._directory / "sentinel.conf"
            if not config.exists():
                config.write_text("")
            kind = [str(config), "--sentinel"]
        command = [
            binary(), *kind, *port, str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory),
            "--protected-mode", "no", *(() if self._sentinel else ("--save", "", "--appendonly", "no")), *self._options,
            *(("--cluster-port", str(self.bus_port)) if "--cluster-enabled" in self._options else ()),
        ]  # fmt: skip
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
            )
        await until(self.answers, f"the server on {self.port} answers: {(self._directory / 'log').read_text()[-500:]}")

    @property
    def url(self) -> str:
        """With TLS, where the server is set up so."""
        options = "&".join(f"{name}={value}" for name, value in (self._tls or {}).items())
        scheme = "rediss" if self._tls else "redis"
        kind = "+cluster" if "--cluster-enabled" in self._options else ""
        return f"{scheme}{kind}://127.0.0.1:{self.port}/0?{options}"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def answers(self) -> bool:
        assert self.runs, (self._directory / "log").read_text()[-1000:]
        try:
            return bool(await self.redis.ping())
        except (RedisError, OSError):
            return False

    async def ask(self, *command: Any) -> Any:
        return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As by `kill -9`; returns when it is gone."""
        if self.runs:
            assert self._process is not None
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    async def aclose(self) -> None:
        await self.redis.aclose()
        self.kill()


class Cluster:
    """`masters` at the beginning each have a third of the slots; `replica_of` as many replicas as were asked for."""

    def __init__(self, servers: list[Server], masters: int) -> None:
        self.servers = servers
        self.masters = servers[:masters]
        self.replicas = servers[masters:]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.masters)

    async def form(self) -> None:
        first, *others = self.servers
        share = -(-SLOTS // len(self.masters))
        for number, server in enumerate(self.masters):
            await server.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min(SLOTS, (number + 1) * share) - 1)
            await server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for other in others:
            await other.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus_port)
        await until(lambda: self._everybody(self._knows_all), "every server knows every other")
        for replica, master in zip(self.replicas, self.masters, strict=False):
            await replica.ask("CLUSTER", "REPLICATE", await self.name(master))
        await until(lambda: self._everybody(self._is_well), "the Cluster is well")
        for replica in self.replicas:
            await until(partial(self._follows, replica), "the replica follows its master")

    async def name(self, server: Server) -> str:
        return str(await server.ask("CLUSTER", "MYID"))

    async def owner(self, key: str) -> Server:
        """Who has the slot of this key, as the first server that runs sees it."""
        slot = key_slot(key.encode())
        for server in self.servers:
            if not server.runs:
                continue
            for first, last, master, *_ in await server.ask("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return next(server for server in self.servers if server.port == master[1])
        raise AssertionError(f"nobody has slot {slot}")

    async def move(self, key: str, target: Server, between: Callable[[], Awaitable[None]] | None = None) -> None:
        """Move the slot of this key, a few keys at a time as redis-cli does; `between` is awaited in its middle."""
        slot, source = key_slot(key.encode()), await self.owner(key)
        await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", await self.name(source))
        await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", await self.name(target))
        while keys := await source.ask("CLUSTER", "GETKEYSINSLOT", slot, 3):
            await source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            if between is not None:
                await between()
                between = None
        for server in (target, source, *(other for other in self.masters if other not in (source, target))):
            if server.runs:
                await server.ask("CLUSTER", "SETSLOT", slot, "NODE", await self.name(target))

    async def caught_up(self, master: Server) -> None:
        """Wait until the master's replicas have everything that it has."""
        await until(lambda: nothing_is_on_its_way(master), "the replicas have caught up")

    async def _everybody(self, holds: Callable[[Server], Awaitable[bool]]) -> bool:
        for server in self.servers:
            if not await holds(server):
                return False
        return True

    async def _knows_all(self, server: Server) -> bool:
        lines = str(await server.ask("CLUSTER", "NODES")).splitlines()
        return len(lines) == len(self.servers) and not any("handshake" in line for line in lines)

    async def _is_well(self, server: Server) -> bool:
        return "cluster_state:ok" in await server.ask("CLUSTER", "INFO")

    async def _follows(self, replica: Server) -> bool:
        return (await replica.redis.info("replication")).get("master_link_status") == "up"


@asynccontextmanager
async def cluster(directory: Path, *, masters: int = 3, replicas: int = 0) -> AsyncIterator[Cluster]:
    """Run one for the duration of the block."""
    made = _cluster(directory, masters, replicas)
    async with running(made.servers):
        await made.form()
        yield made


def _cluster(directory: Path, masters: int, replicas: int) -> Cluster:
    options = (
        "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--repl-ping-replica-period", "1",
        "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
    )  # fmt: skip
    return Cluster([Server(directory, *options) for _ in range(masters + replicas)], masters)


async def nothing_is_on_its_way(master: Server) -> bool:
    """Whether this master's replicas have everything that it has."""
    info = await master.redis.info("replication")
    replicas = [info[name] for name in info if re.fullmatch(r"slave\d+", name)]
    return bool(replicas) and all(replica["offset"] == info["master_repl_offset"] for replica in replicas)


@contextmanager
def cluster_for_many(directory: Path) -> Iterator[str]:
    """Run three masters for as long as many tests need them, each in an event loop of its own; yields their URL."""
    made = _cluster(directory, 3, 0)

    async def begin() -> None:
        for server in made.servers:
            await server.start()
        await made.form()
        for server in made.servers:
            await server.redis.aclose()

    try:
        asyncio.run(begin())
        yield made.url
    finally:
        for server in made.servers:
            server.kill()


class Watched:
    """A master with one replica, and three Sentinels that watch them."""

    def __init__(self, master: Server, replica: Server, sentinels: list[Server], password: str) -> None:
        self.password = password
        self.master = master
        self.replica = replica
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        where = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        if not self.password:
            return f"redis+sentinel://{where}/{SERVICE}"
        quoted = quote(self.password, safe="")
        return f"redis+sentinel://:{quoted}@{where}/{SERVICE}?sentinel_password={quoted}"

    async def caught_up(self) -> None:
        """Wait until the replica has everything that the master has."""
        await until(lambda: nothing_is_on_its_way(self.master), "the replica has caught up")


@asynccontextmanager
async def watched(directory: Path, *, password: str = "") -> AsyncIterator[Watched]:
    """Run them for the duration of the block. With a password, the Sentinels want it, too."""
    secret: tuple[str, ...] = ("--requirepass", password, "--masterauth", password) if password else ()
    master = Server(directory, *secret, password=password)
    async with running([master]):
        follows = ("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
        replica = Server(directory, *secret, *follows, password=password)
        secret = ("--requirepass", password) if password else ()
        sentinels = [Server(directory, *secret, password=password, sentinel=True) for _ in range(3)]
        async with running([replica, *sentinels]):
            for sentinel in sentinels:
                await _have_it_watch(sentinel, master, password)
            await until(lambda: _all_know(sentinels), "the Sentinels know the replica and each other")
            yield Watched(master, replica, sentinels, password)


async def _have_it_watch(sentinel: Server, master: Server, password: str) -> None:
    await sentinel.ask("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", master.port, 2)
    for name, value in {"down-after-milliseconds": 1000, "failover-timeout": 5000}.items():
        await sentinel.ask("SENTINEL", "SET", SERVICE, name, value)
    if password:
        await sentinel.ask("SENTINEL", "CONFIG", "SET", "sentinel-pass", password)
        await sentinel.ask("SENTINEL", "SET", SERVICE, "auth-pass", password)


async def _all_know(sentinels: list[Server]) -> bool:
    for sentinel in sentinels:
        flat = await sentinel.ask("SENTINEL", "MASTER", SERVICE)
        state = dict(zip(flat[::2], flat[1::2], strict=True)) if isinstance(flat, list) else flat
        if int(state["num-slaves"]) < 1 or int(state["num-other-sentinels"]) < len(sentinels) - 1:
            return False
    return True


def certificates(directory: Path) -> dict[str, str]:
    """Files of a made-up authority (`ca`) and of what it vouches for: `cert` and `key` of 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl is needed on PATH")
    files = {name: str(directory / f"{name}.pem") for name in ("ca", "ca-key", "cert", "key", "request")}
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
    for arguments in (
        ("req", "-x509", *key, "-keyout", files["ca-key"], "-out", files["ca"], "-subj", "/CN=Test CA", "-days", "2",
         "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"),
        ("req", *key, "-keyout", files["key"], "-out", files["request"], "-subj", "/CN=redis"),
        ("x509", "-req", "-in", files["request"], "-CA", files["ca"], "-CAkey", files["ca-key"], "-CAcreateserial",
         "-days", "2", "-extfile", str(extensions), "-out", files["cert"]),
    ):  # fmt: skip
        subprocess.run([openssl, *arguments], check=True, capture_output=True)
    return files


@asynccontextmanager
async def with_tls(directory: Path, files: dict[str, str], *, clustered: bool = False) -> AsyncIterator[Server]:
    """A server that speaks TLS only, and wants to see a client's certificate; `clustered`: it is a whole Cluster."""
    options = (
        "--tls-cert-file", files["cert"], "--tls-key-file", files["key"], "--tls-ca-cert-file", files["ca"],
        *(("--cluster-enabled", "yes", "--tls-cluster", "yes") if clustered else ()),
    )  # fmt: skip
    client = {"ssl_ca_certs": files["ca"], "ssl_certfile": files["cert"], "ssl_keyfile": files["key"]}
    server = Server(directory, *options, tls=client)
    async with running([server]):
        if clustered:
            await Cluster([server], 1).form()
        yield server


@asynccontextmanager
async def running(servers: list[Server]) -> AsyncIterator[list[Server]]:
    """Run these for the duration of the block."""
    try:
        for server in servers:
            await server.start()
        yield servers
    finally:
        for server in servers:
            await server.aclose()
