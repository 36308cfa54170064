"""What the log says of a failed call: where it went, the provider's own names for it, and the setting to look at."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any

import httpx2
import pytest

from relay import timeouts
from relay_workers.providers.agent import AgentProvider
from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Prompt, Provider, ProviderError, Turn, describe
from relay_workers.providers.endpoint import Endpoint, Remote
from relay_workers.providers.openai import OpenAIProvider
from relay_workers.providers.openai_background import OpenAIBackgroundProvider
from tests.fakes.provider import FakeProvider, Script
from tests.fakes.raw_server import http, raw_server

KEY = "correct-horse-battery-staple"
QUESTION = "Where did I leave the spare keys to Nakatomi Plaza?"
PAGE = "<!doctype html><title>Welcome</title>"
HTML = {"content_type": "text/html; charset=utf-8"}
EVENTS = {"content_type": "text/event-stream"}
JSON = {"content_type": "application/json"}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def provider_at(api: str, url: str, key: str | None = KEY, model: str = "some-model") -> Provider:
    match api:
        case "openai":
            return OpenAIProvider(key, url, model, 5)
        case "background":
            return OpenAIBackgroundProvider(key, url, model, 5)
        case "anthropic":
            return AnthropicProvider(key, url, model, 5)
    return AgentProvider(url, key, 5)


async def failure_at(api: str, url: str, **given: Any) -> ProviderError:
    provider = provider_at(api, url, **given)
    try:
        with pytest.raises(ProviderError) as caught:
            [part async for part in provider.stream(Prompt([Turn("user", QUESTION)]))]
    finally:
        await provider.aclose()
    return caught.value


async def failure_of(api: str, answer: bytes, path: str = "", **given: Any) -> ProviderError:
    async with raw_server(answer) as url:
        return await failure_at(api, url + path, **given)


NO_MODEL = json.dumps({"error": {"message": "The model `some-model` does not exist", "code": "model_not_found"}})
NOT_FOUND = json.dumps({"type": "error", "error": {"type": "not_found_error", "message": "model: some-model"}})
FASTAPI = json.dumps({"detail": "Not Found"})
QUOTA = json.dumps({"error": {"message": "You exceeded your quota", "type": "insufficient_quota"}})
IN_STREAM = b'data: {"error": {"message": "bad key", "code": "invalid_api_key"}}\n\n'
NO_V1 = "OPENAI_BASE_URL has no /v1: "
FIT = "does its path fit?"


@pytest.mark.parametrize(
    ("api", "answer", "path", "beginning", "end"),
    [
        pytest.param("openai", http(404, FASTAPI, **JSON), "", NO_V1, "/v1", id="404, no /v1"),
        pytest.param("openai", http(404, PAGE, **HTML), "/", NO_V1, "/v1", id="404 in HTML, no /v1"),
        pytest.param("openai", http(404), "/api", NO_V1, "/api/v1", id="404 without a body, no /v1"),
        pytest.param("openai", http(405, FASTAPI, **JSON), "", NO_V1, "/v1", id="405, no /v1"),
        pytest.param("openai", http(200, PAGE, **HTML), "", NO_V1, "/v1", id="200 in HTML, no /v1"),
        pytest.param("openai", http(200, PAGE), "", NO_V1, "/v1", id="200 in HTML of no type, no /v1"),
        pytest.param("openai", http(404, FASTAPI, **JSON), "/v2", "OPENAI_BASE_URL: HTTP 404 ", FIT, id="404, /v2"),
        pytest.param("openai", http(404, PAGE), "/v1/x", "OPENAI_BASE_URL: HTTP 404 and a web page", FIT, id="/v1/x"),
        pytest.param("openai", http(200, PAGE, **HTML), "/v1", "OPENAI_BASE_URL: HTTP 200 and a web", FIT, id="HTML"),
        pytest.param(
            "openai", http(404, FASTAPI, **JSON), "/v1/chat/completions", "OPENAI_BASE_URL must end before ", "to it",
            id="the whole path",
        ),
        pytest.param("openai", http(502, PAGE, **HTML), "/v1", "OPENAI_BASE_URL: HTTP 502", "its place", id="502"),
        pytest.param("openai", http(503, PAGE, **HTML), "", "OPENAI_BASE_URL: HTTP 503", "its place", id="503, no /v1"),
        pytest.param("openai", http(429, PAGE, **HTML), "/v1", "OPENAI_BASE_URL: HTTP 429", "its place", id="429"),
        pytest.param("openai", http(404, NO_MODEL, **JSON), "/v1", "RELAY_MODEL, ", ": some-model", id="model"),
        pytest.param("openai", http(403, NO_MODEL, **JSON), "/v1", "RELAY_MODEL, ", ": some-model", id="model, 403"),
        pytest.param("anthropic", http(404, NOT_FOUND, **JSON), "", "RELAY_MODEL, ", ": some-model", id="model of a"),
        pytest.param("anthropic", http(404, FASTAPI, **JSON), "/x", "ANTHROPIC_BASE_URL: HTTP 404", FIT, id="404 of a"),
        pytest.param("anthropic", http(200, PAGE), "", "ANTHROPIC_BASE_URL: HTTP 200 and a web", FIT, id="HTML of a"),
        pytest.param("openai", http(401, "{}", **JSON), "/v1", "OPENAI_API_KEY is refused; ", "?", id="401"),
        pytest.param("openai", http(403, PAGE, **HTML), "/v1", "OPENAI_API_KEY is refused, or ", "?", id="403"),
        pytest.param("anthropic", http(401, "{}", **JSON), "", "ANTHROPIC_API_KEY is refused", "?", id="401 of a"),
        pytest.param("openai", http(200, IN_STREAM, **EVENTS), "/v1", "OPENAI_API_KEY is ref", "?", id="401 in stream"),
        pytest.param("openai", http(429, QUOTA, **JSON), "/v1", "OPENAI_API_KEY: its account", "left", id="quota"),
        pytest.param("openai", http(402, "{}", **JSON), "/v1", "OPENAI_API_KEY: its account", "left", id="402"),
        pytest.param("agent", http(401, "{}", **JSON), "/ask", "AGENT_API_KEY is refused", "?", id="401 of an agent"),
        pytest.param("openai", b"SSH-2.0-OpenSSH\r\n\r\n", "/v1", "OPENAI_BASE_URL: what listens", "?", id="no HTTP"),
        pytest.param("background", http(404, FASTAPI, **JSON), "", NO_V1, "/v1", id="background, no /v1"),
        pytest.param("background", http(401, "{}", **JSON), "/v1", "OPENAI_API_KEY is refused", "?", id="background"),
    ],
)  # fmt: skip
async def test_the_hint_names_the_setting(api: str, answer: bytes, path: str, beginning: str, end: str) -> None:
    error = await failure_of(api, answer, path)
    assert error.hint is not None
    assert error.hint.startswith(beginning)
    assert error.hint.endswith(end)
    assert "//" not in error.hint.replace("http://", "")
    assert "\n" not in error.hint
    assert error.log_fields["hint"] == error.hint


@pytest.mark.parametrize(
    "answer",
    [
        http(500, "{}", **JSON),
        http(503),
        http(429, "{}", **JSON),
        http(400, json.dumps({"error": {"message": "too long", "code": "context_length_exceeded"}}), **JSON),
        http(400, json.dumps({"error": {"code": "content_filter"}}), **JSON),
        http(403, json.dumps({"error": {"code": "content_filter"}}), **JSON),
        http(200, b'data: {"error": {"message": "busy", "code": 503}}\n\n', **EVENTS),
        http(200, b"", **EVENTS),
        http(200, b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n', **HTML),
        b"",
    ],
)
async def test_where_no_setting_is_to_blame_there_is_no_hint(answer: bytes) -> None:
    assert (await failure_of("openai", answer, "/v1")).hint is None


@pytest.mark.parametrize("api", ["openai", "anthropic", "agent"])
async def test_without_a_key_the_hint_says_so(api: str) -> None:
    error = await failure_of(api, http(401, "{}", **JSON), "/v1" if api == "openai" else "", key=None)
    assert error.hint == f"{api.upper()}_API_KEY is not set, and the server wants a key"


@pytest.mark.parametrize("api", ["openai", "anthropic", "agent"])
async def test_where_nobody_listens_the_hint_names_the_address_in_the_check_as_well(api: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening: refused
        port = unused.getsockname()[1]
        query = "?token=hunter2" if api == "agent" else ""
        url = f"http://user:hunter2@127.0.0.1:{port}/v1x{query}"
        provider = provider_at(api, url)
        with pytest.raises(ProviderError) as checked:
            await provider.check()
        await provider.aclose()
        for error in (checked.value, await failure_at(api, url)):
            assert error.hint is not None
            assert error.hint.startswith(f"{api.upper()}_BASE_URL: no" if api != "agent" else "AGENT_API_URL: no ")
            assert f"127.0.0.1:{port}" in error.hint
            assert (error.host, error.path) == (f"127.0.0.1:{port}", _asked(api, "/v1x"))
            assert "hunter2" not in str(describe(error)) + error.hint


def _asked(api: str, path: str) -> str:
    return path + {"openai": "/chat/completions", "anthropic": "/v1/messages"}.get(api, "")


async def test_a_server_without_tls_is_named_so() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(400))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await failure_at("openai", f"https://127.0.0.1:{port}/v1")
    assert error.hint is not None
    assert error.hint.startswith("OPENAI_BASE_URL: no TLS with 127.0.0.1")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_where_a_redirect_led_nowhere_the_hint_says_whereto(status: int) -> None:
    def answer(line: str) -> bytes:
        if line.split()[1].startswith("/v1"):
            return http(status, PAGE, location="/new/v1/chat/completions?token=hunter2", **HTML)
        return http(404, PAGE, **HTML)

    async with raw_server(answer) as url:
        error = await failure_at("openai", f"{url}/v1")
        assert error.hint == f"OPENAI_BASE_URL redirects to {url}/new/v1: set it to where the API is"
        assert (error.status, error.path) == (404, "/new/v1/chat/completions")


async def test_a_redirect_that_worked_is_not_to_blame_for_a_busy_server() -> None:
    def answer(line: str) -> bytes:
        return http(307, location="/new/chat/completions") if "/v1" in line else http(503, "{}", **JSON)

    async with raw_server(answer) as url:
        error = await failure_at("openai", f"{url}/v1")
    assert (error.status, error.hint) == (503, None)


async def test_a_redirect_in_a_circle_is_named_so() -> None:
    error = await failure_of("openai", http(307, location="/v1/chat/completions"), "/v1")
    assert error.misconfigured
    assert error.hint is not None
    assert error.hint.startswith("OPENAI_BASE_URL redirects in a circle")


async def test_a_redirect_of_an_agent_is_named_with_its_target() -> None:
    error = await failure_of("agent", http(307, location="https://elsewhere.example.org/x"), "/ask")
    assert (error.misconfigured, error.status, error.path) == (True, 307, "/ask")
    assert error.hint == "AGENT_API_URL redirects to https://elsewhere.example.org/x: set it to where the API is"


# What the log has besides


@pytest.mark.parametrize("api", ["openai", "anthropic", "background", "agent"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda **headers: http(503, "{}", **JSON, **headers), id="a status"),
        pytest.param(
            lambda **headers: http(200, b'data: {"error": {"code": 500}}\n\n', **EVENTS, **headers), id="event"
        ),
        pytest.param(lambda **headers: http(200, b'{"error": {"code": 500}}', **JSON, **headers), id="whole"),
    ],
)
async def test_every_failure_has_host_path_and_the_responses_own_id(api: str, answer: Any) -> None:
    async with raw_server(answer(x_request_id="req_abc-123/x=", cf_ray="99")) as url:
        error = await failure_at(api, f"{url}/v1x")
        assert error.host == url.removeprefix("http://")
    assert error.request_id == "req_abc-123/x="
    routes = {"openai": "/v1x/chat/completions", "anthropic": "/v1x/v1/messages", "background": "/v1x/responses"}
    assert error.path == routes.get(api, "/v1x")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"request_id": "a"}, "a"),
        ({"x_ms_request_id": "a"}, "a"),
        ({"apim_request_id": "a"}, "a"),
        ({"x_amzn_requestid": "a"}, "a"),
        ({"x_goog_request_id": "a"}, "a"),
        ({"x_litellm_call_id": "a"}, "a"),
        ({"openai_request_id": "a"}, "a"),
        ({"x_correlation_id": "a"}, "a"),
        ({"cf_ray": "8f-FRA"}, "8f-FRA"),
        ({"x_request_id": "", "cf_ray": "b"}, "b"),
        ({"x_request_id": "a b", "cf_ray": "c"}, "c"),
        ({"x_request_id": "x" * 129}, None),
        ({"x_request_id": "\xa0"}, None),
        ({"x_request_id": KEY}, None),
        ({"x_request_id": f"Bearer {KEY}"}, None),
        ({"x_request_id": "sk-0123456789"}, None),
        ({}, None),
    ],
)
async def test_the_id_is_the_first_that_can_be_one(headers: dict[str, str], expected: str | None) -> None:
    error = await failure_of("openai", http(500, "{}", **JSON, **headers), "/v1")
    assert error.request_id == expected


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"error": {"code": "unsupported_parameter", "param": "max_tokens"}}, "unsupported_parameter", "max_tokens"),
        ({"error": {"type": "invalid_request_error", "code": None, "param": None}}, "invalid_request_error", None),
        ({"error": {"type": "x_error", "code": 422}}, "x_error", None),
        ({"error": {"code": 422}}, "422", None),
        ({"detail": [{"loc": ["body", "stream_options"], "msg": "no"}]}, None, "body.stream_options"),
        ({"object": "error", "message": "m", "type": "BadRequestError", "param": "messages[0].content", "code": 400},
         "BadRequestError", "messages[0].content"),
        ({"error": {"code": "no such code", "param": "of two words"}}, None, None),
        ({"error": {"code": KEY, "param": KEY}}, None, None),
        ({"error": {"code": "sk-0123456789abc", "param": "sk-0123456789abc"}}, None, None),
        ({"error": {"code": ["x"], "param": {"x": 1}}}, None, None),
        ([{"error": {"code": 7, "status": "INVALID_ARGUMENT"}}], "INVALID_ARGUMENT", None),
        ("nothing", None, None),
        (None, None, None),
    ],
)  # fmt: skip
async def test_the_providers_own_names_are_words(body: Any, code: str | None, param: str | None) -> None:
    error = await failure_of("openai", http(422, json.dumps(body), **JSON), "/v1")
    assert (error.provider_code, error.param) == (code, param)


SAID = f"Sorry, {KEY} and sk-abcdef0123 are refused\r\n\x1b[31mfor: " + "x y " * 1000


@pytest.mark.parametrize("api", ["openai", "anthropic", "agent"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(http(400, json.dumps({"error": {"message": SAID}}), **JSON), id="a status"),
        pytest.param(http(400, SAID, content_type="text/plain"), id="text"),
        pytest.param(http(200, json.dumps({"error": {"message": SAID}}), **JSON), id="whole"),
        pytest.param(http(200, f"data: {json.dumps({'error': {'message': SAID}})}\n\n", **EVENTS), id="event"),
    ],
)
async def test_the_providers_sentence_is_kept_apart_bounded_and_without_keys(api: str, answer: bytes) -> None:
    error = await failure_of(api, answer, "/api")
    if error.said is None:
        assert api == "agent", "which reads no sentence of an answer with status 200"
    else:
        assert error.said.startswith("Sorry, [masked] and [masked] are refused [31mfor: x y")
        assert len(error.said) <= 500
    assert "Sorry" not in str(error) + str(describe(error))


def test_a_failure_that_nobody_answered_is_explained_by_the_settings_alone_and_once() -> None:
    endpoint = Endpoint(httpx2.URL("https://u:p@h.example/v1/?q=1"), "OPENAI_BASE_URL", "OPENAI_API_KEY", KEY, "/chat")
    error = endpoint.explain(ProviderError("provider_timeout", f"no token for {KEY}", retryable=True))
    assert (error.host, error.path, error.hint, str(error)) == (
        "h.example", "/v1/chat", None, "no token for [masked]",
    )  # fmt: skip
    assert Endpoint(httpx2.URL("http://other"), "A", "B").explain(error).host == "h.example"
    assert endpoint.address == "https://h.example/v1"
    assert KEY not in repr(endpoint)


async def test_every_provider_that_asks_elsewhere_says_where() -> None:
    for api in ("openai", "background", "anthropic", "agent"):
        provider = provider_at(api, "http://127.0.0.1:9/x")
        assert isinstance(provider, Remote)
        assert provider.endpoint.address == "http://127.0.0.1:9/x"
        await provider.aclose()


async def test_a_refused_question_to_a_fake_of_either_api_says_all_that_an_operator_needs() -> None:
    async with FakeProvider(Script(status=400, status_headers={"request-id": "r1"})) as fake:
        for api, url in (("openai", fake.openai_base_url), ("anthropic", fake.anthropic_base_url)):
            fields = describe(await failure_at(api, url))
            assert fields["host"] == url.split("/")[2]
            assert (fields["code"], fields["status"], fields["request_id"]) == ("provider_error", 400, "r1")


@pytest.mark.parametrize("api", ["openai", "anthropic", "background"])
async def test_a_deadline_of_the_callers_knows_where_the_call_went(api: str) -> None:
    first = b'data: {"type": "response.created", "response": {"id": "r"}, "sequence_number": 0}\n\n'
    async with raw_server(http(200, first, x_request_id="req-7", **EVENTS), stalls=True) as url:
        provider = provider_at(api, url)
        assert isinstance(provider, Remote)
        failure = ProviderError("provider_timeout", "no first token", retryable=True)
        try:
            async with timeouts.timeout(0.5):
                [part async for part in provider.stream(Prompt([Turn("user", QUESTION)]))]
        except TimeoutError as error:
            failure.__context__ = error
        provider.endpoint.explain(failure)
        await provider.aclose()
    assert failure.request_id == "req-7"
    assert failure.path == {"openai": "/chat/completions", "anthropic": "/v1/messages"}.get(api, "/responses")


async def test_a_redirect_to_a_dead_server_is_named_and_not_the_one_that_answered() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{unused.getsockname()[1]}"
        failure = await failure_of("openai", http(307, b"", location=f"http://{dead}/v1/chat/completions"))
    assert failure.host == dead
    assert dead in str(failure.hint)
    assert "redirects" in str(failure.hint)


async def test_a_background_server_without_that_route_is_named_by_the_setting_that_chose_it() -> None:
    failure = await failure_of("background", http(404, b"{}", **JSON), "/v1")
    assert "RELAY_OPENAI_BACKGROUND" in str(failure.hint)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        *((code, "RELAY_MODEL") for code in ("model_not_found", "ModelNotFound", "DeploymentNotFound")),
        *((code, "no credit") for code in ("insufficient_quota", "billing_not_active", "insufficient_balance")),
    ],
)
async def test_a_code_says_which_setting_to_look_at(code: str, hint: str) -> None:
    body = json.dumps({"error": {"code": code, "message": "x"}})
    assert hint in str((await failure_of("openai", http(400, body, **JSON), "/v1")).hint)
