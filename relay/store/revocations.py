"""Revocations, as they are stored: since when the tokens of a `sub` are refused, by Redis' clock.

Every method raises StorageError when Redis does not answer; all of them are idempotent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from relay.errors import StorageError
from relay.redis.connections import AnyRedis
from relay.store.keys import Keys
from relay.store.scripts import Script, read_atomically

MAX_REVOCATIONS = 100_000
KEEP_S = 31 * 86_400  # at least as long as the longest token that a gateway may be set to take
PAGE = 500  # read or written in one call


class Revoked(NamedTuple):
    """The tokens of `sub` that were issued at `at_ms` (Redis' clock) or before are refused."""

    sub: str
    at_ms: int


class News(NamedTuple):
    """What was revoked since some moment. `total`: how many there are that still count."""

    now_ms: int
    total: int
    rows: list[Revoked]
    is_all: bool


class RevocationStore:
    """The revocations under one prefix."""

    def __init__(self, redis: AnyRedis, keys: Keys) -> None:
        self._redis = redis
        self._key = keys.revoked

    async def revoke(self, sub: str) -> Revoked | None:
        """From now on. None: there are MAX_REVOCATIONS others, so this one is not in force."""
        [at_ms] = await self._write([(sub, "")])
        return Revoked(sub, int(at_ms)) if at_ms else None

    async def put_back(self, rows: Sequence[Revoked]) -> None:
        """What Redis has lost. A later revocation that it knows of stays; what finds no room is left out."""
        for first in range(0, len(rows), PAGE):
            await self._write([(sub, str(at_ms)) for sub, at_ms in rows[first : first + PAGE]])

    async def news(self, since_ms: int, keep_ms: int) -> News:
        """What was revoked at `since_ms` or later. Older ones than `keep_ms` do not count."""
        now_ms, total, flat = await _REVOKED(self._redis, self._key, since_ms, keep_ms, PAGE)
        rows = _rows(flat)
        return News(int(now_ms), int(total), rows, is_all=len(rows) < PAGE)

    async def pages(self) -> AsyncIterator[list[Revoked]]:
        """All of them, a bounded page at a time, in no order. One that is there all the time is never left out."""
        cursor, count = "0", 0
        while True:
            [(at, flat)] = await read_atomically(self._redis, ("ZSCAN", self._key, cursor, "COUNT", str(PAGE)))
            yield _rows(flat)
            count += len(flat) // 2
            if (cursor := at.decode()) == "0":
                return
            if count > 2 * MAX_REVOCATIONS:
                raise StorageError(f"{self._key} holds more than the relay ever writes")

    async def _write(self, pairs: list[tuple[str, str]]) -> list[bytes]:
        flat = [word for pair in pairs for word in pair]
        written: list[bytes] = await _REVOKE(self._redis, self._key, KEEP_S * 1000, MAX_REVOCATIONS, *flat)
        return written


def _rows(flat: list[bytes]) -> list[Revoked]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return [Revoked(sub.decode(errors="replace"), int(float(at_ms))) for sub, at_ms in pairs]


_REVOKE = Script("revoke")
_REVOKED = Script("revoked")
