"""LiteLLM's proxy, through both of its APIs: its mock models, and models behind it that speak either API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scenarios.foreign.asking import APIS, ask, ask_through_a_relay, assert_same
from tests.scenarios.foreign.reading import Api, Piece
from tests.scenarios.foreign.servers import LITELLM_KEY, aimock, litellm
from tests.scenarios.world import World

pytestmark = pytest.mark.slow

HARD = "Grüße, 🙂👩‍👩‍👧 漢字 – “quoted” \\ \"\n\ndata: [DONE]\n\nevent: error\r\n\tend"
THOUGHT = "Two 🙂 and\n\ntwo"
MOCKS = {"mock": HARD, "limited": "litellm.RateLimitError", "broken": "litellm.InternalServerError"}
BEHIND: list[Api] = ["openai", "anthropic"]  # what the model behind it speaks

# Questions, as the model behind it answers them.
ANSWERS: dict[str, tuple[dict[str, object], list[Piece]]] = {
    "hard": ({"content": HARD}, [("text", HARD)]),
    "long": ({"content": HARD * 20}, [("text", HARD * 20)]),
    "thought": ({"content": "Four.", "reasoning": THOUGHT}, [("reasoning", THOUGHT), ("text", "Four.")]),
    "length": ({"content": "cut of", "finishReason": "length"}, [("text", "cut of")]),
}
FAULTS: dict[str, tuple[str, bool, int]] = {  # a model: code, retryable, status
    "limited": ("provider_rate_limited", True, 429),
    "broken": ("provider_error", True, 500),
    "unknown": ("provider_error", False, 400),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("litellm")
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
        for model, url in (("openai/any", f"{behind}/v1"), ("anthropic/claude-any", behind)):
            params = {"model": model, "api_key": "none", "api_base": url}
            models.append({"model_name": f"behind-{model.partition('/')[0]}", "litellm_params": params})
        with litellm(folder, models) as url:
            yield url


@pytest.mark.parametrize("api", APIS)
async def test_a_mock_model_answers_streamed_or_whole(server: str, api: Api) -> None:
    """Over /v1/messages, LiteLLM answers for its mock models with a whole JSON body, though a stream was asked for."""
    answer, said = await ask(api, server, "Hello", key=LITELLM_KEY, model="mock")
    assert said is not None
    assert said.content == [("text", HARD)]
    assert_same(api, answer, said)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_model_behind_it_is_read_as_its_bytes_say(server: str, api: Api, behind: Api, name: str) -> None:
    answer, said = await ask(api, server, f"<{name}>", key=LITELLM_KEY, model=f"behind-{behind}")
    assert said is not None
    assert said.content == ANSWERS[name][1]
    assert_same(api, answer, said)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("name", FAULTS)
async def test_its_errors_are_told_apart(server: str, api: Api, name: str) -> None:
    answer, _ = await ask(api, server, "Hello", key=LITELLM_KEY, model=name)
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable, answer.error.status) == FAULTS[name]
    assert (answer.pieces, answer.finished) == ([], None)


@pytest.mark.parametrize("api", APIS)
async def test_a_key_that_it_does_not_know_is_not_tried_again(server: str, api: Api) -> None:
    answer, said = await ask(api, server, "Hello", key="sk-wrong", model="mock")
    assert said is not None
    assert said.status == 400  # it looks for other keys than its own in a database, and has none
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable) == ("provider_error", False)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("api", APIS)
async def test_a_model_behind_it_that_is_cut_off_is_no_whole_answer(server: str, api: Api, behind: Api) -> None:
    """LiteLLM says it with a status of its own or, once it has begun, by an error in the stream."""
    answer, said = await ask(api, server, "<cut>", key=LITELLM_KEY, model=f"behind-{behind}")
    assert said is not None
    assert b"payload is not completed" in said.body
    assert said.finish is None
    assert answer.pieces == said.content
    assert answer.finished is None
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable) == ("provider_error", True)


@pytest.mark.parametrize("api", APIS)
async def test_viewers_of_a_relay_are_shown_its_answers(relay: World, server: str, api: Api) -> None:
    questions = ("<hard>", "<thought>", "<long>")
    said = await ask_through_a_relay(relay, api, server, LITELLM_KEY, "behind-openai", *questions)
    assert [one.text for one in said] == [HARD, "Four.", HARD * 20]
