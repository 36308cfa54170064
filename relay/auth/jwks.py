"""Public keys that a URL serves (JWKS, RFC 7517), fetched when they are needed.

Whoever needs keys starts a fetch if one is due; it is a task of its own, so that a caller that leaves cancels nothing,
and all who need keys meanwhile share it. Keys are kept while that server is away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from logging import DEBUG, WARNING
from typing import Any

import httpx2
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from relay import logging, metrics
from relay.auth.signing_keys import PUBLIC_ALGORITHMS, SigningKey, public_signing_key
from relay.errors import ClientError, SettingsError
from relay.origins import is_loopback
from relay.timeouts import timeout

REFRESH_S = 300.0  # keys in use that are older are fetched again, while they go on counting
MAX_AGE_S = 600.0  # those that are older are fetched again before they count, unless the server was away the last time
PAUSE_S = 60.0  # between two fetches; otherwise whoever makes up a `kid` makes us ask
FIRST_PAUSE_S = 5.0  # the same while there are no keys: nobody can come in without them
FETCH_TIMEOUT_S = 5.0
MAX_BODY_BYTES = 262144
MAX_KEYS = 100

Keys = dict[tuple[str | None, str], SigningKey]  # by `kid` and algorithm

logger = logging.get_logger("jwks")
_ignored = logging.RateLimitedLog(logger, "jwks_key_ignored")


class UnusableJwks(Exception):
    """The server answered, but not with a JWKS."""


class Jwks:
    """A KeySource. `clock`: seconds that only go forward. Used on one event loop."""

    algorithms = PUBLIC_ALGORITHMS

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises SettingsError: the URL is not one that keys may come from."""
        self._url = _checked(url)
        self._clock = clock
        self._client: httpx2.AsyncClient | None = None
        self._keys: Keys | None = None
        self._version = 0
        self._fetched_at = 0.0  # of `_keys`
        self._tried_at: float | None = None
        self._is_away = False
        self._fetching: asyncio.Task[None] | None = None
        self._closed = False
        self._failures = logging.FailureLog(logger, "jwks_unavailable", host=self._url.host)

    @property
    def version(self) -> int:
        return self._version

    async def refresh(self) -> None:
        """Raises ClientError `unavailable` until there are keys. Otherwise it waits only for those that are too old."""
        if self._keys is None:
            await self._fetch(FIRST_PAUSE_S)
            if self._keys is None:
                raise self._unavailable(FIRST_PAUSE_S)
            return
        age_s = self._clock() - self._fetched_at
        if age_s < REFRESH_S:
            return
        if age_s < MAX_AGE_S or self._is_away:
            self._begin(PAUSE_S)
        else:
            await self._fetch(PAUSE_S)

    async def find(self, algorithm: str, kid: str | None) -> Sequence[SigningKey]:
        """A token without `kid` is tried with the only key, if there is one key only."""
        found = self._look_up(algorithm, kid)
        if not found and kid is not None:
            await self._fetch(PAUSE_S)
            found = self._look_up(algorithm, kid)
            if not found and self._is_away:
                raise self._unavailable(PAUSE_S)  # it may well be a new key's
        return found

    async def aclose(self) -> None:
        """Ends a fetch; callers that wait for it get `unavailable`."""
        self._closed = True
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _look_up(self, algorithm: str, kid: str | None) -> list[SigningKey]:
        keys = self._keys or {}
        if kid is None:
            return [key for key in keys.values() if len(keys) == 1 and key.algorithm == algorithm]
        found = keys.get((kid, algorithm))
        return [] if found is None else [found]

    async def _fetch(self, pause_s: float) -> None:
        """Wait for a fetch, if one runs or is due. A cancelled caller does not cancel it."""
        self._begin(pause_s)
        if self._fetching is not None:
            await asyncio.wait({self._fetching})

    def _begin(self, pause_s: float) -> None:
        is_due = self._tried_at is None or self._clock() - self._tried_at >= pause_s
        if self._fetching is None and is_due and not self._closed:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._run(), name="jwks")
            self._fetching.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _run(self) -> None:
        """One fetch; never raises anything but CancelledError."""
        try:
            async with timeout(FETCH_TIMEOUT_S):
                keys = keys_of(await self._get())
        except TimeoutError:
            self._failed(f"no answer within {FETCH_TIMEOUT_S:g} s")
        except (httpx2.HTTPError, httpx2.StreamError, UnusableJwks) as error:
            self._failed(str(error) or type(error).__name__)
        except Exception as error:  # a bug: callers go on with the keys that there are
            metrics.bugs.labels("jwks").inc()
            self._is_away = True
            self._failures.unexpected(error)
        else:
            self._take(keys)

    def _failed(self, detail: str) -> None:
        self._is_away = True
        metrics.key_fetches.labels("failed").inc()
        self._failures.failed(detail, keys_kept=len(self._keys or {}))

    def _take(self, keys: Keys) -> None:
        """What the server says holds, also if it names no key any more."""
        self._is_away = False
        self._fetched_at = self._tried_at or 0.0  # the answer may be as old as the question
        metrics.key_fetches.labels("ok").inc()
        self._failures.succeeded()
        if keys == self._keys:
            return
        self._keys = keys
        self._version += 1
        if keys:
            logger.info("jwks_changed", host=self._url.host, keys=len(keys))
        else:
            logger.warning("jwks_empty", host=self._url.host)

    async def _get(self) -> bytes:
        if self._client is None:
            # In a thread: it reads the certificates of this machine, some 50 ms. `timeout` above is for all of a fetch.
            self._client = await asyncio.to_thread(httpx2.AsyncClient, timeout=None, follow_redirects=False)
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with self._client.stream("GET", self._url, headers=headers) as response:
            if response.status_code != 200:
                raise UnusableJwks(f"HTTP status {response.status_code}")
            body = bytearray()
            async with aclosing(response.aiter_bytes()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > MAX_BODY_BYTES:
                        raise UnusableJwks(f"more than {MAX_BODY_BYTES} bytes")
            return bytes(body)

    def _unavailable(self, pause_s: float) -> ClientError:
        passed_s = self._clock() - (self._tried_at or 0.0)
        retry_after_s = min(max(pause_s - passed_s, 1.0), pause_s)
        return ClientError("unavailable", "Tokens cannot be checked at the moment.", retry_after_s=retry_after_s)


def keys_of(body: bytes) -> Keys:
    """The keys of a JWKS that tokens may be signed with. Raises UnusableJwks."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise UnusableJwks("not JSON") from None
    given = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(given, list):
        raise UnusableJwks("not a JWKS: it has no list `keys`")
    if len(given) > MAX_KEYS:
        raise UnusableJwks(f"more than {MAX_KEYS} keys")
    keys: Keys = {}
    for jwk in given:
        try:
            kid, key = _key_of(jwk)
        except ValueError as error:
            _ignored.log(str(error), level=DEBUG if _is_of_others(jwk) else WARNING, detail=str(error))
        else:
            keys.setdefault((kid, key.algorithm), key)
    return keys


def _key_of(jwk: object) -> tuple[str | None, SigningKey]:
    """Raises ValueError that says why it is not used; it quotes nothing but words that are known."""
    if not isinstance(jwk, dict) or not isinstance(kid := jwk.get("kid"), str | None):
        raise ValueError("not a JWK")
    if _is_of_others(jwk):
        raise ValueError("not for signatures")
    if jwk.get("kty") not in ("RSA", "EC", "OKP"):
        raise ValueError("not a public key")
    if "d" in jwk:
        raise ValueError("a private key, which should not be there")
    key = public_signing_key(_read(jwk))
    if jwk.get("alg") not in (None, key.algorithm):
        raise ValueError("a key for an algorithm that is not one of RS256, ES256 and EdDSA")
    return kid, key


def _read(jwk: dict[str, Any]) -> object:
    """Raises ValueError. One key that cannot be read must not keep us from the others."""
    try:
        # Without its `alg`, PyJWK takes the algorithm of the key's type: the only ones that we verify.
        return PyJWK({name: value for name, value in jwk.items() if name != "alg"}).key
    except (PyJWTError, UnsupportedAlgorithm, AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("a key that cannot be read, or is of an unknown type") from None


def _is_of_others(jwk: object) -> bool:
    """A key for encryption, say: usual, and no fault."""
    if not isinstance(jwk, dict):
        return False
    operations = jwk.get("key_ops")
    return jwk.get("use") not in (None, "sig") or (isinstance(operations, list) and "verify" not in operations)


def _checked(url: str) -> httpx2.URL:
    """Raises SettingsError."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        raise SettingsError("RELAY_AUTH_JWKS_URL is not a URL") from None
    if not parsed.host or not (parsed.scheme == "https" or (parsed.scheme == "http" and is_loopback(parsed.host))):
        raise SettingsError(
            "RELAY_AUTH_JWKS_URL must begin with https:// and a host: over http://, anybody on the way could put in "
            "keys (http:// is for this machine only)"
        )
    if parsed.userinfo:
        raise SettingsError("RELAY_AUTH_JWKS_URL must have no user name and no password")
    return parsed
