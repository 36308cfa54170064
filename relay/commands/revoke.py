"""`relay revoke`: refuses all tokens that somebody holds. It needs no gateway and no key: it writes to Redis itself."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import typer

from relay.commands.options import load
from relay.commands.terminal import escape_controls
from relay.errors import RelayError
from relay.settings import Settings


def revoke(sub: str, redis_url: str | None) -> None:
    """Raises RelayError."""
    from relay.auth.revocations import TOO_MANY, check_sub

    check_sub(sub)
    revoked_at_s = asyncio.run(_revoke(sub, redis_url))
    if revoked_at_s is None:
        raise RelayError(TOO_MANY)
    at = datetime.fromtimestamp(revoked_at_s, UTC).isoformat(timespec="milliseconds")
    typer.echo(escape_controls(f"relay: tokens of {sub} that were issued until {at} are refused"), err=True)


async def _revoke(sub: str, redis_url: str | None) -> float | None:
    """Since when, in Unix seconds; None if there is no room for it."""
    from relay.errors import StorageError
    from relay.redis.connections import Connections
    from relay.store import factory

    loaded = load(by_a_person=True, redis_url=redis_url, log_level="error", **_without_auth())
    redis = Connections(loaded.redis_url)
    try:
        revoked = await factory.revocation_store(redis, loaded).revoke(sub)
        return None if revoked is None else revoked.at_ms / 1000
    except StorageError as error:
        if error.refused or error.denied:
            raise RelayError(f"Redis refuses this ({error})") from None
        raise RelayError(f"Redis cannot be used ({error}); is --redis / RELAY_REDIS_URL right?") from None
    finally:
        await redis.aclose()


def _without_auth() -> dict[str, Any]:
    """This needs no key: one that is wrong in this shell must not keep anybody from revoking."""
    names = (name for name in Settings.model_fields if name.startswith(("auth_", "token_")))
    return {name: Settings.model_fields[name].default for name in names}
