"""What a failed call means: the errors of the SDKs and their HTTP client become our ProviderError in this one place.

Both SDKs come from one generator: their errors have the same names and nearly the same fields, but no common class. So
each provider passes its SDK in, and nothing here imports one: that takes about a second, and a worker needs one at
most. A provider that uses the HTTP client itself passes none.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any

import httpx2

from relay_workers.providers.base import ProviderError, describe
from relay_workers.providers.event_stream import STRAY

# The SDKs wrap httpx2's errors from sending a request. Those from reading a body come to us as they are, and those of
# JSON from our own reading of background responses.
_UNWRAPPED = (
    httpx2.RequestError,  # TransportError, and DecodingError of a bad Content-Encoding
    httpx2.StreamError,
    ssl.SSLError,
    json.JSONDecodeError,
    UnicodeDecodeError,
    RecursionError,  # from JSON that nests too deep
)
_MISCONFIGURED = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.TooManyRedirects)  # no retry helps

_RETRYABLE_STATUS = frozenset({408, 409})
_REFUSALS = frozenset(
    {
        "content_filter", "content_policy_violation", "responsibleaipolicyviolation",
        "invalid_prompt", "bio_policy", "data_inspection_failed", "base_resp_1026",
        "base_resp_1027", "misalignment_policy_violation", "image_content_policy_violation",
    }
)  # fmt: skip
_RATE_LIMITS = frozenset({"rate_limit_exceeded", "rate_limit_error", "insufficient_quota", "too_many_requests"})
_REQUEST_ERRORS = frozenset(
    {
        "invalid_request_error", "authentication_error", "permission_error", "not_found_error", "billing_error",
        "invalid_api_key", "model_not_found", "context_length_exceeded", "request_too_large", "badrequesterror",
        "data_residency_mismatch",
    }
)  # fmt: skip
# For an error inside the stream, which has no status: those about the key, not about the question.
_STATUS_OF = {
    "authentication_error": 401, "invalid_api_key": 401, "billing_error": 402, "permission_error": 403,
    "base_resp_1004": 401, "base_resp_2049": 401, "base_resp_1008": 402, "base_resp_1002": 429, "base_resp_1039": 429,
}  # fmt: skip
_FIELDS = ("status_code", "code", "type", "error_code")  # openai has `code`, anthropic `error_code`

MAX_RETRY_AFTER_S = 3600.0

# Where bodies name their error, and where another level of it may be.
_NAMED_IN = ("status_code", "status", "http_status", "code", "error_code", "errorCode", "type", "error_type", "reason")
_NESTED_IN = ("error", "errors", "metadata", "details", "detail")
_TOLD_IN = ("message", "msg", "detail", "error_msg", "error_message", "error_code")
_CODES = ("code", "error_code", "errorCode")
_WORD = re.compile(r"[\w.-]{1,60}\Z")
_NO_KEY = re.compile(r"([A-Za-z_.-]+|[0-9]{1,6}|base_resp_[0-9]{1,6})\Z")
_PARAMETER = re.compile(r"[\w.\[\]-]{1,100}\Z")
_QUOTE = re.compile(r":?\s*(bytearray\()?b?['\"].*", re.DOTALL)

_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?\Z")


class ErrorClassifier:
    """One SDK's failures. `errors`: everything that a call or its stream may raise, including deadlines."""

    def __init__(self, sdk: ModuleType | None = None) -> None:
        self._api: tuple[type[Exception], ...] = (sdk.APIError,) if sdk else ()
        self._wrapper: tuple[type[Exception], ...] = (sdk.APIConnectionError,) if sdk else ()
        self._connection: tuple[type[Exception], ...] = (*self._wrapper, httpx2.TransportError, ssl.SSLError)
        timeouts: tuple[type[Exception], ...] = (sdk.APITimeoutError,) if sdk else ()
        self._timeouts: tuple[type[Exception], ...] = (*timeouts, httpx2.TimeoutException, TimeoutError)
        self.errors: tuple[type[Exception], ...] = (*self._api, *_UNWRAPPED, TimeoutError)

    def classify(self, error: Exception, *, streaming: bool = False) -> ProviderError:
        """The ProviderError for one of `errors`. `streaming`: the response had begun, so a broken connection means
        half an answer.
        """
        detail = self._detail(error)
        root = error.__cause__ if isinstance(error, self._wrapper) and error.__cause__ else error
        if isinstance(root, _MISCONFIGURED):
            return ProviderError("provider_error", detail, retryable=False, misconfigured=True)
        if isinstance(error, self._timeouts):
            return ProviderError("provider_timeout", detail, retryable=True)
        if isinstance(root, httpx2.DecodingError):
            return ProviderError("provider_error", detail, retryable=True)
        if isinstance(error, self._connection):
            return ProviderError("truncated" if streaming else "provider_timeout", detail, retryable=True)
        if isinstance(error, self._api):
            return _by_name(error, detail)
        return ProviderError("provider_error", detail, retryable=True)

    def _detail(self, error: Exception) -> str:
        """One line for the log, without the text that a server sent: servers quote keys and prompts in it."""
        if isinstance(error, self._api) and not isinstance(error, self._wrapper):
            return _named(type(error).__name__, error)
        return " from ".join(_line(one) for one in (error, error.__cause__) if one is not None)


