"""LiteLLM's proxy, through both of its APIs: its mock models, and models behind it that speak either API."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.scenarios.foreign.asking import APIS, ask, ask_through_a_relay, assert_same
from tests.scenarios.foreign.reading import Api, Piece
from tests.scenarios.foreign.servers import LITELLM_KEY, aimock, litellm
from tests.scenarios.providers.test_fault_table import all_of
from tests.scenarios.world import World

pytestmark = pytest.mark.slow

HARD = 'Grüße, 🙂👩‍👩‍👧 漢字 – “quoted” \\ "\n\ndata: [DONE]\n\nevent: error\r\n\tend'
THOUGHT = "Two 🙂 and\n\ntwo"
CALLS = [
    {"id": "call_1", "name": "get_weather", "arguments": {"city": "Zürich"}},
    {"id": "call_2", "name": "now", "arguments": {}},
]
MOCKS = {"mock": HARD, "limited": "litellm.RateLimitError", "broken": "litellm.InternalServerError"}
ALIAS = "claude-sonnet-5-5"  # of a model that is none of Anthropic's, and is asked for its thoughts as if it were
BEHIND: list[Api] = ["openai", "anthropic"]  # what the model behind it speaks

# Questions, as the model behind it answers them.
ANSWERS: dict[str, tuple[dict[str, object], list[Piece]]] = {
    "hard": ({"content": HARD}, [("text", HARD)]),
    "long": ({"content": HARD * 20}, [("text", HARD * 20)]),
    "thought": ({"content": "Four.", "reasoning": THOUGHT}, [("reasoning", THOUGHT), ("text", "Four.")]),
    "called": (
        {"content": "I look.", "toolCalls": CALLS},
        [("text", "I look."), *[("tool_call", one) for one in CALLS]],
    ),
    "length": ({"content": "cut of", "finishReason": "length"}, [("text", "cut of")]),
}
FAULTS: dict[str, tuple[str, bool, int]] = {  # a model: code, retryable, status
    "limited": ("provider_rate_limited", True, 429),
    "broken": ("provider_error", True, 500),
    "unknown": ("provider_error", False, 400),
}


async def test_litellm_is_read_as_its_bytes_say_whatever_is_behind_it(relay: World, tmp_path: Path) -> None:
    """One test, because LiteLLM takes ten seconds to start."""
    with serving(tmp_path) as url:
        await all_of(cells(url))
        for api in APIS:  # and through a whole relay
            questions = ("<hard>", "<thought>", "<long>")
            said = await ask_through_a_relay(
                relay, api, url, LITELLM_KEY, "behind-openai", *questions, session=f"over-{api}"
            )
            assert [one.text for one in said] == [HARD, "Four.", HARD * 20]


def cells(url: str) -> dict[str, Awaitable[None]]:
    found: dict[str, Awaitable[None]] = {}
    for api in APIS:
        found[f"{api}: mock"] = mocked(url, api)
        found[f"{api}: wrong key"] = unknown_key(url, api)
        found[f"{api}: alias"] = answered(url, api, ALIAS, "thought")
        found |= {f"{api}: {model}": failing(url, api, model) for model in FAULTS}
        for behind in BEHIND:
            found |= {
                f"{api}: {name}, behind it {behind}": answered(url, api, f"behind-{behind}", name) for name in ANSWERS
            }
            found[f"{api}: cut, behind it {behind}"] = cut(url, api, behind)
    return found


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    fixtures = [
        {"match": {"userMessage": f"<{name}>"}, "response": response, "chunkSize": 3}
        for name, (response, _) in ANSWERS.items()
    ]
    fixtures.append({**fixtures[0], "match": {"userMessage": "<cut>"}, "latency": 20, "truncateAfterChunks": 9})
    with aimock(folder, fixtures) as behind:
        models = [
            {"model_name": name, "litellm_params": {"model": "openai/any", "api_key": "none", "mock_response": said}}
            for name, said in MOCKS.items()
        ]
        for model, address in (("openai/any", f"{behind}/v1"), ("anthropic/claude-any", behind)):
            params = {"model": model, "api_key": "none", "api_base": address}
            models.append({"model_name": f"behind-{model.partition('/')[0]}", "litellm_params": params})
            if model == "openai/any":
                models.append({"model_name": ALIAS, "litellm_params": params})
        with litellm(folder, models) as url:
            yield url


async def mocked(url: str, api: Api) -> None:
    """Over /v1/messages, LiteLLM answers for its mock models with a whole JSON body, though a stream was asked for."""
    answer, said = await ask(api, url, "Hello", key=LITELLM_KEY, model="mock")
    assert said is not None
    assert said.content == [("text", HARD)]
    assert_same(api, answer, said)


async def answered(url: str, api: Api, model: str, name: str) -> None:
    """What is asked of an alias as of a Claude, the model behind it does not know; then it is asked without."""
    requests = 2 if model == ALIAS else 1
    answer, said = await ask(api, url, f"<{name}>", key=LITELLM_KEY, model=model, requests=requests)
    assert said is not None
    assert said.content == ANSWERS[name][1]
    assert_same(api, answer, said)


async def failing(url: str, api: Api, model: str) -> None:
    answer, _ = await ask(api, url, "Hello", key=LITELLM_KEY, model=model)
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable, answer.error.status) == FAULTS[model]
    assert (answer.pieces, answer.finished) == ([], None)


async def unknown_key(url: str, api: Api) -> None:
    answer, said = await ask(api, url, "Hello", key="sk-wrong", model="mock")
    assert said is not None
    assert said.status == 400  # it looks for other keys than its own in a database, and has none
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable) == ("provider_error", False)


async def cut(url: str, api: Api, behind: Api) -> None:
    """LiteLLM says it with a status of its own or, once it has begun, by an error in the stream."""
    answer, said = await ask(api, url, "<cut>", key=LITELLM_KEY, model=f"behind-{behind}")
    assert said is not None
    assert b"payload is not completed" in said.body
    assert said.finish is None
    assert answer.pieces == said.content
    assert answer.finished is None
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable) == ("provider_error", True)
