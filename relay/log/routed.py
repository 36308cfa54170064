"""A client of however many servers a Redis has: each command goes to the one that has its key's slot.

redis-py's own RedisCluster breaks our rules: it fails where a pool is empty instead of waiting, closes connections that
others are using after five MOVED, sleeps and retries unseen, and sends ASKING on another connection than the command
it is for (8.1). So the servers are found here, and each is asked through a plain client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from relay.log.address import Endpoint
from relay.log.failures import cancellable, wrong_server
from relay.log.servers import Servers, client, close

T = TypeVar("T")
Argument = str | bytes | int | float

MOVING_PAUSE_S = 0.02


class Routed:
    """All commands with their own timeout. Raises RedisError, OSError.

    A redirect is followed, and a slot that is on its way waited for, until `timeout_s` has passed: the command was not
    executed then. Nothing else is tried twice.
    """

    def __init__(self, servers: Servers, timeout_s: float, connect_timeout_s: float, connections: int) -> None:
        self._servers = servers
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._connections = connections
        self._clients: dict[Endpoint, Redis] = {}
        self._closing: set[asyncio.Task[None]] = set()
        servers.on_change(self._leave_those_that_went)

    async def execute(self, key: str, *command: Argument) -> Any:
        """One command about `key`."""
        return await self._at_owner(key, lambda redis: redis.execute_command(*command))  # type: ignore[no-untyped-call]

    async def sharded(self) -> bool:
        """Whether it is a Cluster: then pub/sub is by slot, too, and the verbs are SPUBLISH and SSUBSCRIBE."""
        return (await self._servers.known()).sharded

    async def masters(self) -> list[Redis]:
        """A client of each of its servers."""
        return [self._at(endpoint) for endpoint in (await self._servers.known()).masters()]

    async def aclose(self) -> None:
        clients, self._clients = self._clients, {}
        for redis in clients.values():
            await close(redis)
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _at_owner(self, key: str, run: Callable[[Redis], Awaitable[T]]) -> T:
        loop, name = asyncio.get_running_loop(), key.encode()
        deadline, redirects = loop.time() + self._timeout_s, 0
        while True:
            servers = await self._servers.known()
            endpoint = servers.owner(name)
            if endpoint is None:
                self._servers.doubt()
                raise ClusterDownError("no server has this slot")
            try:
                return await cancellable(run(self._at(endpoint)))
            except (AskError, TryAgainError) as error:
                redirects += 1
                if isinstance(error, MovedError):
                    self._servers.moved(error.slot_id, error.host, error.port, endpoint)
                if not servers.sharded or loop.time() > deadline:
                    raise
                if redirects > 1 or not isinstance(error, MovedError):
                    await asyncio.sleep(MOVING_PAUSE_S)
            except (RedisError, OSError) as error:
                if wrong_server(error):
                    self._servers.doubt()
                raise

    def _at(self, endpoint: Endpoint) -> Redis:
        if endpoint not in self._clients:
            self._clients[endpoint] = client(
                self._servers.address,
                endpoint,
                timeout_s=self._timeout_s,
                connections=self._connections,
                socket_connect_timeout=self._connect_timeout_s,
            )
        return self._clients[endpoint]

    def _leave_those_that_went(self) -> None:
        assert self._servers.map is not None
        for endpoint in self._clients.keys() - self._servers.map.masters():
            task = asyncio.create_task(self._leave(self._clients.pop(endpoint)), name="leaving a server")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _leave(self, redis: Redis) -> None:
        """What is under way may still be answered, or told where to go, until its own time is over."""
        try:
            await redis.connection_pool.disconnect(inuse_connections=False)
            await asyncio.sleep(self._timeout_s)
        finally:
            await close(redis)
