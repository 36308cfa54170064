"""Which server of a Redis has which key: one map for all clients and subscriptions of a process.

One server, the master that Sentinels name, or the masters of a Cluster by slot. The map is learned at its first use, so
a process may start while Redis is away. It is refreshed when a reply, or a missing one, shows that it may be old.
Nothing waits for that: a command sent to the wrong server meanwhile fails, or is redirected.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from redis import exceptions
from redis.asyncio.connection import UnixDomainSocketConnection
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, NoPermissionError, RedisError, ResponseError

from relay import logging
from relay.redis.address import Endpoint, RedisAddress
from relay.redis.command_connection import CommandConnection
from relay.redis.errors import describe_redis_error

ASK_TIMEOUT_S = 1.0  # for asking one server about the others
ASK_AT_ONCE = 3
AGAIN_AFTER_S = 0.25
SLOTS = 16384

logger = logging.get_logger("servers")


class SlotMap(NamedTuple):
    """`owners`: the one server; if `sharded`, the server of each slot of a Cluster, None if the slot has none."""

    sharded: bool
    owners: list[Endpoint | None]

    def owner(self, key: bytes) -> Endpoint | None:
        return self.owners[key_slot(key) if self.sharded else 0]

    def masters(self) -> set[Endpoint]:
        return {endpoint for endpoint in self.owners if endpoint is not None}


class Topology:
    """`slot_map`: None before it was learned. `failures`: how often in a row it could not be learned."""

    def __init__(self, address: RedisAddress, *, quiet: bool = False) -> None:
        self.address = address
        self._quiet = quiet
        self.slot_map: SlotMap | None = None
        self._fixed = address.connection_class is UnixDomainSocketConnection
        if self._fixed:
            self.slot_map = SlotMap(False, [address.seeds[0]])
        self._changed: list[Callable[[], None]] = []
        self._learning: asyncio.Task[None] | None = None
        self._learned_at = -AGAIN_AFTER_S
        self.failures = 0
        self._trouble = logging.FailureLog(logger, "servers_unknown")

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call this after every change of the map."""
        self._changed.append(changed)

    async def resolve(self) -> SlotMap:
        """The map, learned now if it is not known yet. Raises RedisError, OSError."""
        while self.slot_map is None:
            await asyncio.shield(self._learn())
        return self.slot_map

    def refresh(self) -> None:
        """The map may be old: learn it again, at most every AGAIN_AFTER_S."""
        if not self._fixed:
            self._learn()

    def moved(self, slot: int, host: str, port: int, reported_by: Endpoint) -> None:
        """A server of a Cluster reported that another one has this slot; without a host it means its own host."""
        if self.slot_map is None or not self.slot_map.sharded:
            return  # a Cluster that was taken for one server: one slot's owner does not help
        owner = Endpoint(reported_by.host if host in ("", "?") else host, port)
        if self.slot_map.owners[slot] != owner:
            self.slot_map.owners[slot] = owner
            self._tell()
        self.refresh()  # where one slot moved, others did

    async def aclose(self) -> None:
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)

    def _learn(self) -> asyncio.Task[None]:
        if self._learning is None:
            self._learning = asyncio.create_task(self._learn_once(), name="servers")
            self._learning.add_done_callback(self._learnt)
        return self._learning

    def _learnt(self, task: asyncio.Task[None]) -> None:
        self._learning = None
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            self.failures += 1
            if not self._quiet:
                self._trouble.failed(describe_redis_error(error))
        else:
            self.failures = 0
            self._trouble.succeeded()

    async def _learn_once(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._learned_at + AGAIN_AFTER_S - loop.time())
        self._learned_at = loop.time()
        found = await _first_success(self._queries())
        self._fixed = self.address.kind == "plain" and not found.sharded
        if found != self.slot_map:
            self.slot_map = found
            self._tell()

    def _tell(self) -> None:
        for changed in self._changed:
            changed()

    def _queries(self) -> list[Awaitable[SlotMap]]:
        """Ask a few servers, chosen at random: one that is cut off from the others may give an old answer."""
        address, known = self.address, self.slot_map
        if address.kind == "sentinel":
            return [_ask_sentinel(address, seed) for seed in address.seeds]
        asked = set(address.seeds) | (known.masters() if known is not None else set())
        some = random.sample(sorted(asked), min(ASK_AT_ONCE, len(asked)))
        if address.kind == "plain" and (known is None or not known.sharded):
            return [_ask_server(address, address.seeds[0])]
        return [_ask_cluster(address, endpoint) for endpoint in some]


async def _first_success(ways: list[Awaitable[SlotMap]]) -> SlotMap:
    """The first answer that is no failure. Raises the last failure."""
    failure: Exception = exceptions.ConnectionError("there is no server to ask")
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        for answer in asyncio.as_completed(tasks):
            try:
                return await answer
            except NoPermissionError as error:
                failure = error
            except ResponseError as error:
                failure = exceptions.ConnectionError(str(error))  # it is not about the command that waits for the map
            except (RedisError, OSError, TimeoutError) as error:
                failure = error
        raise failure
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask_server(address: RedisAddress, endpoint: Endpoint) -> SlotMap:
    """A plain address: one server, unless it reports that it belongs to a Cluster."""
    try:
        reply = await _ask(address, endpoint, "HELLO")
    except ResponseError:
        return SlotMap(False, [endpoint])  # it does not know HELLO: an old Redis, or a proxy
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=False)
    if dict(pairs).get(b"mode") != b"cluster":
        return SlotMap(False, [endpoint])
    return await _ask_cluster(address, endpoint)


async def _ask_cluster(address: RedisAddress, endpoint: Endpoint) -> SlotMap:
    owners: list[Endpoint | None] = [None] * SLOTS
    for first, last, master, *_ in await _ask(address, endpoint, "CLUSTER", "SLOTS"):
        host = (master[0] or b"?").decode()
        host = endpoint.host if host == "?" else host  # '?': the host by which we have reached it
        owners[first : last + 1] = [Endpoint(host, int(master[1]))] * (last + 1 - first)
    if not any(owners):
        raise ClusterDownError("no slot of the Cluster has a server")
    return SlotMap(True, owners)


async def _ask_sentinel(address: RedisAddress, sentinel: Endpoint) -> SlotMap:
    asking = address._replace(options=address.sentinel_options)
    master = await _ask(asking, sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)
    if not master:
        raise exceptions.ConnectionError(
            f"the Sentinel at {sentinel.host}:{sentinel.port} knows no service {address.service}"
        )
    endpoint = Endpoint(master[0].decode(), int(master[1]))
    role = (await _ask(address, endpoint, "ROLE"))[0]
    if role != b"master":
        raise exceptions.ConnectionError(f"{endpoint.host}:{endpoint.port}, which a Sentinel named, is no master")
    return SlotMap(False, [endpoint])


async def _ask(address: RedisAddress, endpoint: Endpoint, *command: str) -> Any:
    connection = await CommandConnection.open(address, endpoint, ASK_TIMEOUT_S)
    try:
        return await connection.execute(ASK_TIMEOUT_S, *command)
    finally:
        connection.abort()
