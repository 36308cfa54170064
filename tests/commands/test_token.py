"""`relay token`: makes what a gateway takes, and says what a gateway would refuse, and why."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from typer.testing import CliRunner, Result

from relay import settings
from relay.commands import main
from tests.auth.signing import OTHER_SECRET, SECRET, private_key, public_pem
from tests.logs_as_before import logs_as_before

RUN = CliRunner()
WITH_SECRET = {"RELAY_AUTH_SECRET": SECRET}


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    with logs_as_before():
        yield


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for several in settings.variables().values():
        for variable in several:
            monkeypatch.delenv(variable, raising=False)


def run(*arguments: str, env: dict[str, str] | None = None, stdin: str | bytes = "") -> Result:
    environment = WITH_SECRET if env is None else env
    return RUN.invoke(main.app, ["token", *arguments], env={**environment, "COLUMNS": "500"}, input=stdin)


def claims(result: Result, secret: str = SECRET, **options: Any) -> dict[str, Any]:
    assert (result.exit_code, result.stderr) == (0, "")
    read: dict[str, Any] = jwt.decode(result.stdout.strip(), secret, algorithms=["HS256"], **options)
    return read


def test_a_token_for_an_hour_with_what_a_person_needs() -> None:
    before = int(time.time())
    made = claims(run("ada"))
    assert set(made) == {"sub", "iat", "exp"}
    assert made["sub"] == "ada"
    assert made["exp"] - made["iat"] == 3600
    assert made["iat"] >= before


def test_sessions_scope_and_life_are_those_that_are_asked_for() -> None:
    made = claims(run("ada", "--sessions", "a, team:*", "--scope", "read submit", "--for", "90s"))
    assert (made["sessions"], made["scope"], made["exp"] - made["iat"]) == (["a", "team:*"], "read submit", 90)
    assert claims(run("ada", "--sessions", ""))["sessions"] == []
    for given, life_s in (("15m", 900), ("2h", 7200), ("1d", 86400)):
        made = claims(run("ada", "--for", given))
        assert made["exp"] - made["iat"] == life_s


def test_audience_and_issuer_come_from_the_settings() -> None:
    env = {**WITH_SECRET, "RELAY_AUTH_AUDIENCE": "relay", "RELAY_AUTH_ISSUER": "id"}
    made = claims(run("ada", env=env), audience="relay")
    assert (made["aud"], made["iss"]) == ("relay", "id")


def test_the_new_one_of_two_secrets_signs() -> None:
    claims(run("ada", env={"RELAY_AUTH_SECRET": f"{OTHER_SECRET},{SECRET}"}), OTHER_SECRET)


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["ada"], {}, "RELAY_AUTH_SECRET is not set, and nothing else can sign a token here; this makes one: python3"),
        (["ada"], {"RELAY_AUTH_SECRET": "hunter2"}, "RELAY_AUTH_SECRET is too short"),
        ([], None, "whose token is it to be? relay token SUB"),
        (["ada", "--check"], None, "it takes no SUB"),
        (["ada", "--for", "2d"], None, "RELAY_TOKEN_MAX_S = 86400 s"),
        (["ada", "--for", "1y"], None, "'--for': it must be a whole number and a unit, such as 90s, 15m, 1h or 7d"),
        (["ada", "--for", "0s"], None, "'--for': it must be a whole number and a unit"),
        (["ada", "--scope", "read write"], None, "--scope: write is not one of read, submit, stop, delete, admin"),
        (["ada", "--sessions", "a b"], None, "a gateway would refuse this token: its sessions are not"),
        (["a" * 129], None, "a gateway would refuse this token: its sub is not"),
        (["--check"], {}, "no key is set that a token could be checked with"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_and_makes_no_token(arguments: list[str], env: dict[str, str] | None, said: str) -> None:
    result = run(*arguments, env=env)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "hunter2" not in result.stderr
    assert SECRET not in result.stderr


def test_a_good_token_is_checked_and_shown() -> None:
    made = run("ada", "--sessions", "a")
    checked = run("--check", stdin=made.stdout)
    assert (checked.exit_code, checked.stderr) == (0, "")
    shown = json.loads(checked.stdout)
    assert (shown["sub"], shown["sessions"]) == ("ada", ["a"])


def test_a_public_key_suffices_to_check(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(public_pem(private_key("EdDSA")))
    given = jwt.encode({"sub": "ada", "exp": time.time() + 60}, private_key("EdDSA"), "EdDSA")
    checked = run("--check", env={"RELAY_AUTH_KEY_FILE": str(path)}, stdin=given)
    assert json.loads(checked.stdout)["sub"] == "ada"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"exp": 1}, "refused (expired): its exp has passed"),
        ({"sub": None}, "refused (no_sub): it has no sub"),
        ({"aud": "x"}, "refused (wrong_audience): its aud does not have RELAY_AUTH_AUDIENCE, or"),
    ],
)
def test_why_a_token_would_be_refused(change: dict[str, Any], said: str) -> None:
    given = {"sub": "ada", "exp": int(time.time()) + 60, **change}
    signed = jwt.encode({name: value for name, value in given.items() if value is not None}, SECRET, "HS256")
    result = run("--check", stdin=signed)
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr


@pytest.mark.parametrize("given", ["", "x", "\x1b[31m", "x" * 70_000])
def test_what_is_no_token_is_refused(given: str) -> None:
    result = run("--check", stdin=given)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("relay: refused (")
    assert "\x1b" not in result.stderr


def test_bytes_that_are_no_text_are_refused() -> None:
    result = run("--check", stdin=b"\xff\xfe")
    assert (result.exit_code, result.stderr) == (2, "relay: standard input is not text in UTF-8\n")


def test_keys_that_cannot_be_fetched_are_told_from_a_bad_token() -> None:
    given = jwt.encode({"sub": "ada", "exp": time.time() + 60}, private_key("ES256"), "ES256")
    result = run("--check", env={"RELAY_AUTH_JWKS_URL": "http://127.0.0.1:1/"}, stdin=given)
    assert result.exit_code == 1
    assert "Tokens cannot be checked at the moment. RELAY_AUTH_JWKS_URL did not answer as it should" in result.stderr


def test_claims_are_shown_without_control_characters() -> None:
    given = jwt.encode({"sub": "ada", "exp": time.time() + 60, "name": "\x1b[31m\u202e"}, SECRET, "HS256")
    result = run("--check", stdin=given)
    assert json.loads(result.stdout)["name"] == "\x1b[31m\u202e"
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout
