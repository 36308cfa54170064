"""Whom one connection or stream speaks for while it lasts: its token may be replaced, expire or be revoked."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from relay import metrics
from relay.auth.claims import LEEWAY_S
from relay.auth.identity import Access, Identity, Scope
from relay.auth.refusals import AccessRefused
from relay.errors import ClientError
from relay.gateway.authentication import Authentication

EXPIRING_S = 60.0  # so long before a token expires, its connection is told; of a short one, after half its time
_SOONEST_S = 1.0  # and not sooner than this: whoever answers with short tokens must not do nothing else
_LONGEST_PAUSE_S = 600.0  # timers run by another clock than expiry does, and stand still while a machine sleeps

EXPIRED = ClientError("token_expired", "The token has expired; come back with a new one.")
REVOKED = ClientError("unauthenticated", "This token has been revoked.")


class Caller:
    """`identity`: None before the first good token and after the end.

    `on_expiring(seconds)` is called once for each token, but not for the same one again. `on_over(why)` is called
    once: EXPIRED, as late as the token would still open a new connection, or REVOKED.
    """

    def __init__(
        self,
        authentication: Authentication,
        on_over: Callable[[ClientError], None],
        on_expiring: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.identity: Identity | None = None
        self._authentication = authentication
        self._on_over = on_over
        self._on_expiring = on_expiring
        self._is_over = False
        self._warn_at = math.inf  # Unix seconds; not again once warned
        self._timer: asyncio.TimerHandle | None = None
        self._watch: Any = None

    def speaks_for(self, identity: Identity) -> None:
        """From now on. Raises ClientError `unauthenticated` if it has been revoked meanwhile, or all is over."""
        if self._is_over:
            raise ClientError("unauthenticated", "This is over for the token that came before.")
        self._authentication.checked(identity)
        self._release()
        if self.identity is None or identity.expires_at != self.identity.expires_at:  # not for the same token once more
            self._warn_at = _when_to_warn(identity)
        self.identity = identity
        if self._authentication.is_on:
            self._watch = self._authentication.revocations.watch(identity, lambda: self._end(REVOKED))
            self._check_expiry()

    async def refresh(self, token: str | None) -> Identity:
        """Take a newer token of the same person. Raises ClientError; then the earlier one counts on."""
        newer = await self._authentication.of_token(token)
        if self.identity is not None and newer.sub != self.identity.sub:
            raise AccessRefused("forbidden", "That token is somebody else's; open another connection for it.")
        if self.identity is not None and newer.expires_at is not None and newer.expires_at <= time.time():
            raise ClientError("token_expired", "That token has expired as well.")  # good enough only for who has none
        self.speaks_for(newer)
        return newer

    def access(self, action: Scope, session: str) -> Access:
        """Raises ClientError: `forbidden`, `unauthenticated`."""
        if self.identity is None:
            raise AccessRefused("unauthenticated", "Say hello with a token first.")
        return self.identity.access(action, session)

    def close(self) -> None:
        self._is_over, self.identity = True, None
        self._release()

    def _check_expiry(self) -> None:
        """Timers may come early or late; what counts is the clock that tokens are made by."""
        if self.identity is None or self.identity.expires_at is None:
            return
        now, over_at = time.time(), self.identity.expires_at + LEEWAY_S
        if now >= over_at:
            self._end(EXPIRED)
            return
        if now >= self._warn_at:
            self._warn_at = math.inf
            self._on_expiring(max(0.0, self.identity.expires_at - now))
        pause_s = min(max(min(self._warn_at, over_at) - now, 0.01), _LONGEST_PAUSE_S)
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._check_expiry)

    def _end(self, why: ClientError) -> None:
        self.close()
        metrics.errors.labels(why.code).inc()
        self._on_over(why)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watch is not None:
            self._authentication.revocations.unwatch(self._watch)
            self._watch = None


def _when_to_warn(identity: Identity) -> float:
    if identity.expires_at is None:
        return math.inf
    now = time.time()
    left_s = identity.expires_at - now
    return now + max(left_s - EXPIRING_S, min(left_s, EXPIRING_S) / 2, _SOONEST_S)
