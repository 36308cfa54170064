"""Why a call failed, for the log: where it went, what its server calls the error, and which setting to look at.

Pure: what a failed call has brought is all there is to judge by, and nothing more is asked of anybody.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, runtime_checkable

import httpx2

from relay_workers.providers.base import ProviderError
from relay_workers.providers.failures import named_by, parameter_of, sentence_of
from relay_workers.providers.masking import mask_keys, mask_secrets, printable

MAX_SAID = 500  # characters of a provider's own sentence, at level debug
_MAX_PATH = 200
_MAX_NAME = 100

_REQUEST_IDS = (
    "x-request-id", "request-id", "x-ms-request-id", "apim-request-id", "x-amzn-requestid", "x-goog-request-id",
    "x-litellm-call-id", "openai-request-id", "x-correlation-id", "cf-ray",
)  # fmt: skip
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}\Z")
_VERSION = re.compile(r"/v\d\w*(/|\Z)")
_NO_MODEL = frozenset({"model_not_found", "modelnotfound", "deploymentnotfound"})
_NO_CREDIT = frozenset({"insufficient_quota", "billing_error", "billing_not_active", "insufficient_balance"})
_NO_ROUTE = frozenset({404, 405, 410})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom a provider asks, and by which settings. `route`: what is added to the URL for a question.

    `versioned`: the URL has to end in a version, mostly `/v1`, because the route brings none. `route_needs`: the
    setting that chose this route, if there is one.
    """

    url: httpx2.URL
    url_setting: str
    key_setting: str
    key: str | None = field(default=None, repr=False)
    route: str = ""
    versioned: bool = False
    route_needs: str = ""

    @property
    def address(self) -> str:
        """The URL as it may be shown: no query and no user."""
        return mask_keys(f"{self.url.scheme}://{_host(self.url)}{_path(self.url).rstrip('/')}", self.key)

    def explaining(self, model: str | None = None) -> Call:
        """For `with`: what fails in it is explained. `model`: the one that is asked for."""
        return Call(self, model)

    def explain(
        self, failure: ProviderError, response: httpx2.Response | None = None, model: str | None = None
    ) -> ProviderError:
        """Note in `failure`, and return it, what the log has to say about the call; once, so that the first counts.

        `response`: what was answered, unless the failure's cause has it. `model`: the one that was asked for.
        """
        if failure.host is not None:
            return failure
        causes = list(_causes(failure))
        response = next((found for cause in causes if (found := _response_of(cause))), response)
        url = response.request.url if response is not None else _url_of(causes)
        reported = failure.reported if failure.reported is not None else _body(response)
        failure.args = (mask_keys(str(failure), self.key),)
        failure.host, failure.path = self._masked(_host(url or self.url)), self._masked(_path(url or self._asked))
        failure.request_id = self._request_id(response.headers) if response is not None else None
        names = [name for name in named_by(reported) if mask_keys(name, self.key) == name]
        failure.provider_code = names[0] if names else None
        failure.param = self._harmless(parameter_of(reported))
        said = sentence_of(reported)
        failure.said = printable(mask_secrets(said, self.key), MAX_SAID) or None if said else None
        failure.hint = self._hint(failure, response, causes, {name.lower() for name in names}, said, model)
        return failure

    @property
    def _asked(self) -> httpx2.URL:
        return self.url.copy_with(path=self.url.path.rstrip("/") + self.route)

    def _masked(self, text: str) -> str:
        return mask_keys(text, self.key)

    def _harmless(self, text: str | None) -> str | None:
        return text if text and self._masked(text) == text else None

    def _request_id(self, headers: Mapping[str, str]) -> str | None:
        sent = (headers.get(name, "").strip() for name in _REQUEST_IDS)
        return next((one for one in sent if _REQUEST_ID.match(one) and self._harmless(one)), None)

    def _hint(
        self,
        failure: ProviderError,
        response: httpx2.Response | None,
        causes: list[BaseException],
        names: set[str],
        said: str | None,
        model: str | None,
    ) -> str | None:
        """One sentence that names the setting; None if no setting is to blame."""
        if failure.code == "provider_refused":
            return None
        if response is None:
            return self._unconnected(causes)
        status = failure.status or response.status_code
        is_page = failure.misconfigured or (failure.code != "truncated" and _is_web_page(response))
        if names & _NO_MODEL or (status == 404 and not is_page and _is_about(said, model)):
            named = f": {printable(self._masked(model), _MAX_NAME)}" if model else ""
            return f"RELAY_MODEL, or the submit, names a model that this server does not have{named}"
        if response.history and (status in _NO_ROUTE or status in (400, 401, 403)):
            return self._redirected(response)
        if status in (401, 403):
            return self._key_hint(status)
        if status == 402 or names & _NO_CREDIT:
            return f"{self.key_setting}: its account has no credit left"
        at_route = bool(response.history) or _path(response.request.url).endswith(self.route)
        if at_route and (status in _NO_ROUTE or is_page):
            return self._redirected(response) or self._route_hint(status, is_page=is_page)
        return self._redirected(response) if response.is_redirect else None

    def _unconnected(self, causes: list[BaseException]) -> str | None:
        asked = _url_of(causes) or self.url
        host = self._masked(_host(asked))
        if asked.host != self.url.host or asked.port != self.url.port:
            return f"{self.url_setting} redirects to {host}, which cannot be reached: set it to where the API is"
        if any(isinstance(cause, httpx2.TooManyRedirects) for cause in causes):
            return f"{self.url_setting} redirects in a circle: set it to where the API is"
        if any(isinstance(cause, httpx2.ProxyError) for cause in causes):
            return f"HTTPS_PROXY, HTTP_PROXY or ALL_PROXY: this proxy does not let us through to {host}"
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return f"{self.url_setting}: no TLS with {host}; does it speak https, and is its certificate trusted here?"
        if any(isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout) for cause in causes):
            return f"{self.url_setting}: no connection to {host}; is the address right, and is the server running?"
        if any(isinstance(cause, httpx2.RemoteProtocolError) and "illegal" in str(cause) for cause in causes):
            return f"{self.url_setting}: what listens at {host} may not speak HTTP; is it https, or another port?"
        return None

    def _redirected(self, response: httpx2.Response) -> str | None:
        if response.history:
            led_to = response.request.url
        elif response.is_redirect and response.next_request is not None:
            led_to = response.next_request.url
        else:
            return None
        path = _path(led_to).removesuffix(self.route)
        where = printable(self._masked(f"{led_to.scheme}://{_host(led_to)}{path}"), _MAX_PATH)
        return f"{self.url_setting} redirects to {where}: set it to where the API is"

    def _key_hint(self, status: int) -> str:
        if not self.key:
            return f"{self.key_setting} is not set, and the server wants a key"
        may = "is refused" if status == 401 else "is refused, or may not do this"
        return f"{self.key_setting} {may}; is it the key of {self._masked(_host(self.url))}?"

    def _route_hint(self, status: int, *, is_page: bool) -> str:
        what = f"HTTP {status} and a web page" if is_page else f"HTTP {status}"
        path = self.url.path.rstrip("/")
        if self.route and path.endswith(self.route):
            return f"{self.url_setting} must end before {self.route}, which is added to it"
        if status == 429 or status >= 500:
            return f"{self.url_setting}: {what}; something in front of the server answered in its place"
        asked = self._masked(_path(self._asked))
        if self.versioned and not _VERSION.search(path):
            return f"{self.url_setting} has no /v1: {what} at {asked}; most servers want {self.address}/v1"
        if self.route_needs:
            return f"{self.route_needs}: {what} at {asked}; does this server have that route?"
        return f"{self.url_setting}: {what} at {asked}; does its path fit?"


