"""`relay revoke`: one line that says what holds from now on, or why it does not; and it needs no key."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from relay import embedded, settings
from relay.auth.identity import Identity
from relay.auth.revocations import Revocations
from relay.commands import main
from relay.commands.revoke import _without_auth
from relay.redis.connections import Connections
from relay.store import factory, revocations
from tests.logs_as_before import logs_as_before

RUN = CliRunner()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded.embedded_server() as url:
        yield url


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    with logs_as_before():
        yield


async def is_revoked(url: str, sub: str, prefix: str = "relay") -> bool:
    redis = Connections(url)
    try:
        known = Revocations(factory.revocation_store(redis, settings.load(prefix=prefix)), 60)
        await known.sync()
        return known.is_revoked(Identity(sub, frozenset()))
    finally:
        await redis.aclose()


def test_it_says_what_it_did_and_every_gateway_of_that_prefix_knows(url: str) -> None:
    result = RUN.invoke(main.app, ["revoke", "ann", "--redis", url], env={"RELAY_PREFIX": "mine"})
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.fullmatch(
        r"relay: tokens of ann that were issued until 20\d\d-\d\d-\d\dT[\d:]{8}\.\d{3}\+00:00 are refused\n",
        result.stderr,
    )
    assert asyncio.run(is_revoked(url, "ann", "mine"))
    assert not asyncio.run(is_revoked(url, "bob", "mine"))
    assert not asyncio.run(is_revoked(url, "ann", "other"))


def test_what_a_terminal_would_obey_is_revoked_and_not_printed(url: str) -> None:
    result = RUN.invoke(main.app, ["revoke", "\x1b[2J", "--redis", url])
    assert result.exit_code == 0
    assert "\x1b" not in result.stderr
    assert asyncio.run(is_revoked(url, "\x1b[2J"))


def test_no_setting_of_auth_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a shell has of them: one that is wrong there must not keep anybody from revoking."""
    names = {"auth_secret": 1, "token_max_s": 2, "prefix": 3, "metrics_port": 4}
    monkeypatch.setattr(
        "relay.commands.revoke.Settings.model_fields", {name: Default(of) for name, of in names.items()}
    )
    assert _without_auth() == {"auth_secret": 1, "token_max_s": 2}


class Default:
    def __init__(self, default: int) -> None:
        self.default = default


@pytest.mark.parametrize("sub", ["", "x" * 129])
def test_what_no_token_can_be_of_is_refused(sub: str) -> None:
    result = RUN.invoke(main.app, ["revoke", sub, "--redis", "redis://127.0.0.1:1/0"])
    assert (result.exit_code, result.stderr) == (2, "relay: sub must be 1 to 128 characters.\n")


def test_a_redis_that_is_away_is_one_line() -> None:
    result = RUN.invoke(main.app, ["revoke", "ann", "--redis", "redis://127.0.0.1:1/0"])
    assert result.exit_code == 2
    assert re.fullmatch(r"relay: Redis cannot be used \(.*\); is --redis / RELAY_REDIS_URL right\?\n", result.stderr)


def test_one_too_many_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MAX_REVOCATIONS", 0)
    result = RUN.invoke(main.app, ["revoke", "one too many", "--redis", url])
    assert result.exit_code == 2
    assert "no room for another one until the oldest expires" in result.stderr
    assert not asyncio.run(is_revoked(url, "one too many"))
