"""From the settings to what a gateway knows people by, and the checks before its start."""

from __future__ import annotations

import time
from collections.abc import Callable

from relay import logging
from relay.auth.jwks import Jwks
from relay.auth.signing_keys import KeySource, keys_of_file, secret_keys, secrets_of
from relay.auth.tickets import TicketKeys, Tickets, derived_keys
from relay.auth.tokens import TokenRules, TokenVerifier
from relay.errors import SettingsError
from relay.origins import is_loopback
from relay.settings import Settings

_KEY_SETTINGS = ("auth_secret", "auth_key_file", "auth_jwks_url")


class Auth:
    """Bearer tokens and tickets, as one gateway reads them."""

    def __init__(self, keys: KeySource, verifier: TokenVerifier, tickets: Tickets) -> None:
        self.verifier = verifier
        self.tickets = tickets
        self._keys = keys

    async def aclose(self) -> None:
        await self._keys.aclose()


def auth_of(settings: Settings, ticket_keys: TicketKeys, *, now: Callable[[], float] = time.time) -> Auth | None:
    """None: auth is off. `ticket_keys`: asked only where no secret is set. Raises SettingsError."""
    keys = key_source(settings)
    if keys is None:
        return None
    if settings.auth_secret:
        ticket_keys = derived_keys(secrets_of(settings.auth_secret))
    return Auth(keys, TokenVerifier(keys, rules_of(settings), now=now), Tickets(ticket_keys, now=now))


def key_source(settings: Settings) -> KeySource | None:
    """None: auth is off. The caller closes it. Raises SettingsError."""
    given = [f"RELAY_{name.upper()}" for name in _KEY_SETTINGS if getattr(settings, name)]
    if len(given) > 1:
        raise SettingsError(f"only one of {', '.join(given)} can be set: they would let in each other's tokens")
    if not given:
        _refuse_rules_without_a_key(settings)
        return None
    if settings.auth_secret:
        return secret_keys(secrets_of(settings.auth_secret))
    return keys_of_file(settings.auth_key_file) if settings.auth_key_file else Jwks(settings.auth_jwks_url)


def rules_of(settings: Settings) -> TokenRules:
    return TokenRules(settings.auth_audience or None, settings.auth_issuer or None, float(settings.token_max_s))


def check_before_listening(settings: Settings) -> None:
    """A relay is not open to others by accident. Raises SettingsError, also for keys that cannot be used."""
    if key_source(settings) is not None or is_loopback(settings.host):
        return
    if not settings.open_to_everybody:
        raise SettingsError(
            f"--host {settings.host} can be reached from elsewhere, and without RELAY_AUTH_SECRET, RELAY_AUTH_KEY_FILE "
            "or RELAY_AUTH_JWKS_URL everybody there could read, ask, stop and delete everything; set one of them, or "
            "say --open-to-everybody / RELAY_OPEN_TO_EVERYBODY"
        )
    logging.get_logger("auth").warning("open_to_everybody", host=settings.host)


def _refuse_rules_without_a_key(settings: Settings) -> None:
    for name in ("auth_audience", "auth_issuer"):
        if getattr(settings, name):
            raise SettingsError(
                f"RELAY_{name.upper()} is set, but no key that tokens could be verified with, so nobody would be asked "
                "for one: set RELAY_AUTH_SECRET, RELAY_AUTH_KEY_FILE or RELAY_AUTH_JWKS_URL as well"
            )
