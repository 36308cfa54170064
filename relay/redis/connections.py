"""Connections to Redis, of several kinds, because they fail in different ways; and the commands sent over them.

redis-py's client does not suit us. By default a hung Redis would block one append for a minute, and a write whose reply
was lost would silently be done twice. It sends commands on connections that the server has closed while they were idle
(8.1 checks that only if maintenance notifications are off), its timeouts include our own delays, and a command costs it
more than twice the CPU that it costs here. We only use how it parses addresses and errors.
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
POOL_CONNECTIONS = 64  # of each client, to one server; a command that finds none free waits

AnyRedis = Redis | RoutingClient


class Connections:
    """`append`: short timeouts, for the flusher. `leases`: the same, for renewals, which wait behind nothing else.

    `blocking`: reads that wait up to BLOCK_S. `commands`: everything else.

    No client retries by itself: an idempotent script may still reply differently the second time ("it has ended
    already"), so retries belong where they can be seen. Waiting for a free connection does not count as a timeout.
    `topology`: which server to ask for what, shared by all clients and by subscriptions.
    """

    def __init__(self, url: str, *, quiet: bool = False) -> None:
        """Opens no connection yet. `quiet`: the caller reports what is wrong, not the log. Raises SettingsError."""
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
    """One plain command. Raises StorageError."""
    try:
        return await execute(redis, _key(command), *command)
    except (RedisError, OSError) as error:
        raise storage_error(command[0], error) from error


async def publish_verb(redis: AnyRedis) -> str:
    """PUBLISH, or SPUBLISH for a Cluster: there classic pub/sub would flood all servers. Raises StorageError."""
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
    """The server that has `key`; None while that is not known."""
    return redis.server_of(key) if isinstance(redis, RoutingClient) else None


async def ping(redis: AnyRedis, key: str) -> None:
    """Raises StorageError unless the server of `key` answers. One whose disk is full refuses."""
    try:
        await execute(redis, key, "PING")
    except (RedisError, OSError) as error:
        raise storage_error("PING", error) from error


def _key(command: tuple[Argument, ...]) -> str:
    """The key, or channel, by which a plain command finds its server."""
    index = command.index("STREAMS") + 1 if command[0] == "XREAD" else 1
    return str(command[index]) if len(command) > index else ""
