"""The anthropic provider: the real SDK against a real HTTP server, every way in which an answer can come or fail."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from relay.errors import SettingsError
from relay_workers.providers.anthropic import MODEL, AnthropicProvider
from relay_workers.providers.anthropic_request import MAX_TOKENS
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
from relay_workers.providers.turns import OPENING
from relay_workers.writing.text_repair import TextRepair
from tests.fakes.provider import FakeProvider, Script

HELLO = Prompt([Turn("system", "Be brief."), Turn("user", "Hello?"), Turn("assistant", "Yes?"), Turn("user", "Go on.")])
WILD = ["👩‍👩‍👧", " e\u0301", "\u0301", " 日本", "語", "", " 🗺", "\ufe0f", "\n\n", ' <b>&amp;\\" ', "\u2028", " fin"]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("ANTHROPIC_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))


@asynccontextmanager
async def provider_of(fake: FakeProvider, **options: Any) -> AsyncIterator[AnthropicProvider]:
    options = {"model": "test-model", **options}
    provider = AnthropicProvider(None, fake.anthropic_base_url, connect_timeout_s=5, **options)
    try:
        yield provider
    finally:
        await provider.aclose()


async def parts_of(script: Script, prompt: Prompt = HELLO, **options: Any) -> list[Part]:
    async with FakeProvider(script) as fake, provider_of(fake, **options) as provider:
        return [part async for part in provider.stream(prompt) if not isinstance(part, TextComplete)]


async def body_of(prompt: Prompt, **options: Any) -> dict[str, Any]:
    """What the API is asked; the fake refuses what the API would."""
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake, **options) as provider:
        assert [part async for part in provider.stream(prompt)]
        return fake.calls[0].body


async def failure_of(script: Script) -> tuple[list[Part], ProviderError]:
    """The parts that came before the failure, and the failure."""
    parts: list[Part] = []
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
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


async def test_each_token_is_there_before_the_next_one_is_sent() -> None:
    async with FakeProvider(Script(tokens=["x", "y"], hold_before=1)) as fake, provider_of(fake) as provider:
        stream = provider.stream(HELLO)
        assert await anext(stream) == Text("x")
        assert fake.calls[0].sent == 1
        fake.release()
        assert [part async for part in stream][:-1] == [Text("y"), TextComplete()]


async def test_a_surrogate_pair_split_over_two_deltas_arrives_as_halves_that_mending_joins() -> None:
    parts = await parts_of(Script(tokens=["a", "\ud83d", "\ude00", "b"]))

    deltas = [part.text for part in parts if isinstance(part, Text)]
    assert deltas == ["a", "\ud83d", "\ude00", "b"]
    mender = TextRepair()
    assert [token for delta in deltas for token in mender.feed(delta)] == ["a", "😀", "b"]


async def test_thinking_comes_apart_from_the_text() -> None:
    script = Script(tokens=["Yes."], reasoning=["Hm", " \ud83d", "\ude00", "…"])

    thoughts = [Reasoning("Hm"), Reasoning(" \ud83d"), Reasoning("\ude00"), Reasoning("…")]
    assert (await parts_of(script))[:-1] == [*thoughts, Text("Yes.")]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "filter"),
        ("tool_use", "other"),
        ("pause_turn", "other"),
        ("new", "other"),
    ],
)
async def test_the_finish_is_the_models_own(reason: str, finish: str) -> None:
    *_, last = await parts_of(Script(tokens=["x"], finish_reason=reason))
    assert isinstance(last, Finished)
    assert last.finish == finish


async def test_a_refusal_keeps_its_text_and_has_finish_filter() -> None:
    *texts, last = await parts_of(Script(tokens=["Well,"], refusal=[" I can't", " help."]))

    assert texts == [Text("Well,"), Text(" I can't"), Text(" help.")]
    assert isinstance(last, Finished)
    assert last.finish == "filter"


async def test_an_answer_without_text_is_whole() -> None:
    assert await parts_of(Script(usage={"prompt_tokens": 3, "completion_tokens": 1})) == [
        Finished("stop", "test-model", {"input_tokens": 3, "output_tokens": 1})
    ]


async def test_what_the_cache_gave_or_took_counts_as_input() -> None:
    *_, last = await parts_of(
        Script(tokens=["x"], usage={"prompt_tokens": 100, "completion_tokens": 1}, cached_tokens=90)
    )
    assert isinstance(last, Finished)
    assert last.usage == {"input_tokens": 100, "output_tokens": 1}


async def test_text_that_a_block_begins_with_counts() -> None:
    event = '{"type": "content_block_start", "index": 0, "content_block": {"type": "%s", "%s": "whole"}}'
    for kind, field, part in (("text", "text", Text("whole")), ("thinking", "thinking", Reasoning("whole"))):
        parts, _ = await failure_of(Script(garbage_after=0, garbage=event % (kind, field)))
        assert parts == [part]


# What is asked


async def test_the_request_holds_the_whole_context_with_the_system_turns_beside_it() -> None:
    turns = [*HELLO.turns, Turn("system", "Be kind."), Turn("system", " ")]
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake) as provider:
        parts = [part async for part in provider.stream(Prompt(turns, model="other-model", max_tokens=5))]

    assert fake.calls[0].body == {
        "model": "other-model",
        "system": "Be brief.\n\nBe kind.",
        "messages": [
            {"role": "user", "content": "Hello?"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Go on."},
        ],
        "max_tokens": 5,
        "stream": True,
    }
    assert fake.calls[0].api == "anthropic"
    assert fake.calls[0].prompt == "Go on."
    assert isinstance(parts[-1], Finished)
    assert parts[-1].model == "other-model"


async def test_without_a_limit_or_a_model_our_own_defaults_are_sent_and_no_system() -> None:
    body = await body_of(Prompt([Turn("user", "Hello?")]), model="")
    assert (body["max_tokens"], body["model"]) == (MAX_TOKENS, MODEL)
    assert "system" not in body


@pytest.mark.parametrize(
    ("turns", "sent"),
    [
        pytest.param(["u1", "u2", "a1", "a2", "u3"], ["u1\n\nu2", "a1\n\na2", "u3"], id="neighbours"),
        pytest.param(["a1", "u1"], [OPENING, "a1", "u1"], id="the assistant first"),
        pytest.param(["a1", "a2", "u1", "u2"], [OPENING, "a1\n\na2", "u1\n\nu2"], id="both"),
        pytest.param(["u1", "a", "u2"], ["u1\n\nu2"], id="an answer without text"),
        pytest.param(["a", "u1"], ["u1"], id="an answer without text first"),
    ],
)
async def test_the_turns_alternate_from_a_users_on(turns: list[str], sent: list[str]) -> None:
    roles: dict[str, Any] = {"u": "user", "a": "assistant"}
    made = [Turn(roles[turn[0]], turn if len(turn) > 1 else " \n") for turn in turns]
    messages = (await body_of(Prompt(made)))["messages"]
    assert [message["content"] for message in messages] == sent
    assert [message["role"] for message in messages] == ["user", "assistant", "user"][: len(sent)]


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("claude-sonnet-5-5", True),
        ("claude-fable-5", True),
        ("claude-opus-12", True),
        ("claude-haiku-4-5-20251001", False),
        ("claude-3-opus", False),
        ("another", False),
    ],
)
async def test_the_thinking_of_models_that_hide_it_is_asked_for_if_it_is_on(model: str, asked: bool) -> None:
    body = await body_of(HELLO, model=model)
    assert body.get("thinking") == ({"type": "adaptive", "display": "summarized"} if asked else None)
    assert "thinking" not in await body_of(HELLO, model=model, reasoning=False)


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


@pytest.mark.parametrize(
    ("script", "code", "retryable", "status"),
    [
        pytest.param(Script(status=500), "provider_error", True, 500, id="500"),
        pytest.param(Script(status=529), "provider_error", True, 529, id="529, overloaded"),
        pytest.param(Script(status=504), "provider_error", True, 504, id="504"),
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
        pytest.param(Script(status=500, cut_after=5), "provider_error", True, 500, id="error status, body cut"),
    ],
)
async def test_a_refused_call_is_classed_by_its_status(
    script: Script, code: ProviderErrorCode, retryable: bool, status: int | None
) -> None:
    parts, error = await failure_of(script)
    assert parts == []
    assert (error.code, error.retryable, error.status) == (code, retryable, status)


def event(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


DEEP = '{"type": "message_delta", "usage": %s}' % ("[" * 100_000 + "]" * 100_000)
TEXT = {"type": "text_delta", "text": "late"}


@pytest.mark.parametrize("after", [0, 2, 3])
@pytest.mark.parametrize(
    ("faults", "code", "retryable"),
    [
        pytest.param({"close_after": ...}, "truncated", True, id="clean end without finish"),
        pytest.param({"cut_after": ...}, "truncated", True, id="connection closed amid the body"),
        pytest.param({"reset_after": ...}, "truncated", True, id="connection reset"),
        *(
            pytest.param({"error_after": ..., "error": {"type": kind, "message": ""}}, code, retryable, id=kind)
            for kind, code, retryable in (
                ("api_error", "provider_error", True),
                ("overloaded_error", "provider_error", True),
                ("timeout_error", "provider_error", True),
                ("rate_limit_error", "provider_rate_limited", True),
                ("invalid_request_error", "provider_error", False),
                ("authentication_error", "provider_error", False),
                ("billing_error", "provider_error", False),
                ("permission_error", "provider_error", False),
                ("not_found_error", "provider_error", False),
                ("content_filter", "provider_refused", False),
            )
        ),
        pytest.param({"error_after": ..., "error": "overloaded"}, "provider_error", True, id="error event, a string"),
        *(
            pytest.param({"garbage_after": ..., "garbage": garbage}, "provider_error", True, id=name)
            for name, garbage in {
                "no JSON": '{"type": ',
                "no UTF-8": '"\udcff"',
                "JSON, but a list": "[1]",
                "JSON that nests too deep": DEEP,
                "JSON, but null": "null",
                "JSON, but a number": "5",
                "no type": "{}",
                "no delta": event("content_block_delta", index=0),
                "a delta that is none": event("content_block_delta", index=0, delta=5),
                "text that is none": event("content_block_delta", index=0, delta={**TEXT, "text": ["x"]}),
                "a message that is none": event("message_start", message="x"),
            }.items()
        ),
    ],
)
async def test_a_stream_that_fails_gives_what_came_before_and_then_its_class(
    faults: dict[str, Any], code: ProviderErrorCode, retryable: bool, after: int
) -> None:
    scripted: dict[str, Any] = {name: after if value is ... else value for name, value in faults.items()}
    parts, error = await failure_of(Script(tokens=["x", "y", "z"], **scripted))
    if "reset_after" not in faults:  # a reset may overtake what was sent before it
        assert parts == [Text("x"), Text("y"), Text("z")][:after]
    kind = scripted["error"]["type"] if isinstance(scripted.get("error"), dict) else ""
    status = {"authentication_error": 401, "billing_error": 402, "permission_error": 403}.get(kind)
    assert (error.code, error.retryable, error.status) == (code, retryable, status)
    assert error.is_sick is (retryable or status is not None)  # the next question meets the same key


async def test_a_stream_that_has_everything_but_the_finish_mark_is_truncated() -> None:
    parts, error = await failure_of(Script(tokens=["x", "y"], finish_reason=None))
    assert parts == [Text("x"), Text("y")]
    assert error.code == "truncated"


async def test_a_stop_without_a_reason_is_a_finish_too() -> None:
    parts = await parts_of(Script(tokens=["x"], garbage_after=1, garbage=event("message_stop")))
    assert parts == [Text("x"), Finished("other", "test-model", None)]


@pytest.mark.parametrize("fault", ["close_after", "cut_after", "error_after", "garbage_after"])
async def test_what_fails_after_the_finish_mark_costs_nothing(fault: str) -> None:
    script = Script(tokens=["x", "y"], usage={"prompt_tokens": 3, "completion_tokens": 2}, **{fault: 3})  # type: ignore[arg-type]
    assert await parts_of(script) == [
        Text("x"),
        Text("y"),
        Finished("stop", "test-model", {"input_tokens": 3, "output_tokens": 2}),
    ]


@pytest.mark.parametrize("usage", [None, "5", {"output_tokens": "many"}])
async def test_a_finish_mark_with_a_usage_that_is_none_costs_the_usage_only(usage: Any) -> None:
    mark = event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    parts = await parts_of(Script(tokens=["x"], garbage_after=1, garbage=mark))
    assert parts == [Text("x"), Finished("stop", "test-model", None)]


@pytest.mark.parametrize("named", [{"a": 1}, 5, "half a \ud83d", "m" * 300, ""])
async def test_a_model_named_by_what_is_no_name_is_the_one_that_was_asked_for(named: Any) -> None:
    start, stop = event("message_start", message={"model": named, "usage": None}), event("message_stop")
    garbage = f"{start}\n\nevent: message_stop\ndata: {stop}"
    parts = await parts_of(Script(tokens=["x"], garbage_after=1, garbage=garbage))
    assert parts == [Text("x"), Finished("other", "test-model", None)]


async def test_a_whole_answer_does_not_wait_long_for_the_end_of_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay_workers.providers.anthropic.TAIL_S", 0.05)
    script = Script(tokens=["x"], hold_before=2, usage={"prompt_tokens": 3, "completion_tokens": 1})
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)] == [
            Text("x"),
            TextComplete(),
            Finished("stop", "test-model", {"input_tokens": 3, "output_tokens": 1}),
        ]
        await fake.wait_for(lambda f: f.calls[0].client_gone_at)


async def test_events_and_deltas_without_text_are_passed_over() -> None:
    odd = [
        event("new_event", delta=TEXT),
        event("content_block_start", index=9, content_block={"type": "tool_use", "id": "t", "name": "n", "input": {}}),
        event("content_block_start", index=9, content_block={"type": "redacted_thinking", "data": "x"}),
        event("content_block_delta", index=9, delta={"type": "input_json_delta", "partial_json": "{"}),
        event("content_block_delta", index=9, delta={"type": "citations_delta", "citation": 5}),
        event("content_block_delta", index=9, delta={"type": "text_delta"}),
        event("content_block_delta", index=9, delta={"type": "thinking_delta", "thinking": 5}),
        event("message_delta", delta={"stop_reason": ["x"]}),
        event("content_block_delta", index=9, delta={"type": "new_delta", "text": "x"}),
        event("content_block_stop"),
        event("message_delta", delta={"stop_reason": None}, usage=None),
    ]
    for garbage in odd:
        parts, error = await failure_of(Script(tokens=["x"], garbage_after=1, garbage=garbage))
        assert parts == [Text("x")], garbage
        assert error.code == "truncated", garbage


async def test_nobody_listening_is_a_timeout_that_may_be_tried_again() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening: refused
        provider = AnthropicProvider(None, f"http://127.0.0.1:{unused.getsockname()[1]}", "m", connect_timeout_s=5)
        with pytest.raises(ProviderError) as caught:
            await anext(provider.stream(HELLO))
        await provider.aclose()
    assert (caught.value.code, caught.value.retryable) == ("provider_timeout", True)


async def test_silence_amid_the_stream_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay_workers.providers.access._READ_TIMEOUT_S", 0.05)
    parts, error = await failure_of(Script(tokens=["x", "y"], hold_before=1))
    assert parts == [Text("x")]
    assert (error.code, error.retryable) == ("provider_timeout", True)


def request() -> httpx2.Request:
    return httpx2.Request("POST", "http://127.0.0.1/v1/messages")


def wrapped(cause: Exception) -> Exception:
    """As the SDK wraps it."""
    error = anthropic.APIConnectionError(request=request())
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
        (anthropic.APITimeoutError(request()), "provider_timeout", "provider_timeout", True),
        (httpx2.ReadTimeout("slow"), "provider_timeout", "provider_timeout", True),
        (httpx2.RemoteProtocolError("peer closed"), "provider_timeout", "truncated", True),
        (wrapped(httpx2.ReadError("reset")), "provider_timeout", "truncated", True),
        (httpx2.ReadError("reset"), "provider_timeout", "truncated", True),
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
    failures = ErrorClassifier(anthropic)
    assert isinstance(error, failures.errors)
    assert (failures.classify(error).code, failures.classify(error, streaming=True).code) == (before, amid)
    assert failures.classify(error).retryable is retryable


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            Script(status=401, status_body=event("error", error={"type": "authentication_error", "message": "secret"})),
            id="a refused key",
        ),
        pytest.param(Script(status=500, status_body="secret"), id="an error without JSON"),
        pytest.param(
            Script(tokens=["x"], error_after=1, error={"type": "authentication_error", "message": "secret"}),
            id="an error event",
        ),
        pytest.param(Script(tokens=["x"], error_after=1, error="secret"), id="an error event that is a string"),
    ],
)
async def test_the_log_line_does_not_quote_what_the_server_said(script: Script) -> None:
    _, error = await failure_of(script)
    assert "secret" not in str(error)
    assert ("authentication_error" in str(error)) is ("authentication_error" in repr(script))


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
        (None, None, "ANTHROPIC_API_KEY"),
        ("", "", "ANTHROPIC_API_KEY"),
        ("key\n", None, "ANTHROPIC_API_KEY"),
        ("key ", None, "ANTHROPIC_API_KEY"),
        ("schlüssel", None, "ANTHROPIC_API_KEY"),
        ("key", "api.example.org", "ANTHROPIC_BASE_URL"),
        ("key", "ftp://api.example.org", "ANTHROPIC_BASE_URL"),
        ("key", "https://api.example.org/x?api-version=2", "ANTHROPIC_BASE_URL must not have a query"),
        ("key", "http://127.0.0.1:port", "ANTHROPIC_BASE_URL"),
        ("key", "https://api.example.org/v1", "ANTHROPIC_BASE_URL must not end in /v1"),
        ("key", "https://api.example.org/proxy/v1/", "ANTHROPIC_BASE_URL must not end in /v1"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(api_key: str | None, base_url: str | None, named: str) -> None:
    with pytest.raises(SettingsError, match=named) as refused:
        AnthropicProvider(api_key, base_url, "m", connect_timeout_s=5)
    assert "schlüssel" not in str(refused.value)


async def test_the_environment_and_files_do_not_reach_behind_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "another")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "another")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    (tmp_path / "configs").mkdir()
    profile = '{"base_url": "http://127.0.0.1:9", "authentication": {"type": "api_key", "api_key": "another"}}'
    (tmp_path / "configs" / "default.json").write_text(profile)
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)]
    sent = fake.calls[0].headers
    assert "none" in (sent.get("authorization", "").removeprefix("Bearer "), sent.get("x-api-key"))
    assert "another" not in str(sent)
