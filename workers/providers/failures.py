"""What a failed call means: the SDKs' and their HTTP client's errors, classed once into our ProviderError.

Importing this loads the SDK (about a second); providers without one do not need it.
"""

from __future__ import annotations

import json
import ssl

import httpx2
import openai

from workers.providers.base import ProviderError, describe

# Everything that comes out of a call or of its stream. The SDK wraps most of httpx2's errors, but not those of
# reading the body of an error status, and none of decoding an event (openai 3.52).
FAILURES = (
    openai.APIError,
    httpx2.RequestError,  # TransportError, and DecodingError of a bad Content-Encoding
    httpx2.StreamError,
    ssl.SSLError,
    json.JSONDecodeError,
    UnicodeDecodeError,
)

_TIMEOUTS = (openai.APITimeoutError, httpx2.TimeoutException)
_CONNECTION = (openai.APIConnectionError, httpx2.TransportError, ssl.SSLError)
_OURS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.TooManyRedirects)  # wrong however often

_RETRYABLE_STATUS = frozenset({408, 409})
_REFUSALS = frozenset({"content_filter", "content_policy_violation", "responsibleaipolicyviolation"})
_RATE_LIMITS = frozenset({"rate_limit_exceeded", "rate_limit_error", "insufficient_quota", "too_many_requests"})
_REQUEST_ERRORS = frozenset(
    {
        "invalid_request_error", "authentication_error", "permission_error", "not_found_error", "billing_error",
        "invalid_api_key", "model_not_found", "context_length_exceeded", "request_too_large", "badrequesterror",
    }
)  # fmt: skip


def classify(error: Exception, *, streaming: bool = False) -> ProviderError:
    """The ProviderError for one of FAILURES; `streaming`: the response had begun, so a cut is half an answer."""
    detail = _detail(error)
    root = error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error
    if isinstance(root, _OURS):
        return ProviderError("provider_error", detail, retryable=False)
    if isinstance(error, _TIMEOUTS):
        return ProviderError("provider_timeout", detail, retryable=True)
    if isinstance(root, httpx2.DecodingError):
        return ProviderError("provider_error", detail, retryable=True)
    if isinstance(error, _CONNECTION):
        return ProviderError("truncated" if streaming else "provider_timeout", detail, retryable=True)
    status = getattr(error, "status_code", None)
    if isinstance(error, openai.APIError):
        # Inside the stream there is no status: a plain APIError has at best the error's own `code` and `type`.
        return _by_name(error, status if isinstance(status, int) and status >= 400 else None, detail)
    return ProviderError("provider_error", detail, retryable=True)


def _by_name(error: openai.APIError, status: int | None, detail: str) -> ProviderError:
    """By refusal first: it comes as status 400 or 403, or in the stream, and asking again gives it again."""
    names = {str(name).lower() for name in (error.code, error.type) if name}
    if names & _REFUSALS:
        return ProviderError("provider_refused", detail, retryable=False, status=status)
    if status is None:
        # Compatible servers (vLLM, OpenRouter) put the HTTP status they would have sent into `code`.
        status = next((int(name) for name in names if name.isdecimal() and len(name) == 3), None)
    if status == 429 or (status is None and names & _RATE_LIMITS):
        return ProviderError("provider_rate_limited", detail, retryable=True, status=status)
    if status is None:
        return ProviderError("provider_error", detail, retryable=not names & _REQUEST_ERRORS)
    retryable = status >= 500 or status in _RETRYABLE_STATUS
    return ProviderError("provider_error", detail, retryable=retryable, status=status)


def _detail(error: Exception) -> str:
    """One line for the log. What a server said goes without its text: servers quote keys and prompts in it."""
    if isinstance(error, openai.APIError) and not isinstance(error, openai.APIConnectionError):
        fields = {name: getattr(error, name, None) for name in ("status_code", "code", "type")}
        names = [f"{name}={str(value)[:60]}" for name, value in fields.items() if value]
        return " ".join([type(error).__name__, *names])
    line = "{error}: {detail}".format(**describe(error))
    if error.__cause__ is not None:
        line += " ({error}: {detail})".format(**describe(error.__cause__))
    return line
