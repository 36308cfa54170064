"""Keys that tokens are verified with: a secret, or public keys out of a file. (jwks.py has those that a URL serves.)

A key verifies one algorithm, whatever a token's header names. Secrets and public keys are never in force together:
otherwise a public key, which everybody may know, could pass for a secret.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError

from relay.errors import SettingsError

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
SECRET_ALGORITHM = "HS256"
PUBLIC_ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2; PyJWT 2.15 only warns
MIN_RSA_BITS = 2048
MAX_SECRETS = 2
MAX_FILE_BYTES = 65536
MAX_FILE_KEYS = 10  # each may have to be tried

_MAKE_SECRET = 'python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key, and the one algorithm that it verifies."""

    algorithm: str
    key: bytes | PublicKey = field(repr=False)


class KeySource(Protocol):
    """Where the keys in force come from. `version` changes whenever one is added or taken away."""

    @property
    def algorithms(self) -> frozenset[str]: ...

    @property
    def version(self) -> int: ...

    async def refresh(self) -> None:
        """Before each use: look for new keys if that is due. Raises ClientError `unavailable` if there are none yet."""

    async def find(self, algorithm: str, kid: str | None) -> Sequence[SigningKey]:
        """Keys to try for such a token, as of `version` now. Raises ClientError `unavailable`."""

    async def aclose(self) -> None: ...


class FixedKeys:
    """Keys that stay the same until the next start."""

    version = 0

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self._by_algorithm: dict[str, list[SigningKey]] = {}
        for key in keys:
            self._by_algorithm.setdefault(key.algorithm, []).append(key)
        self.algorithms = frozenset(self._by_algorithm)

    async def refresh(self) -> None:
        """There is nothing to look for."""

    async def find(self, algorithm: str, kid: str | None) -> Sequence[SigningKey]:
        """A key of a file has no `kid`, so that of the token says nothing."""
        return self._by_algorithm.get(algorithm, ())

    async def aclose(self) -> None:
        """There is nothing to close."""


def secrets_of(setting: str) -> list[bytes]:
    """The secrets in RELAY_AUTH_SECRET; new tokens and tickets are signed with the first. Raises SettingsError."""
    secrets = setting.split(",")
    try:
        setting.encode()
    except UnicodeEncodeError:
        raise SettingsError("RELAY_AUTH_SECRET is not a text in UTF-8") from None
    if len(secrets) > MAX_SECRETS:
        raise SettingsError(
            f"RELAY_AUTH_SECRET has {len(secrets)} secrets: two at most, with a comma between them, "
            "the new one and the one that is being replaced"
        )
    for secret in secrets:
        if len(secret.encode()) < MIN_SECRET_BYTES:
            raise SettingsError(
                f"RELAY_AUTH_SECRET is too short: a secret needs at least {MIN_SECRET_BYTES} bytes; "
                f"this makes a good one: {_MAKE_SECRET}"
            )
        if secret != secret.strip():  # mostly a line break from a secret's file
            raise SettingsError("RELAY_AUTH_SECRET has a blank or a line break at the beginning or the end of a secret")
        try:
            HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
        except InvalidKeyError:
            raise SettingsError(
                "RELAY_AUTH_SECRET is a key pair's, a certificate or a JWK; public keys go into a file: "
                "RELAY_AUTH_KEY_FILE"
            ) from None
    return [secret.encode() for secret in secrets]


def secret_keys(secrets: Sequence[bytes]) -> FixedKeys:
    return FixedKeys([SigningKey(SECRET_ALGORITHM, secret) for secret in secrets])


def keys_of_file(path: str) -> FixedKeys:
    """The public keys in a PEM file, several while one is being replaced. Raises SettingsError."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"RELAY_AUTH_KEY_FILE cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise SettingsError("RELAY_AUTH_KEY_FILE is not the path of a file") from None
    blocks = list(_BLOCK.finditer(content[:MAX_FILE_BYTES].decode("latin-1")))
    if not blocks or len(blocks) > MAX_FILE_KEYS or len(content) > MAX_FILE_BYTES:
        raise SettingsError(
            f"RELAY_AUTH_KEY_FILE must be a PEM file with 1 to {MAX_FILE_KEYS} public keys (-----BEGIN PUBLIC KEY-----)"
        )
    try:
        return FixedKeys([_from_pem(block[0].encode("latin-1"), block[1]) for block in blocks])
    except ValueError as error:
        raise SettingsError(f"RELAY_AUTH_KEY_FILE holds {error}") from None


def public_signing_key(key: object) -> SigningKey:
    """Raises ValueError that says what the key is instead of one that can be used."""
    if isinstance(key, RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits; it needs at least {MIN_RSA_BITS}")
        return SigningKey("RS256", key)
    if isinstance(key, EllipticCurvePublicKey):
        if not isinstance(key.curve, SECP256R1):
            raise ValueError(f"a key on the curve {key.curve.name}; ES256 needs P-256")
        return SigningKey("ES256", key)
    if isinstance(key, Ed25519PublicKey):
        return SigningKey("EdDSA", key)
    raise ValueError("a key that is neither RSA (RS256), nor EC on P-256 (ES256), nor Ed25519 (EdDSA)")


def _from_pem(block: bytes, label: str) -> SigningKey:
    """Raises ValueError as `public_signing_key` does."""
    if "PRIVATE KEY" in label:
        raise ValueError(
            "a private key; a gateway needs the public one only, and nobody else should have this one: "
            "openssl pkey -in FILE -pubout"
        )
    if label == "CERTIFICATE":
        raise ValueError("a certificate; this takes the public key out of it: openssl x509 -in FILE -noout -pubkey")
    try:
        key = load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("a public key that cannot be read") from None
    return public_signing_key(key)
