"""The lease: until when this worker may believe that the generation is its own, by its own clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class Lease:
    """`renew` it in Redis: true if it was, false if another try may help; whoever has lost it raises."""

    def __init__(self, renew: Callable[[], Awaitable[bool]], lease_s: float, asked_s: float) -> None:
        self._renew = renew
        self._lease_s = lease_s
        self._until_s = asked_s + lease_s
        self._due = asyncio.Event()
        self._renewed = asyncio.Event()

    async def keep(self) -> None:
        """Renew it each third of its time, until cancelled. Raises what `renew` does."""
        while True:
            try:
                async with asyncio.timeout(self._lease_s / 3):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            asked_s = time.monotonic()
            if await self._renew():
                self._until_s = asked_s + self._lease_s
                self._renewed.set()

    def renew_now(self) -> None:
        """Something is to be kept with it."""
        self._due.set()

    @property
    def is_held(self) -> bool:
        return time.monotonic() < self._until_s

    async def held(self) -> None:
        """Until it is. A worker that was frozen may have been replaced: it asks no provider before it knows."""
        while not self.is_held:
            self._due.set()
            self._renewed.clear()
            await self._renewed.wait()
