"""`relay token`: makes a token for development, or reads one and says what a gateway would say to it.

stdout gets the token, or its claims as JSON; stderr gets why there are none.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any

import typer

from relay.commands.errors import report_errors
from relay.commands.options import load
from relay.errors import RelayError, SettingsError
from relay.settings import Settings

_MAX_INPUT_CHARACTERS = 65536
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")


class Refused(RelayError):
    """The token that was checked would not be let in."""

    exit_code = 1


def _read_duration(given: str) -> int:
    found = _DURATION.fullmatch(given)
    if found is None:
        raise typer.BadParameter(
            "it must be a whole number and a unit, such as 90s, 15m, 1h or 7d", param_hint="'--for'"
        )
    return int(found[1]) * _UNITS_S[found[2]]


@report_errors("relay")
def token(
    sub: str = typer.Argument(None, metavar="SUB", help="Whose token it is; 1 to 128 characters"),
    sessions: str = typer.Option(
        None, help="Sessions, or prefixes that end in *, with commas; default: those that SUB makes"
    ),
    scope: str = typer.Option(None, help="What it allows, of read submit stop delete admin; default: the first three"),
    for_s: str = typer.Option("1h", "--for", help="How long: a number and s, m, h or d"),
    check: bool = typer.Option(False, "--check", help="Read a token from standard input, and show its claims"),
) -> None:
    """Make a token, signed with RELAY_AUTH_SECRET; or --check one."""
    loaded = load(by_a_person=True)
    if check:
        if sub is not None:
            raise RelayError("--check reads a token from standard input; it takes no SUB")
        typer.echo(json.dumps(asyncio.run(_checked(loaded, _read_input())), indent=2))
    elif sub is None:
        raise RelayError("whose token is it to be? relay token SUB")
    else:
        typer.echo(_made(loaded, sub, sessions, scope, _read_duration(for_s)))


def _made(settings: Settings, sub: str, sessions: str | None, scope: str | None, for_s: int) -> str:
    """Raises SettingsError, RelayError."""
    import jwt

    from relay.auth.signing_keys import SECRET_ALGORITHM, secrets_of

    if not settings.auth_secret:
        raise SettingsError(
            "RELAY_AUTH_SECRET is not set, and nothing else can sign a token here; this makes one: "
            'python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    if for_s > settings.token_max_s:
        raise RelayError(f"a gateway refuses a token for more than RELAY_TOKEN_MAX_S = {settings.token_max_s} s")
    now = int(time.time())
    claims: dict[str, Any] = {"sub": sub, "iat": now, "exp": now + for_s}
    if sessions is not None:
        claims["sessions"] = [pattern.strip() for pattern in sessions.split(",") if pattern.strip()]
    if scope is not None:
        claims["scope"] = scope
    if settings.auth_audience:
        claims["aud"] = settings.auth_audience
    if settings.auth_issuer:
        claims["iss"] = settings.auth_issuer
    _refuse_mistakes(claims, now)
    return jwt.encode(claims, secrets_of(settings.auth_secret)[0], SECRET_ALGORITHM)


def _refuse_mistakes(claims: dict[str, Any], now: float) -> None:
    """Raises RelayError. A gateway ignores words of `scope` that it does not know; here they are mistakes."""
    from relay.auth.claims import identity_of
    from relay.auth.identity import SCOPES
    from relay.auth.refusals import EXPLANATIONS, TokenRefused

    if unknown := [word for word in claims.get("scope", "").split() if word not in SCOPES]:
        raise RelayError(f"--scope: {unknown[0]} is not one of {', '.join(SCOPES)}")
    try:
        identity_of(claims, now=now, max_s=claims["exp"] - now)
    except TokenRefused as refused:
        raise RelayError(f"a gateway would refuse this token: {EXPLANATIONS[refused.reason]}") from None


async def _checked(settings: Settings, token: str) -> dict[str, Any]:
    """Its claims. Raises SettingsError; Refused that says why a gateway would refuse it."""
    from relay.auth.factory import key_source, rules_of
    from relay.auth.refusals import EXPLANATIONS, TokenRefused
    from relay.auth.tokens import TokenVerifier
    from relay.errors import ClientError

    keys = key_source(settings)
    if keys is None:
        raise SettingsError(
            "no key is set that a token could be checked with: RELAY_AUTH_SECRET, RELAY_AUTH_KEY_FILE or "
            "RELAY_AUTH_JWKS_URL"
        )
    try:
        return await TokenVerifier(keys, rules_of(settings)).claims(token)
    except TokenRefused as refused:
        raise Refused(f"refused ({refused.reason}): {EXPLANATIONS[refused.reason]}") from None
    except ClientError as error:
        raise Refused(f"{error.message} RELAY_AUTH_JWKS_URL did not answer as it should") from None
    finally:
        await keys.aclose()


def _read_input() -> str:
    try:
        return sys.stdin.read(_MAX_INPUT_CHARACTERS).strip()
    except UnicodeDecodeError:
        raise RelayError("standard input is not text in UTF-8") from None
