"""A real master with a replica, watched by Sentinels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from tests.scenarios.processes import until
from tests.scenarios.redis_servers import Server, nothing_is_on_its_way, running

SERVICE = "relay-master"


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
