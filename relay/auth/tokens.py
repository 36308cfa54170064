"""Who a bearer token speaks for: its signature, its claims, and a cache of what was verified."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from relay.auth.claims import LEEWAY_S, has_expired, identity_of
from relay.auth.identity import Identity
from relay.auth.refusals import TokenRefused
from relay.auth.signatures import signed_claims
from relay.auth.signing_keys import KeySource

MAX_CACHED = 10_000  # tokens; some 500 bytes each


class TokenRules(NamedTuple):
    """`audience`, `issuer`: what `aud` must contain and `iss` must be; None: no `aud` may be there, and any `iss`.

    (PyJWT's rule: a token that is meant for somebody is not accepted by who has no name.) `max_s`: how far ahead `exp`
    may lie.
    """

    audience: str | None = None
    issuer: str | None = None
    max_s: float = 86400.0


class TokenVerifier:
    """`now`: Unix seconds. The key source is the caller's to close."""

    def __init__(self, keys: KeySource, rules: TokenRules, *, now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._rules = rules
        self._now = now
        self._cache: OrderedDict[bytes, tuple[int, Identity]] = OrderedDict()  # the last used at the end

    async def verify(self, token: str) -> Identity:
        """Raises TokenRefused, counted and logged: `unauthenticated` or `token_expired`; ClientError `unavailable`."""
        try:
            return await self._verify(token)
        except TokenRefused as refused:
            refused.report()
            raise

    async def claims(self, token: str) -> dict[str, Any]:
        """All claims of a good token. Neither cached nor logged. Raises as `verify` does."""
        await self._keys.refresh()
        claims = await self._signed(token)
        self._identity(claims)
        return claims

    async def _verify(self, token: str) -> Identity:
        await self._keys.refresh()
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        version, identity = self._cache.get(digest, (-1, None))
        if identity is not None and version == self._keys.version:
            return self._unexpired(digest, identity)
        identity = self._identity(await self._signed(token))
        # The keys may have changed since the look into the cache, but not since the signature was judged.
        self._cache[digest] = (self._keys.version, identity)
        self._cache.move_to_end(digest)
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        return identity

    def _unexpired(self, digest: bytes, identity: Identity) -> Identity:
        if identity.expires_at is not None and has_expired(identity.expires_at, now=self._now(), leeway_s=LEEWAY_S):
            del self._cache[digest]
            raise TokenRefused("expired", {"sub": identity.sub})
        self._cache.move_to_end(digest)
        return identity

    async def _signed(self, token: str) -> dict[str, Any]:
        return await signed_claims(token, self._keys, audience=self._rules.audience, issuer=self._rules.issuer)

    def _identity(self, claims: dict[str, Any]) -> Identity:
        return identity_of(claims, now=self._now(), max_s=self._rules.max_s)
