"""The claims of a JWT, if a key in force has signed it, and if it is meant for us."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import jwt
import msgspec

from relay.auth.refusals import TokenRefused
from relay.auth.signing_keys import KeySource, SigningKey

MAX_TOKEN_CHARACTERS = 16384

# Times and `sub` are judged in claims.py: by a clock that tests can set, and more strictly.
_OPTIONS: jwt.types.Options = {
    "verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_sub": False, "verify_jti": False,
}  # fmt: skip


class _Header(NamedTuple):
    algorithm: str
    kid: str | None


async def signed_claims(
    token: str, keys: KeySource, *, audience: str | None = None, issuer: str | None = None
) -> dict[str, Any]:
    """Raises TokenRefused; ClientError `unavailable` if the keys cannot be had."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenRefused("too_large")
    header = _header(token)
    if header.algorithm not in keys.algorithms:  # before anything is fetched for it
        raise TokenRefused("wrong_algorithm")
    candidates = await keys.find(header.algorithm, header.kid)
    if not candidates:
        raise TokenRefused("unknown_key")
    for key in candidates:
        try:
            return _verified(token, key, audience, issuer)
        except jwt.InvalidSignatureError:
            pass
    raise TokenRefused("bad_signature")


def _header(token: str) -> _Header:
    """What the header says, to choose a key by. PyJWT reads it again, and compares its `alg` with that of the key."""
    segment = token.partition(".")[0]
    try:
        header = msgspec.json.decode(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, msgspec.DecodeError, RecursionError):
        raise TokenRefused("malformed") from None
    if not isinstance(header, dict):
        raise TokenRefused("malformed")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise TokenRefused("wrong_algorithm")
    if kid is not None and not isinstance(kid, str):
        raise TokenRefused("malformed")
    return _Header(algorithm, kid)


def _verified(token: str, key: SigningKey, audience: str | None, issuer: str | None) -> dict[str, Any]:
    """Raises InvalidSignatureError: another key may have signed it. Raises TokenRefused."""
    try:
        return jwt.decode(
            token, key.key, algorithms=[key.algorithm], audience=audience, issuer=issuer, options=_OPTIONS
        )
    except jwt.InvalidSignatureError:
        raise
    except jwt.InvalidAlgorithmError:
        raise TokenRefused("wrong_algorithm") from None
    except jwt.InvalidAudienceError:
        raise TokenRefused("wrong_audience") from None
    except jwt.InvalidIssuerError:
        raise TokenRefused("wrong_issuer") from None
    except jwt.MissingRequiredClaimError as error:
        raise TokenRefused("wrong_audience" if error.claim == "aud" else "wrong_issuer") from None
    except (jwt.InvalidTokenError, UnicodeError):  # UnicodeError: a token that is not in ASCII
        raise TokenRefused("malformed") from None
