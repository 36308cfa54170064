"""What the SDKs' clients are given (base URL, key, timeouts), checked before a worker takes its first job."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx2

from relay import timeouts
from relay.errors import SettingsError
from relay_workers.providers import joined_chunks, network
from relay_workers.providers.base import ProviderError

_CONNECTING = ("connect_tcp", "setup_socks5_connection", "start_tls")  # httpcore2's names

PLACEHOLDER_KEY = "none"  # local servers need no key, but the SDKs do not start without one

MAX_ERROR_BYTES = 64 * 1024  # of the body of an error status
MAX_BODY_BYTES = 16 * 1024 * 1024  # of another body that is read whole
ERROR_BODY_S = 2.0  # how long the body of an error status may take

_OF_THE_BODY = (b"content-encoding", b"content-length", b"content-type", b"transfer-encoding")

_READ_TIMEOUT_S = 600.0  # only a last resort: it counts per read, so a server's pings reset it


def base_url(name: str, value: str, *, query: bool = False) -> httpx2.URL:
    """The URL of the setting `name`. `query`: whether it may have one. Raises SettingsError."""
    try:
        url = httpx2.URL(value)
    except httpx2.InvalidURL as error:
        raise SettingsError(f"{name} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError(f"{name} must begin with http:// or https:// and a host")
    if url.query and not query:  # the SDKs would add their path behind it
        raise SettingsError(f"{name} must not have a query (? and what follows)")
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
    """Counts the waits for a connection and for TLS in time that the loop was listening; httpx2 uses the wall clock.

    A stream is the caller's to bound. Every other body is read here, as far as it is worth: SDKs read them to the end.
    """

    def __init__(self, connect_timeout_s: float, **options: Any) -> None:
        super().__init__(event_hooks={"response": [_bound_redirect]}, **options)
        network.install(self)
        self.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # each would go with every request
        self._connect_timeout_s = connect_timeout_s

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Raises ConnectTimeout and others, as httpx2 does; DecodingError if the body may not be read."""
        response = await self._open(request, **options)
        handed_on = False
        try:
            if response.status_code >= 400:
                return _with_body(response, await _error_body(response))
            if len(_encodings(response)) > 1:
                raise httpx2.DecodingError("more than one Content-Encoding", request=request)
            if not stream:
                return _with_body(response, await _whole_body(response))
            if not _encodings(response):  # a decoder gives nothing of what comes joined with a corrupt block
                joined_chunks.install(response)
            handed_on = True
            return response
        finally:
            if not handed_on:
                await response.aclose()

    async def _open(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
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
                return await super().send(request, stream=True, **options)
        except TimeoutError:
            detail = f"no connection within {self._connect_timeout_s:g} s"
            raise httpx2.ConnectTimeout(detail, request=request) from None


class _BoundedStream(httpx2.AsyncByteStream):
    """The beginning of a body. Pieces are httpx2's, at most 64 KiB each."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read_bytes = 0
        async for piece in self._stream:
            yield piece
            read_bytes += len(piece)
            if read_bytes >= MAX_ERROR_BYTES:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound_redirect(response: httpx2.Response) -> None:
    """httpx2 reads a redirect's body to its end, and decodes it, before it follows."""
    if response.has_redirect_location and isinstance(response.stream, httpx2.AsyncByteStream):
        response.headers.pop("content-encoding", None)
        response.stream = _BoundedStream(response.stream)


async def _error_body(response: httpx2.Response) -> bytes:
    """What came of it, up to MAX_ERROR_BYTES and for ERROR_BODY_S: the status is known, and says enough."""
    body = bytearray()
    if len(_encodings(response)) > 1:
        return b""
    try:
        async with timeouts.timeout(ERROR_BODY_S), aclosing(response.aiter_bytes()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) >= MAX_ERROR_BYTES:
                    break
    except (httpx2.RequestError, httpx2.StreamError, TimeoutError):
        pass
    return bytes(body[:MAX_ERROR_BYTES])


async def _whole_body(response: httpx2.Response) -> bytes:
    body = bytearray()
    async with aclosing(response.aiter_bytes()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise httpx2.DecodingError(f"a body of more than {MAX_BODY_BYTES} bytes", request=response.request)
    return bytes(body)


def _with_body(response: httpx2.Response, body: bytes) -> httpx2.Response:
    """The same with its body read. As UTF-8: a charset can name any of Python's codecs, even one that unpacks."""
    headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_BODY]
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if media_type.isascii() and media_type:
        headers.append((b"content-type", media_type.encode()))
    extensions = {name: value for name, value in response.extensions.items() if name != "network_stream"}
    return httpx2.Response(
        response.status_code,
        headers=headers,
        content=body,
        request=response.request,
        extensions=extensions,
        history=response.history,
    )


def _encodings(response: httpx2.Response) -> list[str]:
    """Each can unpack a byte into a thousand, so two of them a byte into a million."""
    named = response.headers.get_list("content-encoding", split_commas=True)
    return [one for one in named if one.strip().lower() not in ("", "identity")]


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
        why = f"no connection within {connect_timeout_s:g} s"
        raise _unreachable(host, port, why) from httpx2.ConnectTimeout(why)
    except (OSError, UnicodeError) as error:  # a name that no resolver accepts is a UnicodeError
        why = _reason(error)
        raise _unreachable(host, port, why) from httpx2.ConnectError(why)
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
