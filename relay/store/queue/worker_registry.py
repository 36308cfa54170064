"""The worker registry: what the living workers can make. Workers publish offers, gateways read them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from relay import logging, metrics
from relay.errors import StorageError
from relay.redis.connections import AnyRedis
from relay.store.keys import Keys
from relay.store.scripts import queue_script

TTL_S = 15.0
RENEW_S = 5.0
MAX_OFFERS = 1000
_FRESH_S = 1.0

logger = logging.get_logger("offers")


BreakerState = Literal["closed", "half_open", "open"]  # as relay_breaker_state counts them


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A queue's worker asks `provider`: for `model` if a submit names none, for others only if `models` has them.

    `models` None: any model may be asked for. `state`: of that worker's breaker for the provider. `v`: see shapes.py.
    """

    queue: str
    provider: str
    model: str
    models: list[str] | None = None
    worker: str = ""
    state: BreakerState = "closed"
    v: int = 1


_decode = msgspec.json.Decoder(Offer).decode
_OFFER = queue_script("offer")


class WorkerRegistry:
    """The offers under one prefix, and those that this process makes."""

    def __init__(self, redis: AnyRedis, keys: Keys) -> None:
        self._redis = redis
        self._key = keys.offers
        self._made: list[bytes] = []  # those that may be in force
        self._made_at = -math.inf
        self._current: list[Offer] = []
        self._read_at = -math.inf
        self._reading = asyncio.Lock()
        self._trouble = logging.FailureLog(logger, "offer_failed")

    async def publish(self, offers: Sequence[Offer]) -> None:
        """Publish these for TTL_S, in place of this process's earlier ones. Raises StorageError."""
        bodies = [msgspec.json.encode(offer, order="deterministic") for offer in offers]
        if bodies == self._made and time.monotonic() - self._made_at < RENEW_S:
            return
        # Until the reply comes, old and new ones may be in force: a later call must withdraw both.
        withdrawn = [body for body in self._made if body not in bodies]
        self._made, self._made_at = bodies + withdrawn, -math.inf
        await self._run(bodies, withdrawn)
        self._made, self._made_at = bodies, time.monotonic()

    async def try_publish(self, offers: Sequence[Offer]) -> None:
        """The same if Redis answers; otherwise a later call publishes them."""
        try:
            await self.publish(offers)
            self._trouble.succeeded()
        except StorageError as error:
            metrics.storage_errors.labels("offers").inc()
            self._trouble.failed(error)

    async def current(self) -> list[Offer]:
        """The offers in force, at most a second old. Raises StorageError."""
        async with self._reading:
            if time.monotonic() - self._read_at >= _FRESH_S:
                self._current = [offer for body in await self._run([], []) if (offer := _read(body)) is not None]
                self._read_at = time.monotonic()
        return self._current

    async def _run(self, made: list[bytes], withdrawn: list[bytes]) -> list[bytes]:
        found: list[bytes] = await _OFFER(
            self._redis, self._key, int(TTL_S * 1000), MAX_OFFERS, len(made), *made, *withdrawn
        )
        return found


def _read(body: bytes) -> Offer | None:
    try:
        return _decode(body)
    except msgspec.MsgspecError:
        return None  # from a later release, whose gateways understand it
