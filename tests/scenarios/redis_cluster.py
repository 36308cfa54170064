"""A real Redis Cluster, with slots that can be moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from redis.crc import key_slot

from tests.scenarios.processes import until
from tests.scenarios.redis_servers import Server, nothing_is_on_its_way, running

NODE_TIMEOUT_MS = 1000
SLOTS = 16384


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

    async def hand_over(self, replica: Server) -> None:
        """Have a replica take its master's place while that lives; a server gives up such an attempt after 5 s."""
        for _ in range(4):
            await replica.ask("CLUSTER", "FAILOVER")
            try:
                await until(lambda: leads(replica), "the replica leads", 6)
                return
            except AssertionError:
                continue
        raise AssertionError("the replica did not take over")

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


async def leads(server: Server) -> bool:
    """Whether it is a master, as it sees it."""
    return bool((await server.ask("ROLE"))[0] == "master")


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
