"""A client for all servers of a Redis: each command goes to the server that has its key's slot.

redis-py's own RedisCluster breaks our rules: it fails instead of waiting when a pool is empty, closes connections that
others are using after five MOVED, sleeps and retries unseen, and sends ASKING on another connection than its command
(8.1). So we find the servers ourselves, and ask each through its own pool.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from relay import timeouts
from relay.redis.address import Endpoint
from relay.redis.command_connection import Argument
from relay.redis.errors import may_be_wrong_server
from relay.redis.pool import ConnectionPool
from relay.redis.topology import Topology

MOVING_PAUSE_S = 0.02


class RoutingClient:
    """Each command has its own timeout. Raises RedisError, OSError.

    Until `timeout_s` has passed it follows redirects and waits for a migrating slot: the command was not executed then.
    Nothing else is tried twice.
    """

    def __init__(self, topology: Topology, timeout_s: float, connect_timeout_s: float, connections: int) -> None:
        self._topology = topology
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._connections = connections
        self._pools: dict[Endpoint, ConnectionPool] = {}
        self._closing: set[asyncio.Task[None]] = set()
        topology.on_change(self._close_removed)

    def server_of(self, key: str) -> Endpoint | None:
        """None while it is not known."""
        slot_map = self._topology.slot_map
        return slot_map.owner(key.encode()) if slot_map is not None else None

    @property
    def is_sharded(self) -> bool:
        """As far as we know."""
        return self._topology.slot_map is not None and self._topology.slot_map.sharded

    async def sharded(self) -> bool:
        """Whether it is a Cluster: then pub/sub goes by slot, too, and the verbs are SPUBLISH and SSUBSCRIBE."""
        return (await self._topology.resolve()).sharded

    async def masters(self) -> list[ConnectionPool]:
        """One for each of its servers."""
        return [self._pool_for(endpoint) for endpoint in (await self._topology.resolve()).masters()]

    async def aclose(self) -> None:
        pools, self._pools = self._pools, {}
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*(pool.aclose() for pool in pools.values()), *self._closing, return_exceptions=True)

    async def execute(self, key: str, *command: Argument) -> Any:
        """One command about `key`."""
        name, redirects, began_at = key.encode(), 0, 0.0
        deadline: timeouts.Timer | None = None  # made by the first redirect; most commands need none
        try:
            while True:
                slot_map = self._topology.slot_map or await self._topology.resolve()
                endpoint = slot_map.owner(name)
                if endpoint is None:
                    self._topology.refresh()
                    raise ClusterDownError("no server has this slot")
                if not redirects:
                    began_at = timeouts.now()
                try:
                    return await self._pool_for(endpoint).execute_command(*command)
                except (AskError, TryAgainError) as error:
                    redirects += 1
                    if deadline is None:
                        deadline = timeouts.Timer(lambda: None)
                        deadline.start(began_at + self._timeout_s - timeouts.now())
                    if isinstance(error, MovedError):
                        self._topology.moved(error.slot_id, error.host, error.port, endpoint)
                    if not slot_map.sharded or deadline.due is None:
                        raise
                    if redirects > 1 or not isinstance(error, MovedError):
                        await asyncio.sleep(MOVING_PAUSE_S)
                except (RedisError, OSError) as error:
                    if may_be_wrong_server(error):
                        self._topology.refresh()
                    raise
        finally:
            if deadline is not None:
                deadline.stop()

    def _pool_for(self, endpoint: Endpoint) -> ConnectionPool:
        if endpoint not in self._pools:
            self._pools[endpoint] = ConnectionPool(
                self._topology.address,
                endpoint,
                timeout_s=self._timeout_s,
                connect_timeout_s=self._connect_timeout_s,
                connections=self._connections,
            )
        return self._pools[endpoint]

    def _close_removed(self) -> None:
        slot_map = self._topology.slot_map
        for endpoint in self._pools.keys() - (slot_map.masters() if slot_map is not None else set()):
            task = asyncio.create_task(self._leave(self._pools.pop(endpoint)), name="leaving a server")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _leave(self, pool: ConnectionPool) -> None:
        """Commands in flight may still be answered, or redirected, until their timeout."""
        try:
            pool.close_idle()
            await asyncio.sleep(self._timeout_s)
        finally:
            await pool.aclose()
