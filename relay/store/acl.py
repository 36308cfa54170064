"""The rights (ACL) that our Redis user needs, and which of them a server denies.

We ask the server and try nothing: a script that lacks a right stops in its middle, with one half written. Redis before
7.0 cannot be asked; there a missing right shows only when it is needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from typing import Any

from redis.exceptions import RedisError

from relay.redis.errors import is_permission_denied, missing_right
from relay.store.keys import Keys

_SOURCE = (files("relay.store") / "lua" / "acl.lua").read_text()

# Each command as it could be called. K is a key. Subcommands have their own rights.
_ON_KEYS = """
append K v | del K | exists K | get K | getrange K 0 0 | hdel K f | hexists K f | hget K f | hgetall K | hincrby K f 1 |
hkeys K | hlen K | hmget K f | hscan K 0 | hset K f v | hsetnx K f v | lpop K | lrange K 0 0 | lrem K 0 v | lset K 0 v |
pexpire K 1 | pexpireat K 1 | rpush K v | set K v | strlen K | unlink K | xack K g 0-1 | xadd K * f v | xdel K 0-1 |
xgroup create K g 0 | xinfo groups K | xlen K | xpending K g | xrange K - + | xread streams K 0 |
xreadgroup group g c streams K > | xrevrange K + - | zadd K 0 v | zcard K | zcount K 0 0 | zrange K 0 0 |
zrangebyscore K 0 0 | zrem K v | zremrangebyrank K 0 0 | zremrangebyscore K 0 0 | zrevrange K 0 0 | zscan K 0 |
zscore K v
"""
_ON_CHANNELS = {False: "publish K v | subscribe K", True: "spublish K v | ssubscribe K"}
_OTHERS = {
    False: "evalsha s 0 | ping | script load s | time | unsubscribe c",
    True: "cluster slots | evalsha s 0 | ping | script load s | sunsubscribe c | time",
}
_SUBCOMMANDS = ("cluster", "script", "xgroup", "xinfo")

Ask = Callable[..., Awaitable[Any]]


def needed_rights(*, sharded: bool = False) -> list[str]:
    """The commands, as ACL SETUSER takes them. The rights to keys and channels come on top."""
    tables = (_ON_KEYS, _ON_CHANNELS[sharded], _OTHERS[sharded])
    return sorted(_right(command) for table in tables for command in _commands(table))


async def missing_rights(ask: Ask, prefix: str, *, sharded: bool) -> list[str]:
    """The rights that the server says we lack, as ACL SETUSER takes them; [] if it cannot say.

    `ask` sends a command's words to the server. Raises RedisError, OSError.
    """
    keys, sha = Keys(prefix), await ask("SCRIPT LOAD", _SOURCE)
    others = await _denied(ask, sha, _OTHERS[sharded], ["no key"])
    names = [keys.session("s"), keys.queue("q"), keys.queues, keys.offers, keys.revoked, keys.tickets]
    on_keys = await _denied(ask, sha, _ON_KEYS, names)
    on_channels = await _denied(ask, sha, _ON_CHANNELS[sharded], [keys.session("s", "events"), keys.worker("w")])
    return [
        *(right for right, denied in others.items() if all(denied)),
        *_lacking(on_keys, f"~{prefix}:*"),
        *_lacking(on_channels, f"&{prefix}:*"),
    ]


async def missing_for_script(ask: Ask, key: str, error: Exception, *, sharded: bool) -> str:
    """The right that a denied script lacks, as far as Redis says so or can be asked."""
    named = missing_right(error)
    if named.startswith("+"):
        return named
    try:
        return " ".join(await missing_rights(ask, Keys.prefix_of(key), sharded=sharded)) or named
    except (RedisError, OSError) as other:
        return missing_right(other) if is_permission_denied(other) else named


def _lacking(found: dict[str, list[bool]], pattern: str) -> list[str]:
    """A command denied on every name lacks its right. Denied on some, or all commands denied: `pattern` is missing."""
    commands = [right for right, denied in found.items() if all(denied)]
    if len(commands) == len(found):
        return [pattern]
    return [*commands, pattern] if any(any(no) and not all(no) for no in found.values()) else commands


async def _denied(ask: Ask, sha: str, table: str, names: list[str]) -> dict[str, list[bool]]:
    """For each right, whether it is denied on each of these keys or channels."""
    asked = [(_right(command), name, command) for command in _commands(table) for name in names]
    words: list[str | int] = []
    for _, name, command in asked:
        words += [len(command), *(name if word == "K" else word for word in command)]
    no = set(await ask("EVALSHA", sha, 0, *words))
    found: dict[str, list[bool]] = {}
    for number, (right, _, _) in enumerate(asked, 1):
        found.setdefault(right, []).append(number in no)
    return found


def _commands(table: str) -> Iterator[list[str]]:
    return (command.split() for command in table.split("|"))


def _right(command: list[str]) -> str:
    return "+" + "|".join(command[: 2 if command[0] in _SUBCOMMANDS else 1])
