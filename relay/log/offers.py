"""Offers: what the workers that live now can make, said by them, read by gateways."""

from __future__ import annotations

import asyncio
import time

import msgspec

from relay import logging, metrics
from relay.errors import StorageError
from relay.log.connect import AnyRedis
from relay.log.keys import Keys
from relay.log.scripts import queue_script

TTL_S = 15.0
RENEW_S = 5.0
MAX_OFFERS = 1000
_FRESH_S = 1.0

log = logging.get("offers")


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A queue's worker asks `provider`, for `model` where a submit names none; for others only if `models` has them.

    `models` None: any model may be asked for. Workers of one kind make one offer.
    """

    queue: str
    provider: str
    model: str
    models: list[str] | None = None
    v: int = 1


_decode = msgspec.json.Decoder(Offer).decode
_OFFER = queue_script("offer")


class Offers:
    """The offers under one prefix. Every method raises StorageError."""

    def __init__(self, redis: AnyRedis, keys: Keys) -> None:
        self._redis = redis
        self._key = keys.offers
        self._current: list[Offer] = []
        self._read_at = -_FRESH_S
        self._reading = asyncio.Lock()

    async def make(self, offer: Offer) -> None:
        """It stands for TTL_S."""
        await self._run(msgspec.json.encode(offer, order="deterministic"))

    async def current(self) -> list[Offer]:
        """Those that stand, as of a second ago at most."""
        async with self._reading:
            if time.monotonic() - self._read_at >= _FRESH_S:
                self._current = [offer for body in await self._run(b"") if (offer := _read(body)) is not None]
                self._read_at = time.monotonic()
        return self._current

    async def keep(self, offer: Offer) -> None:
        """Renew an offer until cancelled."""
        while True:
            await asyncio.sleep(RENEW_S)
            await self.make_known(offer)

    async def make_known(self, offer: Offer) -> None:
        """Make it if Redis answers; the next renewal does otherwise."""
        try:
            await self.make(offer)
        except StorageError as error:
            metrics.storage_errors.labels("offers").inc()
            log.warning("offer_failed", detail=str(error))

    async def _run(self, offer: bytes) -> list[bytes]:
        found: list[bytes] = await _OFFER(self._redis, self._key, offer, int(TTL_S * 1000), MAX_OFFERS)
        return found


def _read(body: bytes) -> Offer | None:
    try:
        return _decode(body)
    except msgspec.MsgspecError:
        return None  # of a later release; that one's gateways know what it means
