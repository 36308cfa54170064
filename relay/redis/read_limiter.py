"""Turns: how many logs are read at a time from one server, so that a stop, or an append, never waits behind them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relay import timeouts
from relay.errors import StorageError

READS_AT_ONCE = 16  # far fewer than the pool has connections
FAILED_READ_S = 0.05  # that a failed one keeps its turn: ten thousand followers of a Redis that is away wait, not spin


class ReadLimiter:
    """One server's. `answered_at`: when one was answered last, by `timeouts.now`."""

    def __init__(self) -> None:
        self.answered_at = -math.inf
        self._reading = asyncio.Semaphore(READS_AT_ONCE)  # whoever waits here is not on a command's time yet

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        async with self._reading:
            try:
                yield
            except StorageError as error:
                if not error.refused:
                    await asyncio.sleep(FAILED_READ_S)
                    raise
                self.answered_at = timeouts.now()
                raise
            self.answered_at = timeouts.now()
