"""The Lua scripts: loaded once, run by their hash, their failures turned into StorageError."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from relay.errors import StorageError
from relay.redis.command_connection import Argument as Argument  # what scripts are given
from relay.redis.connections import AnyRedis, execute
from relay.redis.errors import is_permission_denied, missing_right_text, storage_error
from relay.redis.routing import RoutingClient
from relay.store import acl
from relay.store.keys import lua_names

_STORE = files("relay.store")
_SHARED = {"session": ("prelude", "generation"), "queue": ("prelude",)}  # what each script of a slot begins with
_LOADS = 3  # a slot may move to a server that lacks the script, too

# While a slot of a Cluster migrates, the keys of a session may lie on two servers, and a script that finds one of them
# elsewhere fails in its middle, with one half written. So no script begins then: two keys that never exist make the
# server check whether the slot is migrating.
#
# Any other error there is the server's trouble, and passes in the same way. Only a missing right of the Redis user is
# passed on: waiting does not bring it.
_WHOLE_SLOT = """
local function denied(reply) -- as redis/errors.py
  local text = type(reply) == 'table' and tostring(reply.err) or ''
  return string.find(text, 'ACL failure in script', 1, true) or string.find(text, 'user executing the script', 1, true)
end
if string.find(KEYS[1], '{', 1, true) then
  local found = redis.pcall('EXISTS', KEYS[1] .. '?', KEYS[1] .. '??')
  if denied(found) then return found end
  if type(found) == 'table' then return redis.error_reply('TRYAGAIN the slot is on its way to another server') end
end
"""


class Script:
    """One file of a lua/ folder. With a `slot`, the names of keys.py and the slot's shared parts are put in front."""

    def __init__(self, name: str, slot: str = "") -> None:
        self.name = name
        folder = _STORE / slot / "lua"
        own = (folder / f"{name}.lua").read_text()
        shared = "".join((folder / f"{part}.lua").read_text() for part in _SHARED.get(slot, ()))
        self.source = (lua_names() if slot else "") + _WHOLE_SLOT + shared + own
        self._sha = hashlib.sha1(self.source.encode()).hexdigest()

    async def __call__(self, redis: AnyRedis, key: str, *arguments: Argument) -> Any:
        """Run it. Raises StorageError: then it may or may not have taken effect. Every script is idempotent."""
        try:
            for _ in range(_LOADS):
                try:
                    return await execute(redis, key, "EVALSHA", self._sha, 1, key, *arguments)
                except NoScriptError:  # its first run on this server, or the first since a restart
                    await execute(redis, key, "SCRIPT LOAD", self.source)
            return await execute(redis, key, "EVALSHA", self._sha, 1, key, *arguments)
        except (RedisError, OSError) as error:
            if is_permission_denied(error):
                raise await self._denied(redis, key, error) from error
            raise storage_error(self.name, error) from error

    async def _denied(self, redis: AnyRedis, key: str, error: Exception) -> StorageError:
        """Redis does not always say which right its user lacks within a script."""

        async def ask(*command: Argument) -> Any:
            return await execute(redis, key, *command)

        sharded = isinstance(redis, RoutingClient) and redis.is_sharded
        lacking = await acl.missing_for_script(ask, key, error, sharded=sharded)
        return StorageError(f"{self.name}: {missing_right_text(lacking)}", denied=True)


async def read_atomically(redis: AnyRedis, *reads: tuple[str, ...]) -> list[Any]:
    """Several plain reads of one slot at one moment; each read is the words of a command. Raises StorageError."""
    words: list[Argument] = []
    for one in reads:
        words += [len(one), *one]
    replies: list[Any] = await _READ(redis, reads[0][1], *words)
    return replies


def session_script(name: str) -> Script:
    return Script(name, "session")


def queue_script(name: str) -> Script:
    return Script(name, "queue")


_READ = Script("read")
