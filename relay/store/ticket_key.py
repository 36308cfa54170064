"""The key that tickets are signed with where no secret is set: random, and shared by all gateways through Redis.

Whoever needs it first makes it. It is not replaced on a schedule: tickets live for minutes, and whoever can read Redis
can read the conversations as well. To replace it, delete `PREFIX:tickets` and restart the gateways; without the
restart they put back what they know, as after a loss of data.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import secrets
import time
from collections.abc import Callable

from relay import logging, metrics
from relay.errors import StorageError
from relay.redis.connections import AnyRedis, call
from relay.store.keys import Keys

TTL_S = 30 * 86_400  # renewed by every gateway that has it, each minute
_BYTES = 32
_RENEW_S = 60.0
_FRESH_S = 1.0
_KEPT = 4  # with those it was before, as tickets that were signed with them may live on

logger = logging.get_logger("tickets")


class TicketKey:
    """The key, kept in memory. Its bytes never appear in a log, an error or a repr."""

    def __init__(self, redis: AnyRedis, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._key = keys.tickets
        self._clock = clock
        self._known: list[bytes] = []  # the one in force first
        self._read_at = self._tried_at = -math.inf
        self._reading = asyncio.Lock()
        self._trouble = logging.FailureLog(logger, "ticket_key_failed")

    async def keys(self, *, fresh: bool = False) -> list[bytes]:
        """Sign with the first; any of them may verify. `fresh`: a ticket did not verify, so Redis may have another one;
        it is asked at most once a second.

        Raises StorageError if Redis does not answer and never has.
        """
        if self._is_due(fresh) or (self._reading.locked() and (fresh or not self._known)):
            async with self._reading:
                if self._is_due(fresh):  # nobody has asked while this waited
                    self._tried_at = self._clock()
                    await self._try_read()
        if not self._known:
            raise StorageError("there is no ticket key: Redis did not answer")
        return list(self._known)

    def _is_due(self, fresh: bool) -> bool:
        now = self._clock()
        if now - self._tried_at < _FRESH_S:
            return False
        return fresh or not self._known or now - self._read_at >= _RENEW_S

    async def _try_read(self) -> None:
        try:
            found = await self._read()
            self._known = [found, *(key for key in self._known if key != found)][:_KEPT]
            self._read_at = self._clock()
            await call(self._redis, "PEXPIRE", self._key, TTL_S * 1000)
            self._trouble.succeeded()
        except StorageError as error:
            metrics.storage_errors.labels("tickets").inc()
            self._trouble.failed(error)

    async def _read(self) -> bytes:
        """Where there is none, ours: the one that Redis has lost, otherwise a new one."""
        stored = await call(self._redis, "GET", self._key)
        if stored is None:
            ours = self._known[0] if self._known else secrets.token_bytes(_BYTES)
            encoded = base64.urlsafe_b64encode(ours).decode()
            if await call(self._redis, "SET", self._key, encoded, "NX", "PX", TTL_S * 1000):
                return ours
            stored = await call(self._redis, "GET", self._key)
        return _decoded(stored or b"", self._key)


def _decoded(stored: bytes, name: str) -> bytes:
    try:
        found = base64.b64decode(stored, altchars=b"-_", validate=True)
    except binascii.Error:
        found = b""
    if len(found) != _BYTES:
        raise StorageError(f"{name} holds no ticket key; delete it")
    return found
