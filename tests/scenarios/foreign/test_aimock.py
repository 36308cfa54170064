"""aimock, through both of its APIs: what it was told to say is what is read, and each of its faults is one error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.scenarios.foreign.asking import APIS, ask, ask_through_a_relay, assert_same
from tests.scenarios.foreign.reading import Api, Piece
from tests.scenarios.foreign.servers import aimock
from tests.scenarios.world import World

pytestmark = pytest.mark.slow

HARD = 'Grüße, 🙂👩‍👩‍👧 漢字 – “quoted” \\ "\n\ndata: [DONE]\n\nevent: error\r\n\tend'
CALLS = [{"name": "get_weather", "arguments": {"city": "Zürich"}}, {"name": "now", "arguments": {}}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "input_tokens": 7, "output_tokens": 5}


def error(status: int, kind: str, code: str = "") -> dict[str, Any]:
    return {
        "error": {"message": "a secret sentence", "type": kind, **({"code": code} if code else {})},
        "status": status,
    }


ANSWERS: dict[str, tuple[dict[str, Any], list[Piece], str]] = {  # a fixture, and what it means
    "whole": ({"response": {"content": "Hello."}}, [("text", "Hello.")], "stop"),
    "hard": ({"response": {"content": HARD}, "chunkSize": 1}, [("text", HARD)], "stop"),
    "long": ({"response": {"content": HARD * 200}, "chunkSize": 7}, [("text", HARD * 200)], "stop"),
    "thought": (
        {"response": {"content": "Four.", "reasoning": "Two 🙂 and\n\ntwo"}, "chunkSize": 2},
        [("reasoning", "Two 🙂 and\n\ntwo"), ("text", "Four.")],
        "stop",
    ),
    "redacted": (
        {"response": {"content": "Four.", "reasoning": "Two", "redactedThinking": ["c2VjcmV0"]}},
        [("reasoning", "Two"), ("text", "Four.")],
        "stop",
    ),
    "commented": ({"response": {"content": "Hello."}, "openRouterProcessing": True}, [("text", "Hello.")], "stop"),
    "searched": ({"response": {"content": "Found.", "webSearches": ["relay"]}}, [("text", "Found.")], "stop"),
    "length": ({"response": {"content": "cut of", "finishReason": "length"}}, [("text", "cut of")], "length"),
    "usage": ({"response": {"content": "Five.", "usage": USAGE}}, [("text", "Five.")], "stop"),
    "called": (
        {"response": {"content": "I look.", "toolCalls": CALLS}, "chunkSize": 5},
        [("text", "I look."), *[("tool_call", call) for call in CALLS]],
        "other",
    ),
    "called before": (
        {"response": {"blocks": [{"type": "toolCall", **CALLS[0]}, {"type": "text", "text": "I looked."}]}},
        [("tool_call", CALLS[0]), ("text", "I looked.")],
        "other",
    ),
}  # fmt: skip

REFUSED = {"response": error(400, "invalid_request_error", "content_filter")}
FAULTS: dict[str, tuple[dict[str, Any], str, bool, int | None]] = {  # a fixture: code, retryable, status
    "429": ({"response": error(429, "rate_limit_error")}, "provider_rate_limited", True, 429),
    "500": ({"response": error(500, "server_error")}, "provider_error", True, 500),
    "529": ({"response": error(529, "overloaded_error")}, "provider_error", True, 529),
    "401": ({"response": error(401, "authentication_error")}, "provider_error", False, 401),
    "400": ({"response": error(400, "invalid_request_error")}, "provider_error", False, 400),
    "dropped": ({"response": {"content": "x"}, "chaos": {"dropRate": 1}}, "provider_error", True, 500),
    "limited": ({"response": {"content": "x"}, "chaos": {"rateLimitRate": 1}}, "provider_rate_limited", True, 429),
    "hung up": ({"response": {"content": "x"}, "chaos": {"disconnectRate": 1}}, "provider_timeout", True, None),
    "malformed": ({"response": {"content": "x"}, "chaos": {"malformedRate": 1}}, "provider_error", True, None),
}
# In mid-answer. With a pause between its chunks it has sent what it says it has.
CUT = {"response": {"content": "One two three four."}, "chunkSize": 4, "latency": 20, "truncateAfterChunks": 5}
SLOW = {"response": {"content": "One two three four."}, "chunkSize": 1, "latency": 20, "disconnectAfterMs": 150}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    rows = {name: row[0] for table in (ANSWERS, FAULTS) for name, row in table.items()}
    rows |= {"cut": CUT, "slow": SLOW, "refused": REFUSED}
    fixtures = [{"match": {"userMessage": f"<{name}>"}, **row} for name, row in rows.items()]
    with aimock(tmp_path_factory.mktemp("aimock"), fixtures) as url:
        yield url


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_what_its_bytes_say_and_what_it_was_told(server: str, api: Api, name: str) -> None:
    answer, said = await ask(api, server, f"<{name}>")
    _, content, finish = ANSWERS[name]
    assert said is not None
    assert [(kind, _without_id(value)) for kind, value in said.content] == content
    assert_same(api, answer, said)
    assert answer.finished is not None
    assert answer.finished.finish == finish
    if name == "usage":
        assert answer.finished.usage == {"input_tokens": 7, "output_tokens": 5}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_before_the_first_token_is_one_error(server: str, api: Api, name: str) -> None:
    answer, said = await ask(api, server, f"<{name}>")
    _, code, retryable, status = FAULTS[name]
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable, answer.error.status) == (code, retryable, status)
    assert answer.error.retry_after_s == (1 if code == "provider_rate_limited" else None)
    assert (answer.pieces, answer.finished) == ([], None)
    assert "secret" not in str(answer.error)
    assert (said is None) == (name == "hung up")


async def test_a_refusal_is_one(server: str) -> None:
    answer, _ = await ask("openai", server, "<refused>")
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable) == ("provider_refused", False)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("name", ["cut", "slow"])
async def test_a_connection_cut_in_mid_answer_leaves_what_came_and_says_so(server: str, api: Api, name: str) -> None:
    answer, said = await ask(api, server, f"<{name}>")
    assert said is not None
    assert said.cut
    assert said.finish is None
    assert answer.pieces == said.content
    assert answer.finished is None
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable) == ("truncated", True)


@pytest.mark.parametrize("api", APIS)
async def test_viewers_of_a_relay_are_shown_its_answers(relay: World, server: str, api: Api) -> None:
    questions = ("<hard>", "<thought>", "<called before>", "<long>")
    said = await ask_through_a_relay(relay, api, server, "none", "some-model", *questions)
    assert [one.text for one in said] == [HARD, "Four.", "I looked.", HARD * 200]


def _without_id(value: Any) -> Any:
    return {name: member for name, member in value.items() if name != "id"} if isinstance(value, dict) else value
