"""Who a request or a connection speaks for. Every route and command asks here; what that allows: auth/identity.py.

Where auth is off, everybody may do everything, except what belongs to the operator: that is for this machine alone.
"""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers, QueryParams

from relay.auth.factory import Auth
from relay.auth.identity import EVERYBODY, Identity
from relay.auth.refusals import AccessRefused, TokenRefused
from relay.auth.revocations import Revocations
from relay.gateway.deadlines import within_deadline
from relay.origins import is_loopback
from relay.protocol.words import FEATURES

# A proxy on this machine forwards strangers. Most set at least one of these, but not all do.
_FORWARDING = {"forwarded", "x-forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"}
_FORWARDING_PREFIXES = ("x-forwarded-", "x-envoy-")


class Authentication:
    """`auth`: None where it is off. `host`: where the gateway listens. `metrics_token`: opens /metrics and no more."""

    def __init__(self, auth: Auth | None, revocations: Revocations, host: str, metrics_token: str) -> None:
        self.auth = auth
        self.revocations = revocations
        self._listens_on_loopback = is_loopback(host)
        self._metrics_token = metrics_token.encode()

    @property
    def is_on(self) -> bool:
        return self.auth is not None

    @property
    def features(self) -> tuple[str, ...]:
        """What `welcome` and /v1/capabilities name."""
        return (*FEATURES, "auth", "tickets") if self.is_on else FEATURES

    async def of_request(self, headers: Headers, ticket: str | None = None) -> Identity:
        """`ticket`: where one is taken in place of a header, which comes first.

        Raises ClientError: `unauthenticated`, `token_expired`, `unavailable`.
        """
        if self.auth is None:
            return EVERYBODY
        token = bearer(headers)
        if token is not None:
            return await self.of_token(token)
        if ticket is not None:
            async with within_deadline("ticket"):
                return self.checked(await self.auth.tickets.read(ticket))
        raise AccessRefused("unauthenticated", "This needs a token: Authorization: Bearer …")

    async def of_token(self, token: str | None) -> Identity:
        """Raises ClientError: `unauthenticated`, `token_expired`, `unavailable`."""
        if self.auth is None:
            return EVERYBODY
        if not token:
            raise AccessRefused("unauthenticated", "There is no token in this.")
        async with within_deadline("token"):
            return self.checked(await self.auth.verifier.verify(token))

    def checked(self, identity: Identity) -> Identity:
        """Raises ClientError `unauthenticated` if it has been revoked, `unavailable` if that is not known."""
        if self.is_on and self.revocations.is_revoked(identity):
            raise _reported(TokenRefused("revoked", {"sub": identity.sub}))
        return identity

    async def require_operator(self, headers: Headers) -> None:
        """For admin routes. Raises ClientError: `forbidden`, and as `of_request`."""
        if self.auth is not None:
            (await self.of_request(headers)).require("admin")
        elif not self._comes_from_this_machine(headers):
            raise AccessRefused("forbidden", "Without auth, this is for the machine that the gateway runs on.")

    async def require_scraper(self, headers: Headers) -> None:
        """For /metrics. Raises ClientError: `forbidden`, and as `of_request`."""
        given = bearer(headers) if self._metrics_token else None
        if given is not None and hmac.compare_digest(given.encode(), self._metrics_token):
            return
        if self.auth is None and not self._comes_from_this_machine(headers):
            raise AccessRefused("forbidden", "Metrics are for this machine, or for who has RELAY_METRICS_TOKEN.")
        await self.require_operator(headers)

    def _comes_from_this_machine(self, headers: Headers) -> bool:
        is_forwarded = any(name in _FORWARDING or name.startswith(_FORWARDING_PREFIXES) for name in headers)
        return self._listens_on_loopback and not is_forwarded


def bearer(headers: Headers) -> str | None:
    """The token of the `Authorization` header; None if there is none, or another scheme's, such as a proxy's.

    Raises ClientError `unauthenticated`.
    """
    given = headers.getlist("authorization")
    if not given:
        return None
    scheme, _, token = given[0].strip().partition(" ")
    if len(given) > 1 or (scheme.lower() == "bearer" and not token.strip()):
        raise _reported(TokenRefused("malformed"))
    return token.strip() if scheme.lower() == "bearer" else None


def ticket_of(query: QueryParams) -> str | None:
    return query.get("ticket") or None


def _reported(refused: TokenRefused) -> TokenRefused:
    refused.report()
    return refused
