"""What the SDKs' clients are given: base URL, key and timeouts, checked before a worker takes its first job."""

from __future__ import annotations

import httpx2

from relay.errors import SettingsError

PLACEHOLDER_KEY = "none"  # local servers want no key, the SDKs do not start without one

_READ_TIMEOUT_S = 600.0  # only a last resort: it is counted per read, so a server's pings reset it


def base_url(name: str, value: str) -> httpx2.URL:
    """The URL of the setting `name`. Raises SettingsError."""
    try:
        url = httpx2.URL(value)
    except httpx2.InvalidURL as error:
        raise SettingsError(f"{name} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError(f"{name} must begin with http:// or https:// and a host")
    return url


def api_key(name: str, value: str | None) -> str:
    """The key of the setting `name`, a placeholder where there is none. Raises SettingsError that does not quote it."""
    key = value or PLACEHOLDER_KEY
    if not key.isascii() or not key.isprintable() or key != key.strip():  # the end of a secret's file, mostly
        raise SettingsError(f"{name} holds characters that no HTTP header can")
    return key


def timeout(connect_timeout_s: float) -> httpx2.Timeout:
    """For a client whose deadlines are kept elsewhere, by tokens."""
    return httpx2.Timeout(_READ_TIMEOUT_S, connect=connect_timeout_s)
