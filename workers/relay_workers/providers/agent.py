"""An agent behind HTTP: any service that answers one POST with one JSON body. docs/models.md has examples of both.

The question goes out as `{"session", "generation", "messages": [{"role", "content"}], "model"?, "max_tokens"?,
"metadata"?, "options"?}`. agent_answer.py reads the answer; its text is shown at once, in word-like tokens.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx2
import msgspec

from relay import timeouts
from relay.errors import SettingsError
from relay_workers.providers import access, agent_answer
from relay_workers.providers.base import Part, Prompt, ProviderError, Reasoning, Text
from relay_workers.providers.endpoint import Call, Endpoint
from relay_workers.providers.failures import ErrorClassifier, classify_status, is_word
from relay_workers.providers.tokenizing import tokenize
from relay_workers.providers.turns import without_blank

MAX_BODY_BYTES = 8 * 1024 * 1024  # decoded; twice the default longest answer, for what JSON adds to it

_ERRORS = ErrorClassifier()
_UNREADABLE: tuple[type[Exception], ...] = (ProviderError, *_ERRORS.errors)
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,40}/[\w.+-]{1,40}\Z")
_NOT_HERE = frozenset({404, 405, 410})  # this URL answers no POST, whatever the question


class AgentProvider:
    """One client with its own connections; one call per answer, never retried here: failover is the caller's.

    `answer_timeout_s`: for the whole answer, and so for its first token; `check_timeout_s`: for the answer to `check`.
    Raises SettingsError if key or URL cannot work.
    """

    name = "agent"

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        connect_timeout_s: float,
        answer_timeout_s: float = 60,
        check_timeout_s: float = 10,
        model: str = "",
    ) -> None:
        if not url:
            raise SettingsError("AGENT_API_URL is not set: the address at which the agent takes questions")
        self._url = access.base_url("AGENT_API_URL", url, query=True)
        key = access.api_key("AGENT_API_KEY", api_key)
        self.endpoint = Endpoint(self._url, "AGENT_API_URL", "AGENT_API_KEY", api_key or None)
        self.model = model or "agent"
        self.first_token_s: float | None = answer_timeout_s
        self._asked_for = model
        self._key_is = "AGENT_API_KEY is refused" if api_key else "AGENT_API_KEY is not set and the agent wants a key"
        self._answer_timeout_s = answer_timeout_s
        self._check_timeout_s = check_timeout_s
        self._client = access.Client(
            connect_timeout_s,
            headers={"Accept": "application/json", **({"Authorization": f"Bearer {key}"} if api_key else {})},
            timeout=httpx2.Timeout(None),  # we keep all timeouts ourselves
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
            follow_redirects=False,
        )

    async def check(self) -> None:
        """Whether it answers a GET, with any content; see Provider. A model that it names is remembered.

        It may answer with its capabilities: `{"models": ["a", "b"]}` or `{"model": "a"}`.
        """
        with self.endpoint.explaining() as call:
            await self._check(call)

    async def _check(self, call: Call) -> None:
        try:
            async with (
                timeouts.timeout(self._check_timeout_s),
                self._client.stream("GET", self._url) as response,
            ):
                call.response = response
                if response.status_code in (401, 403):
                    raise classify_status(response.status_code, (), f"{self._key_is}: HTTP {response.status_code}")
                if response.status_code == 200 and not self._asked_for and _is_json(response):
                    self.model = await _model_offered(response) or "agent"
        except TimeoutError:
            detail = f"AGENT_API_URL does not answer its capability check within {self._check_timeout_s:g} s"
            raise ProviderError("provider_timeout", detail, retryable=True) from None
        except _ERRORS.errors as error:
            failure = _ERRORS.classify(error)
            detail = f"AGENT_API_URL cannot be reached: {failure}"
            raise ProviderError(
                failure.code, detail, retryable=failure.retryable, misconfigured=failure.misconfigured
            ) from error

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """The answer, part by part; see Provider. Nothing is yielded before the whole answer has arrived."""
        asked = prompt.model or self._asked_for
        with self.endpoint.explaining(asked) as call:
            body = await self._ask(call, _request(prompt, asked))
            answer = agent_answer.read(body, asked or self.model)
        for token in tokenize(answer.reasoning):
            yield Reasoning(token)
        for data in answer.data:
            yield data
        for token in tokenize(answer.text):
            yield Text(token)
        yield answer.finished

    async def aclose(self) -> None:
        """Close idle connections; called once, after the last stream has ended."""
        await self._client.aclose()

    async def _ask(self, call: Call, question: bytes) -> bytes:
        """The body of a good answer."""
        streaming = False
        headers = {"Content-Type": "application/json"}
        try:
            async with (
                timeouts.timeout(self._answer_timeout_s),
                self._client.stream("POST", self._url, content=question, headers=headers) as response,
            ):
                call.response = response
                if not response.is_success:
                    raise await _refused(response)
                if not _is_json(response):
                    detail = f"the answer is {_kind(response)}, not application/json"
                    raise ProviderError("provider_error", detail, retryable=True)
                streaming = True
                return await _read(response, MAX_BODY_BYTES)
        except TimeoutError:
            detail = f"no answer within {self._answer_timeout_s:g} s"
            raise ProviderError("provider_timeout", detail, retryable=True) from None
        except _ERRORS.errors as error:
            raise _ERRORS.classify(error, streaming=streaming) from error


def _request(prompt: Prompt, model: str) -> bytes:
    members = {
        "session": prompt.session,
        "generation": prompt.generation,
        "messages": without_blank(prompt.turns),
        "model": model or None,
        "max_tokens": prompt.max_tokens,
        "metadata": prompt.metadata,
        "options": prompt.options,
    }
    return msgspec.json.encode({name: value for name, value in members.items() if value is not None})


async def _refused(response: httpx2.Response) -> ProviderError:
    """The error for any status but 2xx. Of the body only codes are read: servers quote keys and prompts in the rest."""
    status = response.status_code
    if response.is_redirect:
        detail = f"HTTP {status}: AGENT_API_URL redirects, which is not followed; set it to where that leads"
        return ProviderError("provider_error", detail, retryable=False, status=status, misconfigured=True)
    if status in _NOT_HERE:
        detail = f"HTTP {status}: nobody takes a POST at AGENT_API_URL"
        return ProviderError("provider_error", detail, retryable=False, status=status, misconfigured=True)
    try:
        names = agent_answer.error_names(await _read(response, access.MAX_ERROR_BYTES))
    except _UNREADABLE:
        names = []  # the status says enough
    detail = " ".join([f"HTTP {status}", *filter(is_word, names)])
    return classify_status(status, names, detail, response.headers)


def _kind(response: httpx2.Response) -> str:
    """Its media type, if it is one."""
    sent = response.headers.get("content-type", "").partition(";")[0].strip()
    return sent if _MEDIA_TYPE.match(sent) else "of no type"


def _is_json(response: httpx2.Response) -> bool:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


async def _model_offered(response: httpx2.Response) -> str | None:
    try:
        return agent_answer.model_offered(await _read(response, access.MAX_ERROR_BYTES))
    except _UNREADABLE:
        return None  # it has answered, and `check` asks for no more


async def _read(response: httpx2.Response, limit: int) -> bytes:
    """The decoded body. Raises ProviderError as soon as it is longer than `limit` bytes."""
    body = bytearray()
    async with aclosing(response.aiter_bytes()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > limit:
                raise ProviderError("provider_error", f"the answer has more than {limit} bytes", retryable=False)
    return bytes(body)
