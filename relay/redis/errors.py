"""What a failure of Redis says: of this one command, of the server as it is, or of being at the wrong server."""

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

# Error replies that say how the server is, not what is wrong with the command: redis-py's classes, and the codes that
# it has no class for or that a script passes on in the middle of its text (Redis 6.2: "… @user_script: 1: -OOM …").
_OUTAGES = (
    AskError, AuthenticationWrongNumberOfArgsError, ClusterDownError, NoPermissionError, NoScriptError,
    OutOfMemoryError, ReadOnlyError, TryAgainError,
)  # fmt: skip
_OUTAGE_CODES = re.compile(
    r"(?:^|[ -])(?:OOM|READONLY|MISCONF|LOADING|BUSY|NOREPLICAS|NOSCRIPT|NOPERM|NOAUTH|CLUSTERDOWN|MASTERDOWN|TRYAGAIN"
    r"|UNBLOCKED) "
)
# What the user of Redis lacks a right for: of a command, or (Redis 6.2 and 7.0; later ones) of a script's.
_DENIED = re.compile(r"ermissions? to (?:run|access) |The user executing the script can't|ACL failure in script")
_DENIED_COMMAND = re.compile(r"ermissions to run the '([^' ]+)'")
# Outages that another server would not mend.
_RIGHT_SERVER = (MaxConnectionsError, NoPermissionError, NoScriptError, OutOfMemoryError, TryAgainError)


def storage_error(what: object, error: Exception) -> StorageError:
    return StorageError(
        f"{what}: {describe_redis_error(error)}", refused=_refused(error), denied=is_permission_denied(error)
    )


def describe_redis_error(error: Exception) -> str:
    """What a person is to read of it."""
    if is_permission_denied(error):
        return missing_right_text(missing_right(error))
    return auth_failure(error) or f"{type(error).__name__}: {str(error)[:200]}"


def auth_failure(error: BaseException | None) -> str:
    """What is wrong with user or password, "" if nothing is: Redis answers, and not us. It quotes neither."""
    said = str(error)
    if "username-password" in said or "WRONGPASS" in said:
        return "it refuses this user or password"
    if "NOAUTH" in said or "HELLO must be called" in said or "Authentication required" in said:
        return "it wants a password"
    return ""


def is_permission_denied(error: Exception) -> bool:
    """Whether the user of Redis may not do this (ACL)."""
    return isinstance(error, NoPermissionError) or _DENIED.search(str(error)) is not None


def missing_right_text(right: str) -> str:
    """The sentence about rights that are missing. Redis' own names the user, and perhaps nothing else."""
    return f"the user of Redis lacks a right: {right} (docs/operations.md, A user of its own)"


def missing_right(error: Exception) -> str:
    """As ACL SETUSER takes it where Redis says which; of one of its keys or channels it says no more than that."""
    said = str(error)
    if match := _DENIED_COMMAND.search(said):
        return f"+{match[1].lower()}"
    if "key" in said:
        return "~PREFIX:*"
    return "&PREFIX:*" if "channel" in said else "to a command"


def may_be_wrong_server(error: Exception) -> bool:
    """Whether another server may have taken this one's place."""
    return not isinstance(error, _RIGHT_SERVER) and not _refused(error) and not is_permission_denied(error)


def _refused(error: Exception) -> bool:
    """Whether it is about this one command; everything else is an outage, which other commands would meet as well."""
    if not isinstance(error, ResponseError | DataError) or isinstance(error, _OUTAGES) or is_permission_denied(error):
        return False
    return _OUTAGE_CODES.search(str(error)) is None


async def cancellable(command: Awaitable[T]) -> T:
    """Await a command of redis-py's so that a cancellation is never lost.

    redis-py 8.1 writes through `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes as the
    write has just finished. The task would go on as if nobody had told it to end.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("nobody but a task can be cancelled")
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
