"""The agent provider against a real HTTP server: every shape of an answer, and every way in which none comes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.errors import SettingsError
from relay.protocol.options import Options, check_options
from relay_workers.providers import access, agent
from relay_workers.providers.agent import AgentProvider
from relay_workers.providers.agent_answer import TEXTS
from relay_workers.providers.base import (
    Data,
    Finished,
    Part,
    Prompt,
    ProviderError,
    ProviderErrorCode,
    Reasoning,
    Text,
    Turn,
)
from relay_workers.writing.text_repair import TextRepair
from tests.fakes.provider import FakeProvider, Script

HELLO = Prompt(
    [Turn("system", "Be brief."), Turn("user", "Hello?"), Turn("assistant", "Yes?"), Turn("user", "Go on.")],
    session="s",
    generation="g",
)
WILD = ["👩‍👩‍👧", " e\u0301", "\u0301", " 日本", "語", "", " 🗺", "\ufe0f", "\n\n", ' <b>&amp;\\" ', "\u2028", " fin"]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@asynccontextmanager
async def provider_of(fake: FakeProvider, **options: Any) -> AsyncIterator[AgentProvider]:
    options = {"url": fake.agent_url, "api_key": None, **options}
    provider = AgentProvider(connect_timeout_s=5, **options)
    try:
        yield provider
    finally:
        await provider.aclose()


async def parts_of(script: Script, prompt: Prompt = HELLO, **options: Any) -> list[Part]:
    async with FakeProvider(script) as fake, provider_of(fake, **options) as provider:
        return [part async for part in provider.stream(prompt)]


async def failure_of(script: Script, **options: Any) -> ProviderError:
    async with FakeProvider(script) as fake, provider_of(fake, **options) as provider:
        with pytest.raises(ProviderError) as caught:
            await anext(provider.stream(HELLO))  # nothing comes before it
    return caught.value


def whole(body: Any, **more: Any) -> Script:
    """An answer that is this body, as it is or as JSON."""
    return Script(status=200, status_body=body if isinstance(body, str) else json.dumps(body), **more)


def text_of(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Text))


# What a good answer looks like


async def test_the_text_arrives_exactly_in_several_tokens_and_then_one_finish_with_the_usage() -> None:
    parts = await parts_of(Script(tokens=WILD, usage={"prompt_tokens": 11, "completion_tokens": 7}))

    assert text_of(parts) == "".join(WILD)
    assert len(parts) > 8
    assert parts[-1] == Finished("stop", "fake", {"input_tokens": 11, "output_tokens": 7})


async def test_a_surrogate_pair_arrives_whole_and_half_of_one_is_left_to_mending() -> None:
    assert text_of(await parts_of(Script(tokens=["a", "\ud83d", "\ude00", "b"]))) == "a😀b"
    mender = TextRepair()
    parts = await parts_of(whole('{"content": "a \\ud83d b"}'))
    assert "".join(token for part in parts[:-1] for token in mender.feed(part.text)) == "a \ufffd b"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "body",
    [
        *({name: "Hi you"} for name in TEXTS),
        *({name: {"content": "Hi you"}} for name in ("message", "output")),
        {"choices": [{"message": {"role": "assistant", "content": "Hi you"}}]},
        "Hi you",
        {"content": "Hi you", "text": "another"},
        {"text": "Hi you", "message": "another"},
        {"content": "", "answer": "Hi you"},
        {"content": None, "output": ["no text"], "result": "Hi you"},
        {"content": "Hi you", "error": None},
    ],
)
async def test_the_text_is_the_first_of_the_shapes_that_there_is(body: Any) -> None:
    parts = await parts_of(whole(json.dumps(body)))
    assert parts == [Text("Hi"), Text(" you"), Finished("stop", "agent", None)]


async def test_an_empty_text_is_an_answer_too() -> None:
    assert await parts_of(whole({"content": ""})) == [Finished("stop", "agent", None)]


async def test_reasoning_and_data_come_before_the_text() -> None:
    body = {"content": "Yes.", "reasoning": "Hm so", "data": [{"name": "seen", "value": {"a": [1, None]}}]}

    shown = [Data("seen", {"a": [1, None]}), Text("Yes"), Text(".")]
    assert (await parts_of(whole(body)))[:-1] == [Reasoning("Hm"), Reasoning(" so"), *shown]
    assert (await parts_of(Script(tokens=["Yes"], reasoning=["Hm"])))[:-1] == [Reasoning("Hm"), Text("Yes")]


@pytest.mark.parametrize(
    ("members", "finished"),
    [
        ({"finish": "length"}, Finished("length", "agent")),
        ({"finish_reason": "max_tokens"}, Finished("length", "agent")),
        ({"finish_reason": "content_filter"}, Finished("filter", "agent")),
        ({"finish": "end_turn"}, Finished("stop", "agent")),
        ({"finish": "tool_calls"}, Finished("other", "agent")),
        ({"finish": None}, Finished("stop", "agent")),
        ({"choices": [{"message": {}, "finish_reason": "length"}]}, Finished("length", "agent")),
        ({"model": "m-1"}, Finished("stop", "m-1")),
        ({"model": 5}, Finished("stop", "agent")),
        (
            {"usage": {"prompt_tokens": 3, "completion_tokens": 4}},
            Finished("stop", "agent", {"input_tokens": 3, "output_tokens": 4}),
        ),
        (
            {"usage": {"input_tokens": 3, "output_tokens": 0}},
            Finished("stop", "agent", {"input_tokens": 3, "output_tokens": 0}),
        ),
        ({"usage": {"input_tokens": True, "output_tokens": -1}}, Finished("stop", "agent")),
        ({"usage": 5}, Finished("stop", "agent")),
    ],
)
async def test_finish_model_and_usage_are_taken_where_they_are_said(members: Any, finished: Finished) -> None:
    assert (await parts_of(whole({"content": "x", **members})))[-1] == finished


async def test_the_request_holds_the_whole_context_and_the_key() -> None:
    prompt = Prompt(HELLO.turns, "m-2", 5, "s-1", "g-1", {"user": "u"}, Options(temperature=0.5, stop=["END"]))
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake, api_key="k-1") as provider:
        parts = [part async for part in provider.stream(prompt)]

    assert fake.calls[0].body == {
        "session": "s-1",
        "generation": "g-1",
        "messages": [{"role": turn.role, "content": turn.content} for turn in HELLO.turns],
        "model": "m-2",
        "max_tokens": 5,
        "metadata": {"user": "u"},
        "options": {"temperature": 0.5, "stop": ["END"]},
    }
    headers = fake.calls[0].headers
    assert (headers["authorization"], headers["accept"]) == ("Bearer k-1", "application/json")
    assert headers["content-type"] == "application/json"
    assert isinstance(parts[-1], Finished)
    assert parts[-1].model == "m-2"


async def test_what_nobody_asked_for_is_left_out_of_the_request() -> None:
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)]
    assert set(fake.calls[0].body) == {"session", "generation", "messages"}
    assert "authorization" not in fake.calls[0].headers


async def test_the_settings_model_is_asked_for_where_a_submit_names_none() -> None:
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake, model="m-3") as provider:
        assert [part async for part in provider.stream(HELLO)]
        await provider.check()
        assert provider.model == "m-3"
    assert fake.calls[0].body["model"] == "m-3"


async def test_more_answers_run_at_once_than_the_http_client_would_allow_by_itself() -> None:
    async with FakeProvider(Script(tokens=["x"], hold_before=0)) as fake, provider_of(fake) as provider:
        streams = [asyncio.create_task(anext(provider.stream(HELLO))) for _ in range(120)]
        await fake.wait_for(lambda f: sum(call.held for call in f.calls) == 120)
        fake.release()
        assert await asyncio.gather(*streams) == [Text("x")] * 120


# How it can fail


@pytest.mark.parametrize(
    ("script", "code", "retryable", "status", "sick"),
    [
        *(
            pytest.param(Script(status=status), "provider_error", True, status, True, id=str(status))
            for status in (408, 500, 502, 503, 504, 529)
        ),
        *(
            pytest.param(Script(status=status), "provider_error", False, status, status < 404, id=str(status))
            for status in (401, 402, 403, 413, 422)
        ),
        *(
            pytest.param(Script(status=status), "provider_error", False, status, True, id=f"{status}, a wrong URL")
            for status in (301, 307, 308, 404, 405)
        ),
        pytest.param(Script(status=400), "provider_error", False, 400, False, id="400"),
        pytest.param(Script(status=503, status_body="<html>"), "provider_error", True, 503, True, id="503 in HTML"),
        pytest.param(Script(status=500, cut_after=5), "provider_error", True, 500, True, id="500, its body cut"),
        pytest.param(
            Script(status=400, status_body='{"error": {"code": "content_filter"}}'),
            "provider_refused",
            False,
            400,
            False,
            id="refused",
        ),
        pytest.param(
            Script(status=403, status_body='{"type": "content_policy_violation"}'),
            "provider_refused",
            False,
            403,
            False,
            id="refused with 403",
        ),
        pytest.param(Script(status=429), "provider_rate_limited", True, 429, True, id="429"),
    ],
)
async def test_a_status_is_classed_as_the_sdks_would(
    script: Script, code: ProviderErrorCode, retryable: bool, status: int, sick: bool
) -> None:
    error = await failure_of(script)
    assert (error.code, error.retryable, error.status, error.is_sick) == (code, retryable, status, sick)
    assert str(status) in str(error)


@pytest.mark.parametrize(
    ("script", "code", "retryable", "detail"),
    [
        (whole({"error": "no luck"}), "provider_error", True, "an error in the answer"),
        (whole({"error": {"code": "broken"}, "content": "x"}), "provider_error", True, "broken"),
        (whole({"error": {"type": "rate_limit_exceeded"}}), "provider_rate_limited", True, "rate_limit"),
        (whole({"error": {"code": 429}}), "provider_rate_limited", True, "429"),
        (whole({"error": {"type": "invalid_request_error"}}), "provider_error", False, "invalid_request"),
        (whole({"error": {"code": "content_filter"}}), "provider_refused", False, "content_filter"),
        (Script(tokens=["x", "y"], error_after=1), "provider_error", True, "failed"),
        (whole("{"), "provider_error", True, "no JSON"),
        (whole(""), "provider_error", True, "no JSON"),
        (whole("[" * 100_000), "provider_error", True, "no JSON"),
        (whole("9" * 10_000), "provider_error", True, "no JSON"),
        (whole([1]), "provider_error", True, "a list, not a JSON object"),
        (whole("null"), "provider_error", True, "not a JSON object"),
        (whole({"context": "x"}), "provider_error", True, "has no text"),
        (whole({"content": 5, "choices": []}), "provider_error", True, "has no text"),
        (whole({"choices": [{"message": "x", "finish_reason": "error"}]}), "provider_error", True, "finish error"),
        (whole("x", status_headers={"content-type": "text/html; charset=x"}), "provider_error", True, "is text/html"),
        (whole({"content": "x", "data": {"name": "n"}}), "provider_error", True, "data is no list"),
        (whole({"content": "x", "data": [{"name": "n"}]}), "provider_error", True, "data is no list"),
        (whole({"content": "x", "data": [{"name": "", "value": 1}]}), "provider_error", False, "name"),
        (whole({"content": "x", "data": [{"name": 5, "value": 1}]}), "provider_error", False, "name"),
        (whole({"content": "x", "data": [{"name": "n" * 129, "value": 1}]}), "provider_error", False, "name"),
        (whole({"content": "x", "data": [{"name": "n", "value": "x" * 131071}]}), "provider_error", False, "131073"),
        (whole('{"content": "x", "data": [{"name": "n", "value": "\\ud83d"}]}'), "provider_error", False, "JSON"),
        (Script(tokens=["x", "y"], garbage_after=1), "provider_error", True, "no JSON"),
        (Script(tokens=["x", "y"], garbage_after=1, garbage="\udcff"), "provider_error", True, "no JSON"),
        (Script(tokens=["x", "y"], close_after=1), "provider_error", True, "no JSON"),
        (Script(tokens=["x", "y"], cut_after=1), "truncated", True, ""),
        (Script(tokens=["x", "y"], reset_after=1, hold_before=None), "truncated", True, ""),
        (whole({"content": "x"}, cut_after=4), "truncated", True, ""),
        (whole({"content": "x"}, status_headers={"content-encoding": "gzip"}), "provider_error", True, "Decoding"),
    ],
)
async def test_an_answer_that_is_none_is_classed(
    script: Script, code: ProviderErrorCode, retryable: bool, detail: str
) -> None:
    error = await failure_of(script)
    if script.reset_after is not None and error.code == "provider_timeout":
        return  # the reset has overtaken the status line
    assert (error.code, error.retryable) == (code, retryable), str(error)
    assert detail in str(error)
    assert "\n" not in str(error)


async def test_data_of_just_the_right_size_is_taken() -> None:
    value = "x" * (128 * 1024 - 2)
    parts = await parts_of(whole({"content": "", "data": [{"name": "n" * 128, "value": value}]}))
    assert parts[0] == Data("n" * 128, value)


async def test_a_rate_limit_says_how_long_to_wait() -> None:
    assert (await failure_of(Script(status=429, status_headers={"retry-after": "7"}))).retry_after_s == 7
    assert (await failure_of(Script(status=429))).retry_after_s is None


async def test_a_body_above_the_bound_is_refused_while_it_still_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "MAX_BODY_BYTES", 50_000)
    async with FakeProvider(Script(tokens=["x" * 100_000, "y"], hold_before=1)) as fake, provider_of(fake) as provider:
        with pytest.raises(ProviderError, match="more than 50000 bytes") as caught:
            await anext(provider.stream(HELLO))
        await fake.wait_for(lambda f: f.calls[0].client_gone_at)
    assert (caught.value.code, caught.value.retryable, caught.value.is_sick) == ("provider_error", False, False)


@pytest.mark.parametrize(
    "script", [Script(hold_status=True), Script(tokens=["x"], hold_before=0), Script(tokens=["x", "y"], hold_before=1)]
)
async def test_silence_is_a_timeout_by_the_agents_own_deadline(script: Script) -> None:
    error = await failure_of(script, answer_timeout_s=0.2)
    assert (error.code, error.retryable) == ("provider_timeout", True)
    assert "0.2 s" in str(error)


async def test_its_deadline_for_the_first_token_is_that_of_the_answer() -> None:
    provider = AgentProvider("http://127.0.0.1", None, 5, answer_timeout_s=42)
    assert provider.first_token_s == 42
    await provider.aclose()


async def test_the_body_of_an_error_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "ERROR_BODY_S", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 No\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        provider = AgentProvider(url, None, connect_timeout_s=5)
        with pytest.raises(ProviderError) as caught:
            await anext(provider.stream(HELLO))
        await provider.aclose()
    assert (caught.value.code, caught.value.status) == ("provider_error", 503)


async def test_no_log_line_quotes_a_text_of_the_agent_or_the_key() -> None:
    scripts = [
        Script(status=401, status_body='{"error": {"message": "bad key: k-secret", "code": "no"}}'),
        Script(status=400, status_body='{"error": "k-secret"}'),
        Script(status=307, status_headers={"location": "http://k-secret@127.0.0.1"}),
        whole({"error": "k-secret"}),
        whole("k-secret"),
        whole({"content": "x", "data": [{"name": "k-secret" * 20, "value": 1}]}),
    ]
    for script in scripts:
        assert "secret" not in str(await failure_of(script, api_key="k-secret"))


# How it is stopped


@pytest.mark.parametrize("script", [Script(hold_status=True), Script(tokens=["x", "y"], hold_before=1)])
async def test_cancelling_the_reading_task_closes_the_connection(script: Script) -> None:
    async def read() -> None:
        async for _ in provider.stream(HELLO):
            pass

    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        reading = asyncio.create_task(read())
        await fake.wait_for(lambda f: f.calls and f.calls[0].held)
        cancelled_at = time.monotonic()
        reading.cancel()
        assert await fake.wait_for(lambda f: f.calls[0].client_gone_at) - cancelled_at < 0.5
        with pytest.raises(asyncio.CancelledError):
            await reading


# The check


@pytest.mark.parametrize(
    ("check", "model"),
    [
        (whole({"models": ["a", "b"]}), "a"),
        (whole({"model": "m"}), "m"),
        (whole({"models": []}), "agent"),
        (whole({"models": [{"id": "a"}]}), "agent"),
        (whole({}), "agent"),
        (whole([1]), "agent"),
        (whole("<html>"), "agent"),
        (whole("x" * 100_000), "agent"),
        (whole('{"model": "m"}', cut_after=5), "agent"),
        (whole('{"model": "m"}', status_headers={"content-type": "text/html"}), "agent"),
        (Script(status=404), "agent"),
        (Script(status=405), "agent"),
        (Script(status=500), "agent"),
        (Script(status=307, status_headers={"location": "http://127.0.0.1:9/"}), "agent"),
    ],
)
async def test_any_answer_to_the_check_means_that_it_is_there_and_a_model_it_names_is_remembered(
    check: Script, model: str
) -> None:
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake, api_key="k-1") as provider:
        fake.agent_check = check
        await provider.check()
        assert provider.model == model
        assert fake.checks[0]["authorization"] == "Bearer k-1"
        assert fake.calls == []  # a check is no question


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_the_check_finds_refused_is_named_and_not_quoted(status: int) -> None:
    async with FakeProvider(Script()) as fake, provider_of(fake, api_key="k-secret") as provider:
        fake.agent_check = Script(status=status)
        with pytest.raises(ProviderError, match=rf"AGENT_API_KEY .*{status}") as caught:
            await provider.check()
    assert "secret" not in str(caught.value)
    assert (caught.value.retryable, caught.value.is_sick) == (False, True)


async def test_a_key_that_the_agent_wants_and_nobody_has_set_is_named() -> None:
    async with FakeProvider(Script()) as fake, provider_of(fake) as provider:
        fake.agent_check = Script(status=401)
        with pytest.raises(ProviderError, match=r"AGENT_API_KEY is not set .*401"):
            await provider.check()


async def test_nobody_listening_is_said_by_the_check_and_is_a_timeout_for_an_answer() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening: refused
        provider = AgentProvider(f"http://127.0.0.1:{unused.getsockname()[1]}/", None, connect_timeout_s=5)
        with pytest.raises(ProviderError, match="AGENT_API_URL cannot be reached: ConnectError") as checked:
            await provider.check()
        with pytest.raises(ProviderError) as asked:
            await anext(provider.stream(HELLO))
        await provider.aclose()
    assert [(error.value.code, error.value.retryable) for error in (checked, asked)] == [("provider_timeout", True)] * 2


async def test_who_takes_the_connection_and_says_nothing_fails_the_check_at_its_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        provider = AgentProvider(
            f"http://127.0.0.1:{mute.getsockname()[1]}/", None, connect_timeout_s=5, check_timeout_s=0.2
        )
        with pytest.raises(ProviderError, match=r"AGENT_API_URL .* within 0\.2 s") as caught:
            await provider.check()
        await provider.aclose()
    assert (caught.value.code, caught.value.retryable) == ("provider_timeout", True)


# Settings


@pytest.mark.parametrize(
    ("url", "api_key", "named"),
    [
        (None, None, "AGENT_API_URL is not set"),
        ("", "k", "AGENT_API_URL is not set"),
        ("agent.example.org", None, "AGENT_API_URL"),
        ("ftp://agent.example.org", None, "AGENT_API_URL"),
        ("http://127.0.0.1:port", None, "AGENT_API_URL"),
        ("http://127.0.0.1", "key\n", "AGENT_API_KEY"),
        ("http://127.0.0.1", "schlüssel", "AGENT_API_KEY"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(url: str | None, api_key: str | None, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        AgentProvider(url, api_key, connect_timeout_s=5)


# What the docs show


async def test_the_request_and_the_answer_in_the_docs_are_those_on_the_wire() -> None:
    docs = Path(__file__).parents[3] / "docs" / "models.md"
    asked, answered = re.findall(r"```json\n(.*?)```", docs.read_text(), re.DOTALL)
    body = json.loads(asked)
    turns = [Turn(turn["role"], turn["content"]) for turn in body["messages"]]
    options = check_options(body["options"], "options")
    ids = body["session"], body["generation"]
    prompt = Prompt(turns, body["model"], body["max_tokens"], *ids, body["metadata"], options)
    async with FakeProvider(whole(answered)) as fake, provider_of(fake) as provider:
        parts = [part async for part in provider.stream(prompt)]
    assert fake.calls[0].body == body
    assert text_of(parts) == "It left Bremen this morning."
    assert "".join(part.text for part in parts if isinstance(part, Reasoning)) == "The tracking page says so."
    assert Data("citation", {"url": "https://example.org/track/17"}) in parts
    assert parts[-1] == Finished("stop", "large-2", {"input_tokens": 12, "output_tokens": 6})
