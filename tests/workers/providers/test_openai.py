"""The openai provider: the real SDK against a real HTTP server, every way in which an answer can come or fail."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest

from relay.errors import SettingsError
from relay_workers.providers.base import (
    Finished,
    Part,
    Prompt,
    ProviderError,
    ProviderErrorCode,
    Reasoning,
    Text,
    TextComplete,
    Turn,
)
from relay_workers.providers.failures import ErrorClassifier
from relay_workers.providers.openai import OpenAIProvider
from relay_workers.writing.text_repair import TextRepair
from tests.fakes.provider import FakeProvider, Script

HELLO = Prompt([Turn("system", "Be brief."), Turn("user", "Hello?"), Turn("assistant", "Yes?"), Turn("user", "Go on.")])
WILD = ["👩‍👩‍👧", " e\u0301", "\u0301", " 日本", "語", "", " 🗺", "\ufe0f", "\n\n", ' <b>&amp;\\" ', "\u2028", " fin"]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OPENAI_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@asynccontextmanager
async def provider_of(fake: FakeProvider, **options: Any) -> AsyncIterator[OpenAIProvider]:
    provider = OpenAIProvider(None, fake.openai_base_url, "test-model", connect_timeout_s=5, **options)
    try:
        yield provider
    finally:
        await provider.aclose()


async def parts_of(script: Script, prompt: Prompt = HELLO, **options: Any) -> list[Part]:
    async with FakeProvider(script) as fake, provider_of(fake, **options) as provider:
        return [part async for part in provider.stream(prompt) if not isinstance(part, TextComplete)]


async def failure_of(script: Script, **options: Any) -> tuple[list[Part], ProviderError]:
    """The parts that came before the failure, and the failure."""
    parts: list[Part] = []
    async with FakeProvider(script) as fake, provider_of(fake, **options) as provider:
        try:
            async for part in provider.stream(HELLO):
                parts.append(part)
        except ProviderError as error:
            return parts, error
    pytest.fail(f"no ProviderError after {parts}")


# What a good answer looks like


async def test_the_text_arrives_exactly_and_then_one_finish_with_the_usage() -> None:
    parts = await parts_of(Script(tokens=WILD, usage={"prompt_tokens": 11, "completion_tokens": 7}))

    assert parts == [
        *(Text(token) for token in WILD if token),
        Finished("stop", "test-model", {"input_tokens": 11, "output_tokens": 7}),
    ]


async def test_a_surrogate_pair_split_over_two_deltas_arrives_as_halves_that_mending_joins() -> None:
    parts = await parts_of(Script(tokens=["a", "\ud83d", "\ude00", "b"]))

    deltas = [part.text for part in parts if isinstance(part, Text)]
    assert deltas == ["a", "\ud83d", "\ude00", "b"]
    mender = TextRepair()
    assert [token for delta in deltas for token in mender.feed(delta)] == ["a", "😀", "b"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_comes_apart_from_the_text(field: Any) -> None:
    script = Script(tokens=["Yes."], reasoning=["Hm", "…"], reasoning_field=field)

    assert (await parts_of(script))[:-1] == [Reasoning("Hm"), Reasoning("…"), Text("Yes.")]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "filter"), ("tool_calls", "other"), ("new", "other")],
)
async def test_the_finish_is_the_models_own(reason: str, finish: str) -> None:
    *_, last = await parts_of(Script(tokens=["x"], finish_reason=reason))
    assert isinstance(last, Finished)
    assert last.finish == finish


async def test_a_refusal_is_text_with_finish_filter() -> None:
    *texts, last = await parts_of(Script(refusal=["I can't", " help."], finish_reason="stop"))

    assert texts == [Text("I can't"), Text(" help.")]
    assert isinstance(last, Finished)
    assert last.finish == "filter"


async def test_the_request_holds_the_whole_context_and_asks_for_a_stream_with_usage() -> None:
    prompt = Prompt(HELLO.turns, model="other-model", max_tokens=5)
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake) as provider:
        parts = [part async for part in provider.stream(prompt)]

    assert fake.calls[0].body == {
        "model": "other-model",
        "messages": [{"role": turn.role, "content": turn.content} for turn in HELLO.turns],
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert fake.calls[0].headers["authorization"] == "Bearer none"
    assert fake.calls[0].prompt == "Go on."
    assert isinstance(parts[-1], Finished)
    assert parts[-1].model == "other-model"


async def test_no_limit_is_sent_where_none_was_asked_for() -> None:
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)]
    assert not {"max_tokens", "max_completion_tokens"} & set(fake.calls[0].body)


async def test_answers_run_at_once_and_one_connection_serves_one_after_the_other() -> None:
    async with FakeProvider(Script(tokens=["x", "y"], hold_before=1)) as fake, provider_of(fake) as provider:
        streams = [provider.stream(HELLO) for _ in range(3)]
        assert [await anext(stream) for stream in streams] == [Text("x")] * 3
        fake.release()
        assert [len([part async for part in stream]) for stream in streams] == [3] * 3
        connections = len(fake.connections)
        fake.script = Script(tokens=["z"])
        assert Text("z") in [part async for part in provider.stream(HELLO)]
        assert len(fake.connections) == connections == 3


# How it can fail

DEEP = '{"choices": [], "usage": {"details": %s}}' % ("[" * 100_000 + "]" * 100_000)
FAILED = '{"error": {"message": "no", "type": "%s", "code": "%s"}}'


@pytest.mark.parametrize(
    ("script", "code", "retryable", "status"),
    [
        pytest.param(Script(status=500), "provider_error", True, 500, id="500"),
        pytest.param(Script(status=529), "provider_error", True, 529, id="529"),
        pytest.param(Script(status=503, status_body="<html>"), "provider_error", True, 503, id="503 in HTML"),
        pytest.param(Script(status=408), "provider_error", True, 408, id="408"),
        pytest.param(Script(status=409), "provider_error", True, 409, id="409"),
        pytest.param(
            Script(status=429, status_headers={"retry-after": "7"}), "provider_rate_limited", True, 429, id="429"
        ),
        *(
            pytest.param(Script(status=status), "provider_error", False, status, id=str(status))
            for status in (400, 401, 402, 403, 404, 413, 422)
        ),
        pytest.param(
            Script(status=400, status_body=FAILED % ("", "content_filter")), "provider_refused", False, 400, id="filter"
        ),
        pytest.param(
            Script(status=400, status_body=FAILED % ("invalid_request_error", "content_policy_violation")),
            "provider_refused",
            False,
            400,
            id="content policy",
        ),
        pytest.param(Script(status=500, cut_after=5), "provider_error", True, 500, id="error status, body cut"),
    ],
)
async def test_a_refused_call_is_classed_by_its_status(
    script: Script, code: ProviderErrorCode, retryable: bool, status: int | None
) -> None:
    parts, error = await failure_of(script)
    assert parts == []
    assert (error.code, error.retryable, error.status) == (code, retryable, status)


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize(
    ("faults", "code", "retryable"),
    [
        pytest.param({"close_after": ...}, "truncated", True, id="clean end without finish"),
        pytest.param({"cut_after": ...}, "truncated", True, id="connection closed amid the body"),
        pytest.param({"reset_after": ...}, "truncated", True, id="connection reset"),
        pytest.param({"error_after": ...}, "provider_error", True, id="error event"),
        pytest.param(
            {"error_after": ..., "error": {"message": "", "type": "rate_limit_error"}},
            "provider_rate_limited",
            True,
            id="error event, rate limit",
        ),
        pytest.param(
            {"error_after": ..., "error": {"message": "full", "type": "TooMany", "code": 429}},
            "provider_rate_limited",
            True,
            id="error event with a status as code",
        ),
        pytest.param(
            {"error_after": ..., "error": {"message": "long", "type": "invalid_request_error", "code": "x"}},
            "provider_error",
            False,
            id="error event, our mistake",
        ),
        pytest.param(
            {"error_after": ..., "error": {"message": "no", "code": "content_filter"}},
            "provider_refused",
            False,
            id="error event, refused",
        ),
        pytest.param({"error_after": ..., "error": "overloaded"}, "provider_error", True, id="error event, a string"),
        pytest.param({"garbage_after": ...}, "provider_error", True, id="no JSON"),
        pytest.param({"garbage_after": ..., "garbage": '"\udcff"'}, "provider_error", True, id="no UTF-8"),
        pytest.param({"garbage_after": ..., "garbage": "[1]"}, "provider_error", True, id="JSON, but a list"),
        pytest.param({"garbage_after": ..., "garbage": DEEP}, "provider_error", True, id="JSON that nests too deep"),
        pytest.param({"garbage_after": ..., "garbage": '{"choices": [5]}'}, "provider_error", True, id="no choice"),
        pytest.param(
            {"garbage_after": ..., "garbage": '{"choices": [{"delta": {"content": [5]}}]}'},
            "provider_error",
            True,
            id="content that is no text",
        ),
        pytest.param(
            {"garbage_after": ..., "garbage": '{"choices": [{"delta": {}, "finish_reason": "error"}]}'},
            "provider_error",
            True,
            id="finish error",
        ),
    ],
)
async def test_a_stream_that_fails_gives_what_came_before_and_then_its_class(
    faults: dict[str, Any], code: ProviderErrorCode, retryable: bool, after: int
) -> None:
    scripted: dict[str, Any] = {name: after if value is ... else value for name, value in faults.items()}
    parts, error = await failure_of(Script(tokens=["x", "y", "z"], **scripted))
    if "reset_after" not in faults:  # a reset may overtake what was sent before it
        assert parts == [Text("x"), Text("y")][:after]
    assert (error.code, error.retryable, error.status) == (code, retryable, 429 if "429" in str(faults) else None)


async def test_a_usage_that_nests_too_deep_costs_the_usage_only() -> None:
    parts = await parts_of(Script(tokens=["x", "y"], garbage_after=3, garbage=DEEP))
    assert parts == [Text("x"), Text("y"), Finished("stop", "test-model", None)]


async def test_a_stream_that_has_everything_but_the_finish_mark_is_truncated() -> None:
    parts, error = await failure_of(Script(tokens=["x", "y"], finish_reason=None), done_ends="no")
    assert parts == [Text("x"), Text("y")]
    assert error.code == "truncated"


@pytest.mark.parametrize("fault", ["close_after", "cut_after", "error_after", "garbage_after"])
async def test_what_fails_after_the_finish_mark_costs_the_usage_only(fault: str) -> None:
    parts = await parts_of(Script(tokens=["x", "y"], **{fault: 3}))  # type: ignore[arg-type]
    assert parts == [Text("x"), Text("y"), Finished("stop", "test-model", None)]


@pytest.mark.parametrize("named", [{"a": 1}, 5, "half a \ud83d", "m" * 300, ""])
async def test_a_model_named_by_what_is_no_name_is_the_one_that_was_asked_for(named: Any) -> None:
    finish = json.dumps({"model": named, "choices": [{"delta": {}, "finish_reason": "stop"}]})
    parts = await parts_of(Script(tokens=["x"], garbage_after=1, garbage=finish))
    assert parts == [Text("x"), Finished("stop", "test-model", None)]


async def test_a_whole_answer_does_not_wait_long_for_its_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay_workers.providers.openai.TAIL_S", 0.05)
    async with FakeProvider(Script(tokens=["x"], hold_before=2)) as fake, provider_of(fake) as provider:
        parts = [part async for part in provider.stream(HELLO)]
        assert parts == [Text("x"), TextComplete(), Finished("stop", "test-model", None)]
        await fake.wait_for(lambda f: f.calls[0].client_gone_at)


async def test_odd_chunks_that_carry_no_text_are_passed_over() -> None:
    odd = ["{}", '{"choices": null}', '{"choices": [{}]}', '{"choices": [], "usage": {"prompt_tokens": null}}']
    for garbage in odd:
        _, error = await failure_of(Script(tokens=["x"], garbage_after=1, garbage=garbage))
        assert error.code == "truncated", garbage


async def test_nobody_listening_is_a_timeout_that_may_be_tried_again() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening: refused
        provider = OpenAIProvider(None, f"http://127.0.0.1:{unused.getsockname()[1]}/v1", "m", connect_timeout_s=5)
        with pytest.raises(ProviderError) as caught:
            await anext(provider.stream(HELLO))
        await provider.aclose()
    assert (caught.value.code, caught.value.retryable) == ("provider_timeout", True)


def request() -> httpx2.Request:
    return httpx2.Request("POST", "http://127.0.0.1/v1")


def wrapped(cause: Exception) -> Exception:
    """As the SDK wraps it."""
    error = openai.APIConnectionError(request=request())
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("count", [2**53, -1, 1.5])
async def test_an_odd_usage_costs_the_usage_and_not_the_answer(count: int) -> None:
    for usage in ({"prompt_tokens": count, "completion_tokens": 1}, {"prompt_tokens": 1, "completion_tokens": count}):
        parts = await parts_of(Script(tokens=["x"], usage=usage))
        assert parts[0] == Text("x")
        assert parts[-1] == Finished("stop", "test-model", None)


@pytest.mark.parametrize(
    ("error", "before", "amid", "retryable"),
    [
        (openai.APITimeoutError(request()), "provider_timeout", "provider_timeout", True),
        (httpx2.ReadTimeout("slow"), "provider_timeout", "provider_timeout", True),
        (httpx2.RemoteProtocolError("peer closed"), "provider_timeout", "truncated", True),
        (wrapped(httpx2.ReadError("reset")), "provider_timeout", "truncated", True),
        (wrapped(httpx2.DecodingError("bad gzip")), "provider_error", "provider_error", True),
        (httpx2.DecodingError("bad gzip"), "provider_error", "provider_error", True),
        (httpx2.StreamClosed(), "provider_error", "provider_error", True),
        (wrapped(httpx2.UnsupportedProtocol("ftp")), "provider_error", "provider_error", False),
        (json.JSONDecodeError("Expecting value", "x", 0), "provider_error", "provider_error", True),
    ],
)
def test_errors_without_a_status_are_classed_by_when_they_come(
    error: Exception, before: ProviderErrorCode, amid: ProviderErrorCode, retryable: bool
) -> None:
    classify = ErrorClassifier(openai).classify
    assert (classify(error).code, classify(error, streaming=True).code) == (before, amid)
    assert classify(error).retryable is retryable


def test_the_log_line_of_a_header_that_cannot_be_sent_does_not_quote_it() -> None:
    error = openai.APIConnectionError(request=httpx2.Request("GET", "http://127.0.0.1"))
    error.__cause__ = httpx2.LocalProtocolError("Illegal header value b'Bearer sk-secret '")
    line = str(ErrorClassifier(openai).classify(error))
    assert "LocalProtocolError" in line
    assert "secret" not in line


async def test_the_log_line_of_a_refused_key_does_not_quote_it() -> None:
    _, error = await failure_of(Script(status=401, status_body='{"error": {"message": "bad key: sk-secret"}}'))
    assert "401" in str(error)
    assert "secret" not in str(error)


# How it is stopped


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(Script(tokens=["x", "y"], hold_before=1), id="held amid the text"),
        pytest.param(Script(tokens=["x"] * 100_000, tokens_per_second=500), id="amid the flow"),
    ],
)
async def test_closing_the_generator_closes_the_upstream_connection(script: Script) -> None:
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        stream = provider.stream(HELLO)
        assert await anext(stream) == Text("x")
        closed_at = time.monotonic()
        await stream.aclose()

        gone_at = await fake.wait_for(lambda f: f.calls[0].client_gone_at)
        assert gone_at - closed_at < 0.5
        assert not fake.calls[0].finished
        assert fake.calls[0].sent < 1000


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(Script(hold_status=True), id="before the status line"),
        pytest.param(Script(tokens=["x"], hold_before=0), id="before the first token"),
        pytest.param(Script(tokens=["x", "y"], hold_before=1), id="amid the text"),
    ],
)
async def test_cancelling_the_reading_task_closes_the_upstream_connection(script: Script) -> None:
    async def read() -> None:
        async for _ in provider.stream(HELLO):
            pass

    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        reading = asyncio.create_task(read())
        await fake.wait_for(lambda f: f.calls and f.calls[0].held)
        cancelled_at = time.monotonic()
        reading.cancel()

        gone_at = await fake.wait_for(lambda f: f.calls[0].client_gone_at)
        assert gone_at - cancelled_at < 0.5
        with pytest.raises(asyncio.CancelledError):
            await reading


# Settings


@pytest.mark.parametrize(
    ("api_key", "base_url", "named"),
    [
        (None, None, "OPENAI_API_KEY"),
        ("", "", "OPENAI_API_KEY"),
        ("key\n", None, "OPENAI_API_KEY"),
        ("key ", None, "OPENAI_API_KEY"),
        ("schlüssel", None, "OPENAI_API_KEY"),
        ("key", "api.example.org/v1", "OPENAI_BASE_URL"),
        ("key", "ftp://api.example.org/v1", "OPENAI_BASE_URL"),
        ("key", "https://api.example.org/x?api-version=2", "OPENAI_BASE_URL must not have a query"),
        ("key", "http://127.0.0.1:port/v1", "OPENAI_BASE_URL"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(api_key: str | None, base_url: str | None, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        OpenAIProvider(api_key, base_url, "m", connect_timeout_s=5)


async def test_the_environment_does_not_reach_behind_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)]
    assert fake.calls[0].headers["authorization"] == "Bearer none"
