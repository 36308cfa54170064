"""The lease: until when this worker may assume, by its own clock, that the generation is its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from relay.logging import FailureLog


class Lease:
    """A task must run `keep`. Writes renew the lease too, and so may the lease thread; both report it here.

    `trouble`: the log of failed renewals.
    """

    def __init__(self, lease_s: float, asked_s: float, trouble: FailureLog | None = None) -> None:
        self._trouble = trouble
        self._lease_s = lease_s
        self._until_s = asked_s + lease_s
        self._tried_s = asked_s
        self._due = asyncio.Event()
        self._renewed = asyncio.Event()

    async def keep(self, renew: Callable[[], Awaitable[bool]]) -> None:
        """Call `renew` whenever nothing has renewed it for a third of its time, until cancelled.

        `renew` returns true if it renewed the lease, false if another try may help. It raises if the lease is lost;
        that passes through.
        """
        while True:
            await self._until_due()
            self._due.clear()
            asked_s = self._tried_s = time.monotonic()
            if await renew():
                self.renewed(asked_s)
                self._renewed.set()

    def renewed(self, asked_s: float) -> None:
        """Renewed by a request that was sent at `asked_s`."""
        self._until_s = max(self._until_s, asked_s + self._lease_s)

    def written(self, asked_s: float) -> None:
        """Renewed by a write sent at `asked_s`; this may be the only thing that renews it."""
        self.renewed(asked_s)
        if self._trouble is not None:
            self._trouble.succeeded()

    def renew_now(self) -> None:
        """Renew at once: something new must be stored with the lease."""
        self._due.set()

    @property
    def is_held(self) -> bool:
        return time.monotonic() < self._until_s

    @property
    def is_late(self) -> bool:
        """Whether half of its time is over, but not all: the loop that should have renewed it is too busy."""
        return self._until_s - self._lease_s / 2 < time.monotonic() < self._until_s

    async def held(self) -> None:
        """Wait until it is held. A worker that was frozen may have been replaced: it must know before it asks a
        provider.
        """
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
                pass  # due, unless it was renewed meanwhile
