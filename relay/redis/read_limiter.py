"""Limits how many logs are read from one server at a time, so that a stop or an append never waits behind them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relay import timeouts
from relay.errors import StorageError

READS_AT_ONCE = 16  # far fewer than the pool has connections
FAILED_READ_S = 0.05  # a failed read keeps its slot this long: during an outage ten thousand followers must not spin


class ReadLimiter:
    """Of one server. `answered_at`: when it last answered a read, by `timeouts.now`."""

    def __init__(self) -> None:
        self.answered_at = -math.inf
        self._reading = asyncio.Semaphore(READS_AT_ONCE)  # waiting here does not count as a command's time

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
