"""The fake itself: what it writes is what the APIs write, and it serves other processes too."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Prompt, Provider, ProviderError, Text, Turn
from relay_workers.providers.openai import OpenAIProvider
from tests.fakes.anthropic_format import complaint
from tests.fakes.provider import FakeProvider, Script

ASKED: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Two words"}]}

# As on https://platform.claude.com/docs/en/build-with-claude/streaming
ANTHROPIC = """\
event: message_start
data: {"type": "message_start", "message": {"id": "msg_0", "type": "message", "role": "assistant", "model": "m", \
"content": [], "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 2, \
"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1, "service_tier": "standard"}}}

event: content_block_start
data: {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", \
"signature": ""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}}

event: content_block_delta
data: {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2lnbmVk"}}

event: content_block_stop
data: {"type": "content_block_stop", "index": 0}

event: content_block_start
data: {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}

event: content_block_delta
data: {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Yes"}}

event: content_block_delta
data: {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "\\ud83d"}}

event: content_block_stop
data: {"type": "content_block_stop", "index": 1}

event: message_delta
data: {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, \
"usage": {"output_tokens": 2}}

event: message_stop
data: {"type": "message_stop"}

"""


async def test_an_answer_in_anthropics_format_byte_for_byte() -> None:
    async with FakeProvider(Script(tokens=["Yes", "\ud83d"], reasoning=["Hm"])) as fake:
        async with httpx2.AsyncClient(base_url=fake.anthropic_base_url, trust_env=False) as client:
            answer = await client.post("/v1/messages", json=ASKED)
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.content.decode() == ANTHROPIC
        assert (fake.calls[0].api, fake.calls[0].prompt) == ("anthropic", "Two words")


async def test_an_error_in_anthropics_format_amid_an_answer_and_instead_of_one() -> None:
    async with FakeProvider(Script(tokens=["x"], error_after=0)) as fake, httpx2.AsyncClient(trust_env=False) as client:
        url = f"{fake.anthropic_base_url}/v1/messages"
        answer = await client.post(url, json=ASKED)
        fake.script = Script(status=529)
        refused = await client.post(url, json=ASKED)
    assert answer.text.endswith(
        'event: error\ndata: {"type": "error", "error": {"type": "api_error", "message": "as scripted"}}\n\n'
    )
    assert refused.status_code == 529
    assert refused.json() == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "529, as scripted"},
        "request_id": "req_1",
    }


# As on https://developers.openai.com/api/reference/resources/responses/streaming-events
RESPONSES = """\
event: response.output_text.delta
data: {"type": "response.output_text.delta", "sequence_number": 2, "item_id": "msg_1", "output_index": 1, \
"content_index": 0, "delta": "Yes"}

event: response.output_text.delta
data: {"type": "response.output_text.delta", "sequence_number": 3, "item_id": "msg_1", "output_index": 1, \
"content_index": 0, "delta": "\\ud83d"}

event: response.completed
"""


async def test_a_background_response_is_told_from_where_one_asks_until_it_has_expired() -> None:
    asked = {"model": "m", "input": "Two words", "background": True, "store": True, "stream": True}
    async with FakeProvider(Script(tokens=["Yes", "\ud83d"])) as fake, httpx2.AsyncClient(trust_env=False) as client:
        url = f"{fake.openai_base_url}/responses"
        whole = (await client.post(url, json=asked)).text
        again = (await client.get(f"{url}/resp_0", params={"stream": "true"})).text
        rest = (await client.get(f"{url}/resp_0", params={"stream": "true", "starting_after": "1"})).text
        state = (await client.get(f"{url}/resp_0")).json()
        assert (await client.post(f"{fake.anthropic_base_url}/control/forget")).is_success
        expired = await client.get(f"{url}/resp_0")
        calls = (await client.get(f"{fake.anthropic_base_url}/control/calls")).json()
    assert whole.startswith("event: response.created\ndata: ")
    assert again == whole
    assert rest.startswith(RESPONSES)
    assert whole.endswith(rest)
    assert (state["status"], state["usage"]["input_tokens"], expired.status_code) == ("completed", 2, 404)
    assert [reader["starting_after"] for reader in calls[0]["readers"]] == [None, None, 1]
    assert fake.calls[0].prompt == "Two words"


async def test_what_is_no_background_stream_is_refused() -> None:
    async with FakeProvider(Script()) as fake, httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{fake.openai_base_url}/responses", json={"model": "m", "input": "x"})
    assert answer.status_code == 400


def turns(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"max_tokens": 1, "messages": turns("u")}, None),
        ({"max_tokens": 1, "messages": turns([{"type": "text", "text": "u"}], "a", "u"), "system": "s"}, None),
        ({"messages": turns("u")}, "max_tokens"),
        ({"max_tokens": 1, "messages": []}, "user role"),
        ({"max_tokens": 1, "messages": turns("u", "a")}, "user role"),
        ({"max_tokens": 1, "messages": turns("u", "a", "u")[1:]}, "user role"),
        ({"max_tokens": 1, "messages": turns("u") * 2}, "alternate"),
        ({"max_tokens": 1, "messages": turns("u", " ", "u")}, "non-whitespace"),
        ({"max_tokens": 1, "messages": turns("u"), "system": ""}, "non-whitespace"),
    ],
)
def test_a_request_that_anthropic_would_refuse_is_refused(body: dict[str, Any], named: str | None) -> None:
    said = complaint(body)
    assert (said is None) if named is None else (named in str(said))


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_the_fake_runs_as_a_process_scripted_by_prompt(tmp_path: Path, api: str) -> None:
    text = "Zwei Wörter 👩‍🚀\n\nund mehr. "
    (tmp_path / "answer.txt").write_bytes(text.encode())
    command = [sys.executable, "-m", "tests.fakes.provider", "--text-file", str(tmp_path / "answer.txt")]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        lines = [(await process.stdout.readline()).decode().strip().partition("=") for _ in range(3)]
        urls = {name: url for name, _, url in lines}
        assert list(urls) == ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "AGENT_API_URL"]
        provider: Provider = (
            OpenAIProvider("key", urls["OPENAI_BASE_URL"], "m", connect_timeout_s=5)
            if api == "openai"
            else AnthropicProvider("key", urls["ANTHROPIC_BASE_URL"], "m", connect_timeout_s=5)
        )

        async def answer(content: str) -> str:
            parts = [part async for part in provider.stream(Prompt([Turn("user", content)]))]
            return "".join(part.text for part in parts if isinstance(part, Text))

        async with httpx2.AsyncClient(base_url=urls["ANTHROPIC_BASE_URL"], trust_env=False) as control:
            once: dict[str, str | int] = {"prompt": "fail", "times": 1}
            assert (await control.post("/control/script", params=once, json={"status": 500})).is_success
            special = {"tokens": ["By", " prompt"], "hold_before": 1}
            assert (await control.post("/control/script", params={"prompt": "special"}, json=special)).is_success
            assert (await control.post("/control/script", json={"no": "field"})).status_code == 400

            assert await answer("Hello") == text
            with pytest.raises(ProviderError):
                await answer("please fail")
            assert await answer("please fail") == text

            held = asyncio.create_task(answer("something special"))
            async with asyncio.timeout(10):
                while not (calls := (await control.get("/control/calls")).json())[-1]["held"]:
                    pass  # each round waits for the server
            assert (await control.post("/control/release", params={"call": 3})).is_success
            assert await held == "By prompt"

        assert [call["body"]["messages"][-1]["content"] for call in calls][-1] == "something special"
        assert [call["finished"] for call in calls] == [True, True, True, False]
        assert {call["api"] for call in calls} == {api}
        assert calls[-1]["text"] == "By"
        await provider.aclose()
    finally:
        process.kill()
        await process.wait()
