"""Connections to Redis: three clients, because they fail in three ways.

redis-py's defaults are wrong for us (5 s timeouts, ten hidden retries): a hung Redis would block one append for a
minute, and a write whose reply was lost would silently be done twice.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from relay.errors import RelayError, SettingsError, StorageError

APPEND_TIMEOUT_S = 1.0
COMMAND_TIMEOUT_S = 2.0
BLOCK_S = 2.0


class Connections:
    """`append`: short, never retried (the flusher is the retry). `blocking`: reads that wait up to BLOCK_S.
    `commands`: everything else, retried once on a broken connection; every script of ours bears that."""

    def __init__(self, url: str) -> None:
        never = Retry(NoBackoff(), 0)
        once = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        try:
            self.append = _client(url, APPEND_TIMEOUT_S, never)
            self.blocking = _client(url, BLOCK_S + COMMAND_TIMEOUT_S, never)
            self.commands = _client(url, COMMAND_TIMEOUT_S, once)
        except ValueError as error:
            raise SettingsError(f"--redis / RELAY_REDIS_URL cannot be used: {error}") from None

    async def aclose(self) -> None:
        for client in (self.append, self.blocking, self.commands):
            await client.aclose()


def _client(url: str, timeout_s: float, retry: Retry) -> Redis:
    return Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=min(timeout_s, COMMAND_TIMEOUT_S), retry=retry
    )


async def call(redis: Redis, *command: str | bytes | float) -> Any:
    """One plain command. Raises StorageError, as every way into Redis here does."""
    try:
        return await redis.execute_command(*command)  # type: ignore[no-untyped-call]
    except (RedisError, OSError) as error:
        raise storage_error(command[0], error) from error


async def transaction(redis: Redis, *commands: tuple[str | bytes | float, ...]) -> list[Any]:
    """Several commands of one slot at one moment. Raises StorageError."""
    try:
        async with redis.pipeline(transaction=True) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute()
    except (RedisError, OSError) as error:
        raise storage_error(commands[0][0], error) from error


def storage_error(what: object, error: Exception) -> StorageError:
    return StorageError(f"{what}: {type(error).__name__}: {str(error)[:200]}")


async def check(redis: Redis) -> None:
    """One look before a process begins. Raises RelayError with a sentence if Redis cannot be used at all."""
    try:
        await call(redis, "PING")
    except StorageError as error:
        raise StorageError(f"Redis does not answer ({error}); is --redis / RELAY_REDIS_URL right?") from None
    policy = await _eviction_policy(redis)
    if policy not in ("", "noeviction"):  # volatile-… too: all our keys have a time to live
        raise RelayError(
            f"Redis may evict what an unfinished answer needs: maxmemory-policy is {policy}; set noeviction."
        )


async def _eviction_policy(redis: Redis) -> str:
    """'' where the host hides it."""
    try:
        config: dict[Any, Any] = await redis.config_get("maxmemory-policy")
    except RedisError:
        return ""
    value = next(iter(config.values()), b"")
    return value.decode() if isinstance(value, bytes) else str(value)
