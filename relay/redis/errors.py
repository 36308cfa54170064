"""What a failure of Redis is about: this one command, the state of the server, or asking the wrong server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import TypeVar

from redis.exceptions import (
    AskError,
    AuthenticationWrongNumberOfArgsError,
    ClusterDownError,
    DataError,
    MaxConnectionsError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from relay.errors import StorageError

T = TypeVar("T")

# Error replies about the state of the server, not about the command: redis-py's classes, and codes that it has no class
# for or that a script passes on in the middle of a text (Redis 6.2: "… @user_script: 1: -OOM …").
_OUTAGES = (
    AskError, AuthenticationWrongNumberOfArgsError, ClusterDownError, NoPermissionError, NoScriptError,
    OutOfMemoryError, ReadOnlyError, TryAgainError,
)  # fmt: skip
_OUTAGE_CODES = re.compile(
    r"(?:^|[ -])(?:OOM|READONLY|MISCONF|LOADING|BUSY|NOREPLICAS|NOSCRIPT|NOPERM|NOAUTH|CLUSTERDOWN|MASTERDOWN|TRYAGAIN"
    r"|UNBLOCKED) "
)
# The Redis user lacks a right: for a command, or for one in a script (Redis 6.2 and 7.0; later ones).
_DENIED = re.compile(r"ermissions? to (?:run|access) |The user executing the script can't|ACL failure in script")
_DENIED_COMMAND = re.compile(r"ermissions to run the '([^' ]+)'")
# Outages that another server would not help with.
_RIGHT_SERVER = (MaxConnectionsError, NoPermissionError, NoScriptError, OutOfMemoryError, TryAgainError)


def storage_error(what: object, error: Exception) -> StorageError:
    return StorageError(
        f"{what}: {describe_redis_error(error)}", refused=_refused(error), denied=is_permission_denied(error)
    )


def describe_redis_error(error: Exception) -> str:
    """The error as a person should read it."""
    if is_permission_denied(error):
        return missing_right_text(missing_right(error))
    return auth_failure(error) or f"{type(error).__name__}: {str(error)[:200]}"


def auth_failure(error: BaseException | None) -> str:
    """What is wrong with user or password, or "" if nothing is. It quotes neither."""
    text = str(error)
    if "username-password" in text or "WRONGPASS" in text:
        return "it refuses this user or password"
    if "NOAUTH" in text or "HELLO must be called" in text or "Authentication required" in text:
        return "it requires a password"
    return ""


def is_permission_denied(error: Exception) -> bool:
    """Whether the Redis user may not do this (ACL)."""
    return isinstance(error, NoPermissionError) or _DENIED.search(str(error)) is not None


def missing_right_text(right: str) -> str:
    """The sentence about missing rights. Redis' own names the user, and perhaps nothing else."""
    return f"the Redis user lacks a right: {right} (docs/operations.md, A user of its own)"


def missing_right(error: Exception) -> str:
    """The right as ACL SETUSER takes it, if Redis names it. Of a key or channel Redis does not say which."""
    text = str(error)
    if match := _DENIED_COMMAND.search(text):
        return f"+{match[1].lower()}"
    if "key" in text:
        return "~PREFIX:*"
    return "&PREFIX:*" if "channel" in text else "to a command"


def may_be_wrong_server(error: Exception) -> bool:
    """Whether another server may have replaced this one."""
    return not isinstance(error, _RIGHT_SERVER) and not _refused(error) and not is_permission_denied(error)


def _refused(error: Exception) -> bool:
    """Whether it is about this one command. Everything else is an outage, which other commands would meet as well."""
    if not isinstance(error, ResponseError | DataError) or isinstance(error, _OUTAGES) or is_permission_denied(error):
        return False
    return _OUTAGE_CODES.search(str(error)) is None


async def cancellable(command: Awaitable[T]) -> T:
    """Await a command of redis-py's client so that a cancellation is never lost.

    redis-py 8.1 writes through `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes just as
    the write has finished. The task would go on as if it had not been cancelled.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("only a task can be cancelled")
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
