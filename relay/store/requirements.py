"""What we require of Redis. One that evicts, for example, may silently drop what an unfinished answer needs.

Checked before a process starts, and a failure then refuses the start. Checked again for as long as the process lives:
after an outage, a failover or a new configuration Redis may answer differently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from relay import logging, metrics
from relay.errors import SettingsError, StorageError
from relay.redis.command_connection import Argument
from relay.redis.connections import AnyRedis, Connections, ping
from relay.redis.errors import (
    auth_failure,
    cancellable,
    is_permission_denied,
    missing_right,
    missing_right_text,
    storage_error,
)
from relay.redis.pool import ConnectionPool
from relay.redis.routing import RoutingClient
from relay.store import acl

SETTING = "maxmemory-policy"
TRIES = 2  # before a start: the first may time out because everything else starts as well
RETRY_S = 1.0
CHECK_EVERY_S = 30.0

Server = ConnectionPool | Redis

logger = logging.get_logger("redis")


async def check_requirements(redis: AnyRedis, prefix: str) -> bool:
    """Whether every requirement is known to be met; False if a server hides its policy.

    Raises StorageError if a server does not answer; SettingsError if one evicts, denies us a right that we need, or is
    a Cluster without sharded pub/sub.
    """
    if not isinstance(redis, RoutingClient):
        return await require_noeviction([redis])
    try:
        servers, sharded = await redis.masters(), await redis.sharded()
    except (RedisError, OSError) as error:
        if is_permission_denied(error):
            raise _lacking([missing_right(error)]) from error
        raise storage_error("PING", error) from error
    if sharded and not await _knows(servers[0], "SPUBLISH"):
        raise SettingsError("A Redis Cluster must be version 7.0 or newer: this one has no sharded pub/sub")
    for server in servers:
        await require_rights(server, prefix, sharded=sharded)
    return await require_noeviction(servers)


async def require_rights(server: Server, prefix: str, *, sharded: bool = False) -> None:
    """Like `check_requirements`, for our rights on one server. One that cannot be asked counts as fine."""

    async def ask(*command: Argument) -> Any:
        return await cancellable(server.execute_command(*command))

    try:
        lacking = await acl.missing_rights(ask, prefix, sharded=sharded)
    except (RedisError, OSError) as error:
        if not is_permission_denied(error):
            failure = storage_error("rights", error)
            if failure.refused:
                return
            raise failure from error
        lacking = [missing_right(error)]
    if lacking:
        raise _lacking(lacking)


def _lacking(lacking: Sequence[str]) -> SettingsError:
    return SettingsError(f"This Redis cannot be used: {missing_right_text(' '.join(lacking))}")


async def require_noeviction(servers: Sequence[Server]) -> bool:
    """Like `check_requirements`, for eviction. `volatile-…` evicts as well: all our keys have a time to live."""
    policies = [await _policy(server) for server in servers]
    for policy in policies:
        if policy not in (None, "noeviction"):
            raise SettingsError(
                f"Redis may evict what an unfinished answer needs: its {SETTING} is {policy}; set it to noeviction"
            )
    return None not in policies


async def require_usable_redis(redis_url: str, prefix: str, *, must_answer: bool = False) -> None:
    """One check before a process listens or serves. Raises SettingsError.

    A Redis that is away does not prevent a start, unless it `must_answer`: the process checks again, and logs it.
    """
    redis = Connections(redis_url, quiet=True)
    failure: StorageError | None = None
    try:
        for _ in range(TRIES):
            try:
                await check_requirements(redis.commands, prefix)
                if must_answer:
                    await ping(redis.commands, "")  # a server that refuses its database only seems to hide its policy
                return
            except StorageError as error:
                failure = error
    finally:
        await redis.aclose()
    if must_answer:
        raise SettingsError(f"--redis / RELAY_REDIS_URL names a Redis that cannot be used: {_reason(failure)}")


class RequirementsMonitor:
    """What a process knows of its Redis. `problem`: why it must not serve, as a sentence; "" if there is none."""

    def __init__(self, redis: AnyRedis, prefix: str) -> None:
        self.problem = "Redis does not answer."
        self._redis = redis
        self._prefix = prefix
        self._last_logged = ""
        self._hidden = False
        self._bug = logging.FailureLog(logger, "fitness_failed")

    async def check_once(self) -> None:
        """Check once. Raises nothing: a new problem is logged."""
        try:
            all_known = await check_requirements(self._redis, self._prefix)
        except SettingsError as error:
            self.problem = f"{error}."
            self._log_if_new(self.problem)
        except StorageError as error:
            if self.problem and not self._last_logged:  # a known Redis stays known: its outages are logged elsewhere
                self._log_if_new(f"Redis cannot be used ({error}); is --redis / RELAY_REDIS_URL right?")
        else:
            if self._last_logged:
                logger.info("ready")
            self.problem = self._last_logged = ""
            if not all_known and not self._hidden:
                self._hidden = True
                logger.warning("policy_hidden", detail=f"Redis does not show its {SETTING}; it must be noeviction.")

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(RETRY_S if self.problem else CHECK_EVERY_S)
            try:
                await self.check_once()
                self._bug.succeeded()
            except Exception as error:  # otherwise a gateway that is not ready would never be again
                metrics.bugs.labels("fitness").inc()
                self._bug.unexpected(error)

    def _log_if_new(self, sentence: str) -> None:
        if sentence != self._last_logged:
            self._last_logged = sentence
            logger.error("not_ready", detail=sentence)


def _reason(failure: StorageError | None) -> str:
    """The reason without the command's name and the error's class."""
    error = failure and failure.__cause__
    return auth_failure(error) or str(error)[:200].rstrip(".")


async def _knows(server: Server, command: str) -> bool:
    """Whether the server knows a command. True if the host hides that."""
    try:
        count = await cancellable(server.execute_command("COMMAND INFO", command))
    except (RedisError, OSError):
        return True
    return any(count)


async def _policy(server: Server) -> str | None:
    """The eviction policy; None if the host hides it. Raises StorageError."""
    try:
        config: dict[Any, Any] | list[Any] = await cancellable(server.execute_command("CONFIG GET", SETTING))
    except NoPermissionError:
        return None
    except (RedisError, OSError) as error:
        failure = storage_error("CONFIG GET", error)
        if failure.refused:
            return None
        raise failure from error
    value = next(iter(config.values() if isinstance(config, dict) else config[1:]), None)
    return value.decode() if isinstance(value, bytes) else value
