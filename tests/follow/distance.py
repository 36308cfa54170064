"""A Redis in memory that is some way off: whatever else happens, happens while a command or its reply is on its way."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

TURNS = 6  # of the loop, at most, in each direction


class Distant:
    """As much of a client as our code asks for. `failing`: commands that are still to fail, before or after their
    effect.
    """

    def __init__(self, redis: Redis, chance: random.Random, turns: int = TURNS) -> None:
        self.failing = 0
        self.failed = 0
        self._redis = redis
        self._chance = chance
        self._turns = turns

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        await self.way()
        fails = self.failing > 0
        self.failing -= fails
        self.failed += fails
        if fails and self._chance.random() < 0.5:
            raise RedisConnectionError("it was cut off")
        reply = await self._redis.execute_command(*command, **options)  # type: ignore[no-untyped-call]
        await self.way()
        if fails:
            raise RedisConnectionError("its reply was cut off")
        return reply

    async def way(self) -> None:
        for _ in range(self._chance.randint(0, self._turns)):
            await asyncio.sleep(0)
