"""Keys of every kind, and tokens signed with them."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "the-secret-of-these-tests-is-long-enough"
OTHER_SECRET = "another-secret-that-is-as-long-as-it-must-be"
NOW = 1_800_000_000.0
_TO_JWK: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


class Clock:
    """Moves when the test says so."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def private_key(algorithm: str, which: int = 0) -> Any:
    """`which`: another number, another key."""
    return _private_key(algorithm, which)


@cache
def _private_key(algorithm: str, which: int) -> Any:
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def public_pem(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def private_pem(key: Any) -> str:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


def jwk(algorithm: str, kid: str | None = None, which: int = 0, **more: Any) -> dict[str, Any]:
    described = _TO_JWK[algorithm].to_jwk(private_key(algorithm, which).public_key(), as_dict=True)
    return {**described, **({} if kid is None else {"kid": kid}), **more}


def token(key: Any = SECRET, algorithm: str = "HS256", /, headers: Any = None, **claims: Any) -> str:
    """Of ada, for ten minutes; a claim that is None is left out."""
    given = {"sub": "ada", "exp": int(NOW) + 600, "iat": int(NOW), **claims}
    return jwt.encode({name: value for name, value in given.items() if value is not None}, key, algorithm, headers)


def forged(header: Any, claims: Any, signature: bytes = b"") -> str:
    """What no library would make."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