def classify_body(what: str, error: object) -> ProviderError:
    """For an error that came as JSON, in a stream or in place of one, not as an exception. `what`: for the log."""
    found = list(_names(error))
    detail = " ".join([what, *(f"{member}={name}" for member, name in found if member and _NO_KEY.match(name))])
    failure = classify_status(None, [name for _, name in found], detail)
    failure.reported = error
    return failure


def find_error(value: object, event: str = "message") -> object | None:
    """The error that a JSON value is or holds, in any of the shapes that servers have; None if it is none.

    `event`: the type of the event that it came as.
    """
    if event == "error":
        return value or {}
    if isinstance(value, list) and value:
        return find_error(value[0])
    if not isinstance(value, dict):
        return None
    get = value.get  # the next lines are the way of every event
    if get("error") or get("type") == "error" or get("object") == "error":
        return value
    reply = get("base_resp")  # MiniMax
    if reply and isinstance(reply, dict) and reply.get("status_code"):
        return {"code": f"base_resp_{reply['status_code']}"}
    if get("choices"):
        return _choice_error(value)
    kind = get("type")
    if isinstance(kind, str) and "error" not in kind.lower():
        return None
    is_answer = "choices" in value or "object" in value or event not in ("message", STRAY)
    return value if _tells_error(value, is_answer=is_answer) else None


def _tells_error(value: dict[str, Any], *, is_answer: bool) -> bool:
    """Whether it is one without saying so: by an error's members. `is_answer`: it has an answer's as well."""
    if any(value.get(name) for name in ("error_msg", "error_message", "error_code")):
        return True
    if is_answer:
        return False
    if value.get("errors") or value.get("detail") or value.get("success") is False:
        return True
    status = value.get("status")
    if isinstance(status, int) and status >= 400:  # problem details (RFC 9457)
        return True
    return any(isinstance(value.get(name), str) and value[name] for name in _TOLD_IN)


def is_word(said: str) -> bool:
    """Whether it may be a name: a sentence may quote a key or a prompt."""
    return _WORD.match(said) is not None


def named_by(error: object) -> list[str]:
    """What an error's JSON calls it, its codes first and numbers last; only single words."""
    found = [(member, name) for member, name in _names(error) if member]
    found.sort(key=lambda one: (one[1].isdigit(), one[0] not in _CODES))
    return [name for _, name in found]


def parameter_of(error: object) -> str | None:
    """The part of the request that an error's JSON is about."""
    for level in _levels(error):
        place = level.get("loc")  # pydantic's, from servers made with FastAPI
        said = ".".join(map(str, place)) if isinstance(place, list) else level.get("param")
        if isinstance(said, str) and _PARAMETER.match(said):
            return said
    return None


def sentence_of(error: object) -> str | None:
    """What an error says in words. It may quote anything: never for a person, nor for the log as it is."""
    if isinstance(error, str):
        return error
    texts = (level.get(name) for level in _levels(error) for name in _TOLD_IN)
    return next((text for text in texts if isinstance(text, str) and text), None)