@runtime_checkable
class Remote(Protocol):
    """A provider that asks somebody elsewhere."""

    endpoint: Endpoint


class Call:
    """One call, so far. `response`: to be set once there is one."""

    def __init__(self, endpoint: Endpoint, model: str | None) -> None:
        self._endpoint = endpoint
        self._model = model
        self.response: httpx2.Response | None = None

    def __enter__(self) -> Call:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ProviderError):
            self._endpoint.explain(error, self.response, self._model)
        elif isinstance(error, asyncio.CancelledError) and self.response is not None:
            error.response = self.response  # type: ignore[attr-defined]  # a deadline of the caller's: `explain` finds it


def _is_about(said: str | None, model: str | None) -> bool:
    """Whether the sentence is about the model, and not about the path."""
    return said is not None and ("model" in said.lower() or (len(model or "") > 3 and str(model) in said))


def _is_web_page(response: httpx2.Response) -> bool:
    if response.headers.get("content-type", "").strip().lower().startswith(("text/html", "application/xhtml")):
        return True
    return response.status_code >= 400 and response.is_closed and response.content.lstrip().startswith(b"<")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors behind this one, the nearest first."""
    seen: list[BaseException] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and cause not in seen and len(seen) < 8:
        seen.append(cause)
        yield cause
        cause = cause.__cause__ or cause.__context__


def _response_of(error: BaseException) -> httpx2.Response | None:
    found = getattr(error, "response", None)
    return found if isinstance(found, httpx2.Response) else None


def _url_of(errors: list[BaseException]) -> httpx2.URL | None:
    for error in reversed(errors):  # the HTTP client's own has the request that failed, perhaps after a redirect
        request = error.__dict__.get("request") or error.__dict__.get("_request")
        if isinstance(request, httpx2.Request):
            return request.url
    return None


def _body(response: httpx2.Response | None) -> object:
    """What an error status came with, which access.Client has read: JSON's value, or text."""
    if response is None or response.status_code < 400 or not response.is_closed:
        return None
    try:
        value: object = json.loads(response.content)
    except (ValueError, RecursionError):
        return response.content.decode(errors="replace")
    return value


def _host(url: httpx2.URL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return printable(host if url.port is None else f"{host}:{url.port}", 255)


def _path(url: httpx2.URL) -> str:
    path = url.raw_path.decode("ascii", "replace").partition("?")[0]
    return printable(path, _MAX_PATH)
