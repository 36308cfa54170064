"""Connections to Redis, of several kinds, because they fail in different ways; and the commands that go through them.

redis-py's client is wrong for us. By default a hung Redis would block one append for a minute, and a write whose reply
was lost would silently be done twice. It sends commands on connections that the server has closed while they were idle
(8.1 looks only where maintenance notifications are off), its timeouts count how late we are ourselves, and a command
costs it more than twice the CPU that it costs here. What is kept of it is how it reads addresses and errors.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from relay.redis.address import Endpoint, parse_address
from relay.redis.command_connection import Argument
from relay.redis.errors import cancellable, storage_error
from relay.redis.routing import RoutingClient
from relay.redis.topology import Topology

APPEND_TIMEOUT_S = 1.0
COMMAND_TIMEOUT_S = 2.0
BLOCK_S = 2.0
POOL_CONNECTIONS = 64  # of each of the clients, to one server; whoever finds none waits

AnyRedis = Redis | RoutingClient


class Connections:
    """`append`: short timeouts, for the flusher. `leases`: likewise, for renewals, which wait behind nothing.

    `blocking`: reads that wait up to BLOCK_S. `commands`: the rest.

    None retries by itself: a script that bears a repeat may still answer the second try differently ("it has ended
    already"). Whoever wants a retry does it where it can be seen. Who finds a pool empty waits, and not on its time.
    `servers`: what all of them know of where to ask; subscriptions share it.
    """

    def __init__(self, url: str, *, quiet: bool = False) -> None:
        """Connects to nothing yet. `quiet`: whoever asks says what is wrong, no log. Raises SettingsError."""
        self.topology = Topology(parse_address(url), quiet=quiet)
        self.append = self._client(APPEND_TIMEOUT_S)
        self.leases = self._client(APPEND_TIMEOUT_S)
        self.blocking = self._client(BLOCK_S + COMMAND_TIMEOUT_S)
        self.commands = self._client(COMMAND_TIMEOUT_S)

    async def aclose(self) -> None:
        await self.topology.aclose()
        for client in (self.append, self.leases, self.blocking, self.commands):
            await client.aclose()

    def _client(self, timeout_s: float) -> RoutingClient:
        return RoutingClient(self.topology, timeout_s, min(timeout_s, COMMAND_TIMEOUT_S), POOL_CONNECTIONS)


async def call(redis: AnyRedis, *command: Argument) -> Any:
    """One plain command. Raises StorageError, as every way into Redis here does."""
    try:
        return await execute(redis, _key(command), *command)
    except (RedisError, OSError) as error:
        raise storage_error(command[0], error) from error


async def publish_verb(redis: AnyRedis) -> str:
    """PUBLISH, or for a Cluster SPUBLISH: classic pub/sub would flood all of its servers. Raises StorageError."""
    try:
        return "SPUBLISH" if isinstance(redis, RoutingClient) and await redis.sharded() else "PUBLISH"
    except (RedisError, OSError) as error:
        raise storage_error("PUBLISH", error) from error


async def execute(redis: AnyRedis, key: str, *command: Argument) -> Any:
    """A command about `key`. Raises RedisError, OSError."""
    if isinstance(redis, RoutingClient):
        return await redis.execute(key, *command)
    return await cancellable(redis.execute_command(*command))  # type: ignore[no-untyped-call]


def server_of(redis: AnyRedis, key: str) -> Endpoint | None:
    """The server that is asked about `key`; None while that is not known."""
    return redis.server_of(key) if isinstance(redis, RoutingClient) else None


async def ping(redis: AnyRedis, key: str) -> None:
    """Raises StorageError unless the server of `key` answers; one whose disk is full refuses."""
    try:
        await execute(redis, key, "PING")
    except (RedisError, OSError) as error:
        raise storage_error("PING", error) from error


def _key(command: tuple[Argument, ...]) -> str:
    """The key, or channel, by which a plain command finds its server."""
    place = command.index("STREAMS") + 1 if command[0] == "XREAD" else 1
    return str(command[place]) if len(command) > place else ""