def _levels(error: object, depth: int = 3) -> Iterator[dict[str, Any]]:
    if isinstance(error, list):
        error = error[0] if error else None
    if isinstance(error, dict) and depth:
        yield error
        for member in _NESTED_IN:
            if isinstance(error.get(member), str) and member in ("error", "detail"):
                yield {"message": error[member]}
            yield from _levels(error.get(member), depth - 1)


def _choice_error(value: dict[str, Any]) -> object | None:
    groq = value.get("x_groq")
    if isinstance(groq, dict) and groq.get("error"):
        return groq
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return (choice.get("error") or None) if isinstance(choice, dict) else None


def _names(error: object, depth: int = 3) -> Iterator[tuple[str, str]]:
    """Codes and types, each with its member's name, or without one if it stands alone and may be anything.

    Only single words: a sentence may quote a key or a prompt.
    """
    if isinstance(error, str) and is_word(error):
        yield "", error
    if isinstance(error, list):
        error = error[0] if error else None
    if not isinstance(error, dict) or not depth:
        return
    for member in _NAMED_IN:
        said = str(error.get(member)) if type(error.get(member)) in (int, str) else ""
        if is_word(said) and said != "error":
            yield member, said
    for member in _NESTED_IN:
        yield from _names(error.get(member), depth - 1)


def _named(what: str, error: object) -> str:
    names = [(name, str(value)) for name in _FIELDS if (value := getattr(error, name, None))]
    return " ".join([what, *(f"{name}={value}" for name, value in names if is_word(value))])


def _line(error: BaseException) -> str:
    if type(error).__name__ == "LocalProtocolError":  # quotes the header that cannot be sent, mostly the key
        return type(error).__name__
    # These quote what the server sent. By name: the cause is the HTTP client's own error, of another class.
    if type(error).__name__ in ("RemoteProtocolError", "UnsupportedProtocol"):
        return f"{type(error).__name__}: {_QUOTE.sub('', str(error))}"
    return "{error}: {detail}".format(**describe(error))


def _by_name(error: object, detail: str) -> ProviderError:
    names = [value for name in _FIELDS[1:] if (value := getattr(error, name, None))]
    headers = getattr(getattr(error, "response", None), "headers", {})
    return classify_status(getattr(error, "status_code", None), names, detail, headers)


def classify_status(
    status: object, named: Iterable[object], detail: str, headers: Mapping[str, str] | None = None
) -> ProviderError:
    """What an HTTP status, and the codes and types `named` by its body or by an event, mean together.

    Refusals are checked first: they come as status 400 or 403, or in the stream, and asking again does not help. An
    error inside a stream has no status of its own, only names.
    """
    names = {str(value).lower() for value in named}
    if not isinstance(status, int) or status < 400:
        # Compatible servers (vLLM, OpenRouter) put the HTTP status they would have sent into `code`.
        said = next((int(name) for name in names if re.fullmatch("[45][0-9][0-9]", name)), None)
        status = said or next((_STATUS_OF[name] for name in names if name in _STATUS_OF), None)
    retry_after_s = retry_after(headers or {})
    if names & _REFUSALS:
        return ProviderError("provider_refused", detail, retryable=False, status=status)
    if status == 429 or (status is None and names & _RATE_LIMITS):
        return ProviderError(
            "provider_rate_limited", detail, retryable=True, status=status, retry_after_s=retry_after_s
        )
    if status is None:
        return ProviderError("provider_error", detail, retryable=not names & _REQUEST_ERRORS)
    retryable = status >= 500 or status in _RETRYABLE_STATUS
    return ProviderError(
        "provider_error", detail, retryable=retryable, status=status, retry_after_s=retry_after_s if retryable else None
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks us to wait, an hour at most; None if it does not, or in a form we do not know.

    `retry-after-ms` is known to both SDKs; `retry-after` holds seconds or an HTTP date (RFC 9110, 10.2.3).
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        said = headers.get(name, "").strip()
        if _NUMBER.match(said):
            return min(float(said) * unit_s, MAX_RETRY_AFTER_S)
    try:
        wait_s = parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(wait_s, MAX_RETRY_AFTER_S) if wait_s > 0 else None
