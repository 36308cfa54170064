"""How long a gateway takes for what, and how it keeps to that."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from relay import logging, metrics, timeouts
from relay.errors import ClientError, StorageError

ANSWER_WITHIN_S = 4.5  # the contract says 5
CLOSE_TIMEOUT_S = 10.0  # for the peer's half of a close
_RECONNECT_SPREAD_MS = (200, 3000)

logger = logging.get_logger("submissions")


def reconnect_in_ms() -> int:
    """When a client that is sent away should come back: drawn, so that not all come at once."""
    return random.randint(*_RECONNECT_SPREAD_MS)


@cache
def _trouble(part: str) -> logging.FailureLog:
    return logging.FailureLog(logger, "unavailable", settled_s=logging.SETTLED_S, part=part)


def answer_deadline() -> float:
    """By when a command that arrives now must be answered, as `timeouts.now` counts."""
    return timeouts.now() + ANSWER_WITHIN_S


@asynccontextmanager
async def within_deadline(part: str, by: float | None = None) -> AsyncIterator[None]:
    """Turns a Redis that is away or slow into `unavailable` before the client gives up.

    `by`: the `answer_deadline` of when the client asked; without it, as of now. After it, the block is not begun.
    """
    try:
        by = answer_deadline() if by is None else by
        if (left_s := by - timeouts.now()) <= 0:
            raise TimeoutError
        async with timeouts.timeout(left_s):
            yield
        _trouble(part).succeeded()
    except (StorageError, TimeoutError) as error:
        metrics.storage_errors.labels(part).inc()
        _trouble(part).failed(error)
        raise ClientError("unavailable", "This did not work just now; please try again.", retry_after_s=1) from None
