"""Tickets: for an event stream or a WebSocket of one session, where no header can be sent. Read only, short-lived.

A ticket is a JWT that only gateways sign and read, with a key of its own. So none passes for a token, and no token for
a ticket.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jwt

from relay.auth.claims import expiry, subject
from relay.auth.identity import Identity
from relay.auth.refusals import TicketRefused, TokenRefused
from relay.auth.signatures import signed_claims
from relay.auth.signing_keys import SECRET_ALGORITHM, secret_keys
from relay.errors import ClientError
from relay.protocol.words import SESSION

MAX_TICKET_S = 900.0
_LABEL = b"relay ticket, version 1"


class TicketKeys(Protocol):
    """A ticket is signed with the first, and read with any. `fresh`: one was not; there may be others by now."""

    async def __call__(self, *, fresh: bool = False) -> Sequence[bytes]: ...


class Ticket(NamedTuple):
    """`expires_at`: Unix seconds."""

    ticket: str
    expires_at: float


class Tickets:
    """`keys`: the same for all gateways behind one address. `now`: Unix seconds."""

    def __init__(self, keys: TicketKeys, *, now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._now = now

    async def mint(self, identity: Identity, session: str) -> Ticket:
        """For whoever may read the session. Raises ClientError `forbidden`, and what the keys raise."""
        identity.access("read", session)
        signing = (await self._keys())[0]
        token_expires_at = math.inf if identity.expires_at is None else identity.expires_at
        now = self._now()
        if token_expires_at <= now:
            raise ClientError("token_expired", "The token has expired; a ticket lasts no longer.")
        expires_at = min(now + MAX_TICKET_S, token_expires_at)
        claims = {
            "sub": identity.sub,
            "session": session,
            "owns": identity.owns,
            "makes": identity.makes,
            "issued_at": identity.issued_at,
            "exp": expires_at,
        }
        return Ticket(jwt.encode(claims, signing, SECRET_ALGORITHM), expires_at)

    async def read(self, ticket: str) -> Identity:
        """Raises TicketRefused, counted and logged: `unauthenticated` or `token_expired`; and what the keys raise."""
        try:
            return self._identity(await self._signed(ticket))
        except TokenRefused as refused:
            ticket_refused = TicketRefused.of(refused)
            ticket_refused.report()
            raise ticket_refused from None

    async def _signed(self, ticket: str) -> dict[str, Any]:
        try:
            return await signed_claims(ticket, secret_keys(await self._keys()))
        except TokenRefused as refused:
            if refused.reason != "bad_signature":
                raise
        return await signed_claims(ticket, secret_keys(await self._keys(fresh=True)))

    def _identity(self, claims: dict[str, Any]) -> Identity:
        """The key vouches for what is in it; so another release's ticket is all that can be odd here."""
        session, issued_at = claims.get("session"), claims.get("issued_at")
        owns, makes = claims.get("owns"), claims.get("makes")
        if not isinstance(session, str) or not SESSION.match(session) or not isinstance(issued_at, int | float):
            raise TokenRefused("malformed", claims)
        if not isinstance(owns, bool) or not isinstance(makes, bool):
            raise TokenRefused("malformed", claims)
        return Identity(
            sub=subject(claims),
            scopes=frozenset({"read"}),
            sessions=(session,),
            owns=owns,
            makes=makes,
            expires_at=expiry(claims, now=self._now(), max_s=MAX_TICKET_S, leeway_s=0.0),
            issued_at=float(issued_at),
        )


def derived_keys(secrets: Sequence[bytes]) -> TicketKeys:
    """Keys out of RELAY_AUTH_SECRET, which all gateways have. Nothing can be said about the secrets from them."""
    derived = [hmac.new(secret, _LABEL, hashlib.sha256).hexdigest().encode() for secret in secrets]

    async def keys(*, fresh: bool = False) -> Sequence[bytes]:
        return derived

    return keys
