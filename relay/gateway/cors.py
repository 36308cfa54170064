"""CORS: what pages of allowed origins may send and read. Never `*`, never credentials: there are no cookies.

Not Starlette's middleware: that knows no names by their beginning, and the SDKs send a dozen `x-stainless-…`.
https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Send

MAX_AGE_S = 600
_METHODS = "GET, HEAD, POST, PATCH, DELETE"
# What the SDKs of OpenAI and Anthropic, Vercel's, AG-UI's and our own client send, or may be told to.
_HEADERS = frozenset({
    "accept", "accept-language", "authorization", "cache-control", "content-language", "content-type",
    "idempotency-key", "last-event-id", "traceparent", "tracestate", "user-agent", "x-api-key", "x-client-request-id",
    "x-run-id",
})  # fmt: skip
_PREFIXES = ("x-stainless-", "x-relay-", "anthropic-", "openai-")
_EXPOSED = "Retry-After, WWW-Authenticate, X-Relay-Generation, X-Relay-Session, X-Request-Id"
_ASKED = "Access-Control-Request-Method, Access-Control-Request-Headers"


def is_preflight(method: str, headers: Headers) -> bool:
    return method == "OPTIONS" and "access-control-request-method" in headers


def preflight_response(headers: Headers) -> Response:
    """For an allowed origin. What is not allowed is not named; the browser then says so, by its name."""
    asked = [name.strip().lower() for name in headers.get("access-control-request-headers", "").split(",")]
    allowed = [name for name in asked if name in _HEADERS or (name.startswith(_PREFIXES) and name.isascii())]
    answer = {
        "Access-Control-Allow-Origin": headers["origin"],
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": ", ".join(allowed),
        "Access-Control-Max-Age": str(MAX_AGE_S),
        "Vary": f"Origin, {_ASKED}",
    }
    if headers.get("access-control-request-private-network") == "true":
        answer["Access-Control-Allow-Private-Network"] = "true"
    return PlainTextResponse("OK", headers=answer)


def readable_by(origin: str, send: Send) -> Send:
    """`send`, with the headers by which pages of this origin may read the answer."""

    async def sends(message: Message) -> None:
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            add(MutableHeaders(scope=message), origin)
        await send(message)

    return sends


def add(headers: MutableHeaders, origin: str) -> None:
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = _EXPOSED
    headers["Vary"] = ", ".join([*headers.getlist("vary"), "Origin"])
