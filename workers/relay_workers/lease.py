"""The lease: until when this worker may believe that the generation is its own, by its own clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from relay.logging import FailureLog


class Lease:
    """Somebody has to `keep` it. Writes renew it too, and so may the lifeline, from another thread: they say so.

    `trouble`: with renewing it.
    """

    def __init__(self, lease_s: float, asked_s: float, trouble: FailureLog | None = None) -> None:
        self._trouble = trouble
        self._lease_s = lease_s
        self._until_s = asked_s + lease_s
        self._tried_s = asked_s
        self._due = asyncio.Event()
        self._renewed = asyncio.Event()

    async def keep(self, renew: Callable[[], Awaitable[bool]]) -> None:
        """`renew` it in Redis where nothing else has for a third of its time, until cancelled. Raises what that does.

        It returns true if the lease was renewed, false if another try may help; whoever has lost it raises.
        """
        while True:
            await self._until_due()
            self._due.clear()
            asked_s = self._tried_s = time.monotonic()
            if await renew():
                self.renewed(asked_s)
                self._renewed.set()

    def renewed(self, asked_s: float) -> None:
        """By what was asked for then."""
        self._until_s = max(self._until_s, asked_s + self._lease_s)

    def written(self, asked_s: float) -> None:
        """Renewed by a write that was asked for then: nothing else may renew it again."""
        self.renewed(asked_s)
        if self._trouble is not None:
            self._trouble.succeeded()

    def renew_now(self) -> None:
        """Something is to be kept with it."""
        self._due.set()

    @property
    def is_held(self) -> bool:
        return time.monotonic() < self._until_s

    @property
    def is_late(self) -> bool:
        """Whether half of its time is over, and not all: the loop that should have renewed it does not come to that."""
        return self._until_s - self._lease_s / 2 < time.monotonic() < self._until_s

    async def held(self) -> None:
        """Until it is. A worker that was frozen may have been replaced: it asks no provider before it knows."""
        while not self.is_held:
            self._due.set()
            self._renewed.clear()
            await self._renewed.wait()

    async def _until_due(self) -> None:
        while not self._due.is_set():
            due_s = max(self._tried_s, self._until_s - self._lease_s) + self._lease_s / 3
            left_s = due_s - time.monotonic()
            if left_s <= 0:
                return
            try:
                async with asyncio.timeout(left_s):
                    await self._due.wait()
            except TimeoutError:
                pass  # unless it was renewed meanwhile
