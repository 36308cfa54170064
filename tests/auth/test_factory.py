"""From the settings to auth: what is refused at the start, and that nobody is let in by accident."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from relay import settings
from relay.auth.factory import Auth, auth_of, check_before_listening, key_source
from relay.auth.jwks import Jwks
from relay.errors import ClientError, SettingsError
from relay.settings import Settings
from tests.auth.signing import NOW, OTHER_SECRET, SECRET, Clock, private_key, public_pem, token

_AUTH = ("auth_secret", "auth_key_file", "auth_jwks_url", "auth_audience", "auth_issuer", "open_to_everybody", "host")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _AUTH:
        monkeypatch.delenv(f"RELAY_{name.upper()}", raising=False)


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key.pem"
    path.write_text(public_pem(private_key("ES256")))
    return str(path)


async def from_redis(*, fresh: bool = False) -> Sequence[bytes]:
    return [b"k" * 32]


async def nowhere(*, fresh: bool = False) -> Sequence[bytes]:
    raise AssertionError("there is a secret")


def on(**given: Any) -> Auth:
    auth = auth_of(settings.load(**given), from_redis, now=Clock())
    assert auth is not None
    return auth


def refused(**given: Any) -> str:
    with pytest.raises(SettingsError) as raised:
        check_before_listening(settings.load(**given))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_without_a_key_auth_is_off() -> None:
    assert auth_of(settings.load(), nowhere) is None


async def test_a_secret_makes_tokens_and_tickets() -> None:
    auth = auth_of(settings.load(auth_secret=f"{OTHER_SECRET},{SECRET}"), nowhere, now=Clock())
    assert auth is not None
    identity = await auth.verifier.verify(token())
    ticket = await auth.tickets.mint(identity, "s")
    assert (await auth.tickets.read(ticket.ticket)).sub == "ada"
    await auth.aclose()


async def test_a_key_file_makes_tokens_and_redis_the_key_of_tickets(key_file: str) -> None:
    auth = on(auth_key_file=key_file)
    identity = await auth.verifier.verify(token(private_key("ES256"), "ES256"))
    ticket = await auth.tickets.mint(identity, "s")
    assert (await auth.tickets.read(ticket.ticket)).sub == "ada"
    await auth.aclose()


async def test_a_url_is_asked_for_keys_and_closed_with_the_rest() -> None:
    source = key_source(settings.load(auth_jwks_url="http://127.0.0.1:1/keys"))
    assert isinstance(source, Jwks)
    auth = on(auth_jwks_url="http://127.0.0.1:1/keys")
    with pytest.raises(ClientError) as raised:
        await auth.verifier.verify(token(private_key("ES256"), "ES256"))
    assert raised.value.code == "unavailable"
    await auth.aclose()


async def test_audience_issuer_and_life_are_those_of_the_settings() -> None:
    auth = on(auth_secret=SECRET, auth_audience="relay", auth_issuer="id", token_max_s=60)
    await auth.verifier.verify(token(aud="relay", iss="id", exp=NOW + 60))
    for wrong in ({"aud": "x"}, {"iss": "x"}, {"exp": NOW + 600}):
        given: dict[str, Any] = {"aud": "relay", "iss": "id", "exp": NOW + 60, **wrong}
        with pytest.raises(ClientError):
            await auth.verifier.verify(token(**given))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"auth_secret": "hunter2"}, "RELAY_AUTH_SECRET is too short"),
        ({"auth_secret": ",".join([SECRET] * 3)}, "RELAY_AUTH_SECRET has 3 secrets"),
        ({"auth_key_file": "/nowhere/key.pem"}, "RELAY_AUTH_KEY_FILE cannot be read: No such file"),
        ({"auth_jwks_url": "http://id.example.com/"}, "RELAY_AUTH_JWKS_URL must begin with https://"),
        (
            {"auth_secret": SECRET, "auth_jwks_url": "https://id.example.com/"},
            "only one of RELAY_AUTH_SECRET, RELAY_AUTH_JWKS_URL can be set",
        ),
        ({"auth_key_file": "x", "auth_jwks_url": "x"}, "only one of RELAY_AUTH_KEY_FILE, RELAY_AUTH_JWKS_URL can"),
        ({"auth_audience": "relay"}, "RELAY_AUTH_AUDIENCE is set, but no key"),
        ({"auth_issuer": "id", "open_to_everybody": True}, "RELAY_AUTH_ISSUER is set, but no key"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_the_start(given: dict[str, Any], said: str) -> None:
    sentence = refused(**given)
    assert sentence.startswith(said)
    assert "hunter2" not in sentence
    assert SECRET not in sentence


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "relay.internal", ""])
def test_no_relay_is_open_by_accident(host: str) -> None:
    said = refused(host=host)
    assert said.startswith(f"--host {host} can be reached from elsewhere")
    for word in ("RELAY_AUTH_SECRET", "--open-to-everybody"):
        assert word in said


def test_whoever_opens_it_is_warned_at_each_start() -> None:
    for _ in range(2):
        with structlog.testing.capture_logs() as lines:
            check_before_listening(settings.load(host="0.0.0.0", open_to_everybody=True))
        assert [(line["event"], line["log_level"], line["host"]) for line in lines] == [
            ("open_to_everybody", "warning", "0.0.0.0")
        ]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@pytest.mark.parametrize("opened", [False, True])
def test_on_loopback_all_stays_as_easy_as_it_is(host: str, opened: bool) -> None:
    with structlog.testing.capture_logs() as lines:
        check_before_listening(settings.load(host=host, open_to_everybody=opened))
    assert lines == []


def test_with_a_key_it_listens_wherever_it_is_told(key_file: str) -> None:
    for key in ({"auth_secret": SECRET}, {"auth_key_file": key_file}, {"auth_jwks_url": "https://id.example.com/"}):
        with structlog.testing.capture_logs() as lines:
            check_before_listening(settings.load(host="0.0.0.0", **key))
        assert lines == []


def test_secrets_travel_to_the_processes_behind_one_port() -> None:
    """relay/gateway/supervisor.py writes them into a pipe, child.py reads them there."""
    import msgspec

    given = settings.load(auth_secret=f"{SECRET},{OTHER_SECRET}", metrics_token="m" * 32)
    read = Settings(**msgspec.json.decode(given.model_dump_json().encode()))
    assert (read.auth_secret, read.metrics_token) == (f"{SECRET},{OTHER_SECRET}", "m" * 32)
