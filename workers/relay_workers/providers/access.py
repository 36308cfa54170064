"""What the SDKs' clients are given (base URL, key, timeouts), checked before a worker takes its first job."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx2

from relay import timeouts
from relay.errors import SettingsError
from relay_workers.providers import network
from relay_workers.providers.base import ProviderError

_CONNECTING = ("connect_tcp", "setup_socks5_connection", "start_tls")  # httpcore2's names

PLACEHOLDER_KEY = "none"  # local servers need no key, but the SDKs do not start without one

_READ_TIMEOUT_S = 600.0  # only a last resort: it counts per read, so a server's pings reset it


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
    """The key of the setting `name`, or a placeholder if there is none. Raises SettingsError that does not quote it."""
    key = value or PLACEHOLDER_KEY
    if not key.isascii() or not key.isprintable() or key != key.strip():  # mostly a line break from a secret's file
        raise SettingsError(f"{name} holds characters that no HTTP header can")
    return key


def timeout() -> httpx2.Timeout:
    """For a `Client` whose deadlines count tokens and are kept elsewhere."""
    return httpx2.Timeout(_READ_TIMEOUT_S, connect=None)


class Client(httpx2.AsyncClient):
    """Counts the waits for a connection and for TLS in time that the loop was listening; httpx2 uses the wall clock."""

    def __init__(self, connect_timeout_s: float, **options: Any) -> None:
        super().__init__(**options)
        network.install(self)
        self._connect_timeout_s = connect_timeout_s

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Raises ConnectTimeout, as httpx2 does."""
        try:
            async with timeouts.timeout(None) as timer:

                async def trace(name: str, info: Any) -> None:
                    step, _, state = name.partition(".")[2].partition(".")
                    if step not in _CONNECTING:
                        return
                    if state == "started":
                        timer.start(self._connect_timeout_s)
                    else:
                        timer.stop()

                request.extensions = {**request.extensions, "trace": trace}
                return await super().send(request, **options)
        except TimeoutError:
            detail = f"no connection within {self._connect_timeout_s:g} s"
            raise httpx2.ConnectTimeout(detail, request=request) from None


async def check_reachable(url: httpx2.URL, connect_timeout_s: float) -> None:
    """Open a connection to the URL's host and close it: no call that costs anything. Raises ProviderError.

    Behind a proxy nothing is checked: only a request can tell whether the proxy would let us through.
    """
    if proxied(url):
        return
    host, port = url.raw_host.decode(), url.port or (443 if url.scheme == "https" else 80)
    try:
        async with timeouts.timeout(connect_timeout_s):
            _, writer = await asyncio.open_connection(host, port, happy_eyeballs_delay=0.25)
    except TimeoutError:
        raise _unreachable(host, port, f"no connection within {connect_timeout_s:g} s") from None
    except (OSError, UnicodeError) as error:  # a name that no resolver accepts is a UnicodeError
        raise _unreachable(host, port, _reason(error)) from error
    writer.transport.abort()


def proxied(url: httpx2.URL) -> bool:
    """Whether the HTTP client goes through a proxy for this URL: by HTTPS_PROXY, ALL_PROXY, NO_PROXY or the system."""
    proxies = getproxies()
    return bool(proxies.get(url.scheme) or proxies.get("all")) and not proxy_bypass(url.host)


def _reason(error: OSError | UnicodeError) -> str:
    """The system's own message: asyncio replaces it with the address."""
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


def _unreachable(host: str, port: int, why: str) -> ProviderError:
    return ProviderError("provider_timeout", f"{host}:{port} cannot be reached: {why}", retryable=True)
