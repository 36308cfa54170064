"""The Lua scripts: loaded once, run by their hash, their failures turned into StorageError."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from relay.log.connect import cancellable, storage_error
from relay.log.keys import lua_names

_LUA = files("relay.log") / "lua"

Argument = str | bytes | int | float


class Script:
    """One file of lua/, with the names of keys.py and the part that its slot shares put in front."""

    def __init__(self, name: str, shared: str) -> None:
        self.name = name
        self.source = lua_names() + "".join((_LUA / f"{part}.lua").read_text() for part in (shared, name))
        self._sha: str | None = None

    async def __call__(self, redis: Redis, key: str, *arguments: Argument) -> Any:
        """Run it. Raises StorageError; whether it took effect is then unknown, and every script bears a repeat."""
        try:
            if self._sha is not None:
                try:
                    return await cancellable(redis.evalsha(self._sha, 1, key, *arguments))
                except NoScriptError:
                    pass  # another server, or it was restarted: it learns the script again below
            self._sha = await cancellable(redis.script_load(self.source))
            return await cancellable(redis.evalsha(self._sha, 1, key, *arguments))
        except (RedisError, OSError) as error:
            raise storage_error(self.name, error) from error


def session_script(name: str) -> Script:
    return Script(name, "session")


def queue_script(name: str) -> Script:
    return Script(name, "queue")
