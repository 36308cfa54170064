"""Secrets and key files: which can be used, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relay.auth.signing_keys import SigningKey, keys_of_file, secret_keys, secrets_of
from relay.errors import SettingsError
from tests.auth.signing import OTHER_SECRET, SECRET, private_key, private_pem, public_pem


def refused(setting: str) -> str:
    with pytest.raises(SettingsError, match=r"^RELAY_AUTH_SECRET ") as raised:
        secrets_of(setting)
    return str(raised.value)


def refused_file(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SettingsError, match=r"^RELAY_AUTH_KEY_FILE ") as raised:
        keys_of_file(str(path))
    return str(raised.value)


def test_one_secret_or_two() -> None:
    assert secrets_of(SECRET) == [SECRET.encode()]
    assert secrets_of(f"{SECRET},{OTHER_SECRET}") == [SECRET.encode(), OTHER_SECRET.encode()]
    assert secrets_of("ä" * 16) == [("ä" * 16).encode()]


@pytest.mark.parametrize("setting", ["x" * 31, f"{SECRET},", f",{SECRET}", f"{SECRET},short", "ä" * 15])
def test_a_short_secret_is_refused_with_the_command_that_makes_a_good_one(setting: str) -> None:
    said = refused(setting)
    assert said == (
        "RELAY_AUTH_SECRET is too short: a secret needs at least 32 bytes; this makes a good one: "
        'python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
    )


def test_more_than_two_secrets_are_refused() -> None:
    said = refused(",".join([SECRET, OTHER_SECRET, SECRET]))
    assert "3 secrets: two at most" in said


@pytest.mark.parametrize("setting", [f"{SECRET}\n", f" {SECRET}", f"{SECRET}, {OTHER_SECRET}"])
def test_a_secret_with_a_blank_around_it_is_refused(setting: str) -> None:
    assert "a blank or a line break" in refused(setting)


def test_a_secret_is_a_text() -> None:
    assert refused("x" * 40 + "\udcff") == "RELAY_AUTH_SECRET is not a text in UTF-8"


def test_a_public_key_is_no_secret() -> None:
    for algorithm in ("RS256", "ES256", "EdDSA"):
        assert "RELAY_AUTH_KEY_FILE" in refused(public_pem(private_key(algorithm)).strip())
    assert "RELAY_AUTH_KEY_FILE" in refused('{"kty": "oct"' + " " * 32 + "}")


def test_no_mistake_shows_the_secret() -> None:
    for setting in ("hunter2", "hunter2" * 9 + " ", ",".join(["hunter2" * 9] * 3)):
        assert "hunter2" not in refused(setting)


def test_no_key_is_in_a_repr() -> None:
    assert SECRET not in repr(SigningKey("HS256", SECRET.encode()))


async def test_each_secret_is_tried() -> None:
    keys = secret_keys(secrets_of(f"{SECRET},{OTHER_SECRET}"))
    assert keys.algorithms == {"HS256"}
    assert [key.key for key in await keys.find("HS256", "whatever")] == [SECRET.encode(), OTHER_SECRET.encode()]
    assert list(await keys.find("RS256", None)) == []


async def test_a_file_has_public_keys_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "keys.pem"
    pkcs1 = private_key("RS256", 1).public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
    pems = [public_pem(private_key(algorithm)) for algorithm in ("RS256", "ES256", "EdDSA")]
    path.write_text("# ours\n" + "\n".join([*pems, pkcs1]))
    keys = keys_of_file(str(path))
    assert keys.algorithms == {"RS256", "ES256", "EdDSA"}
    public = [private_key("RS256", which).public_key() for which in (0, 1)]
    assert [key.key for key in await keys.find("RS256", None)] == public


def test_a_private_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    for algorithm in ("RS256", "ES256", "EdDSA"):
        pem = private_pem(private_key(algorithm))
        said = refused_file(tmp_path / "key", public_pem(private_key(algorithm)) + pem)
        assert said.startswith("RELAY_AUTH_KEY_FILE holds a private key;")
        assert "openssl pkey -in FILE -pubout" in said
        assert pem.splitlines()[1] not in said


def test_a_weak_or_unusual_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    said = refused_file(path, public_pem(rsa.generate_private_key(65537, 1024)))
    assert said == "RELAY_AUTH_KEY_FILE holds an RSA key of 1024 bits; it needs at least 2048"
    said = refused_file(path, public_pem(ec.generate_private_key(ec.SECP384R1())))
    assert said == "RELAY_AUTH_KEY_FILE holds a key on the curve secp384r1; ES256 needs P-256"
    for key in (ed448.Ed448PrivateKey.generate(), dsa.generate_private_key(1024)):
        assert "neither RSA (RS256), nor EC on P-256 (ES256), nor Ed25519" in refused_file(path, public_pem(key))


def test_a_file_without_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    pem = public_pem(private_key("EdDSA"))
    many = pem * 11
    for content in ("", "x", b"\xff\x00", pem.replace("END", "ENT"), many, pem + "\n" * 65536):
        assert "1 to 10 public keys" in refused_file(path, content)
    assert "openssl x509" in refused_file(path, "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----")
    broken = pem.replace("MC", "zz")
    assert refused_file(path, broken) == "RELAY_AUTH_KEY_FILE holds a public key that cannot be read"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError, match=rf"^RELAY_AUTH_KEY_FILE cannot be read: {why}"):
            keys_of_file(str(path))
    with pytest.raises(SettingsError, match=r"^RELAY_AUTH_KEY_FILE is not the path"):
        keys_of_file("a\0b")
