"""Connections to Redis: three clients, because they fail in three ways.

redis-py's defaults are wrong for us (5 s timeouts, ten hidden retries): a hung Redis would block one append for a
minute, and a write whose reply was lost would silently be done twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationWrongNumberOfArgsError,
    ClusterDownError,
    DataError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from relay.errors import SettingsError, StorageError

T = TypeVar("T")

APPEND_TIMEOUT_S = 1.0
COMMAND_TIMEOUT_S = 2.0
BLOCK_S = 2.0
POOL_CONNECTIONS = 64  # of each of the three clients; redis-py refuses the 101st by default, ours waits

# Error replies that say how the server is, not what is wrong with the command: redis-py's classes, and the codes that
# it has no class for or that a script passes on in the middle of its text (Redis 6.2: "… @user_script: 1: -OOM …").
_OUTAGES = (
    AskError, AuthenticationWrongNumberOfArgsError, ClusterDownError, NoPermissionError, NoScriptError,
    OutOfMemoryError, ReadOnlyError, TryAgainError,
)  # fmt: skip
_OUTAGE_CODES = re.compile(
    r"(?:^|[ -])(?:OOM|READONLY|MISCONF|LOADING|BUSY|NOREPLICAS|NOSCRIPT|NOPERM|NOAUTH|CLUSTERDOWN|MASTERDOWN|TRYAGAIN)"
    r" "
)


class Connections:
    """`append`: short timeouts, for the flusher. `blocking`: reads that wait up to BLOCK_S. `commands`: the rest.

    None retries by itself: a script that bears a repeat may still answer the second try differently ("it has ended
    already"). Whoever wants a retry does it where it can be seen. Who finds a pool empty waits, within its timeout.
    """

    def __init__(self, url: str) -> None:
        try:
            self.append = _client(url, APPEND_TIMEOUT_S)
            self.blocking = _client(url, BLOCK_S + COMMAND_TIMEOUT_S)
            self.commands = _client(url, COMMAND_TIMEOUT_S)
        except ValueError as error:
            raise SettingsError(f"--redis / RELAY_REDIS_URL cannot be used: {error}") from None

    async def aclose(self) -> None:
        for client in (self.append, self.blocking, self.commands):
            await client.aclose()
            await client.connection_pool.disconnect()


def _client(url: str, timeout_s: float) -> Redis:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=POOL_CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, COMMAND_TIMEOUT_S),
        retry=Retry(NoBackoff(), 0),
    )
    return Redis(connection_pool=pool)


async def call(redis: Redis, *command: str | bytes | float) -> Any:
    """One plain command. Raises StorageError, as every way into Redis here does."""
    try:
        return await cancellable(redis.execute_command(*command))  # type: ignore[no-untyped-call]
    except (RedisError, OSError) as error:
        raise storage_error(command[0], error) from error


async def transaction(redis: Redis, *commands: tuple[str | bytes | float, ...]) -> list[Any]:
    """Several commands of one slot at one moment. Raises StorageError."""
    try:
        async with redis.pipeline(transaction=True) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await cancellable(pipe.execute())
    except (RedisError, OSError) as error:
        raise storage_error(commands[0][0], error) from error


async def cancellable(command: Awaitable[T]) -> T:
    """Await a command of redis-py's so that a cancellation is never lost.

    redis-py 8.1 writes through `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes as the
    write has just finished. The task would go on as if nobody had told it to end.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        result = await command
    except Exception:
        if task.cancelling() > before:
            raise asyncio.CancelledError from None
        raise
    if task.cancelling() > before:
        raise asyncio.CancelledError
    return result


def storage_error(what: object, error: Exception) -> StorageError:
    return StorageError(f"{what}: {type(error).__name__}: {str(error)[:200]}", refused=_refused(error))


def _refused(error: Exception) -> bool:
    """Whether it is about this one command; everything else is an outage, which other commands would meet as well."""
    if not isinstance(error, ResponseError | DataError) or isinstance(error, _OUTAGES):
        return False
    return _OUTAGE_CODES.search(str(error)) is None
