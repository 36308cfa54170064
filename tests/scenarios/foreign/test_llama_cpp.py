"""llama.cpp's own server with a tiny random model, through both of its APIs: its noise is read as it was sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relay_workers.providers.base import Turn
from tests.scenarios.foreign.asking import APIS, Answer, ask, ask_through_a_relay, assert_same
from tests.scenarios.foreign.reading import Api, Said, joined
from tests.scenarios.foreign.servers import LLAMA_KEY, llama_cpp
from tests.scenarios.world import World

pytestmark = pytest.mark.slow

ANSWERS = 24  # at random: of each kind that is looked for, about one in three
MAX_TOKENS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_cpp(tmp_path_factory.mktemp("llama"), "plain") as url:
        yield url


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_cpp(tmp_path_factory.mktemp("llama"), "thinks") as url:
        yield url


async def asked(api: Api, url: str) -> list[tuple[Answer, Said]]:
    """Many answers, each of them read as its bytes say.

    Over /v1/messages there is no `message_start`, and so no model and no whole usage, if the first token is a part of a
    character.
    """
    found = []
    for number in range(ANSWERS):
        answer, said = await ask(api, url, f"Question {number} 🙂", key=LLAMA_KEY, model="tiny", max_tokens=MAX_TOKENS)
        assert_same(api, answer, said)
        assert said is not None
        assert (said.model, said.usage) == (None, None) or (said.model == "tiny" and said.usage is not None), said
        found.append((answer, said))
    return found


@pytest.mark.parametrize("api", APIS)
async def test_whatever_it_says_is_read_to_its_end(server: str, api: Api) -> None:
    answers = await asked(api, server)
    finishes = {answer.finished.finish for answer, _ in answers if answer.finished is not None}
    assert finishes == {"stop", "length"}
    assert len({said.text for _, said in answers}) > ANSWERS // 2
    assert not any(joined(said.content, "reasoning") for _, said in answers)


@pytest.mark.parametrize("api", APIS)
async def test_a_thought_is_reasoning_until_it_is_closed(thinker: str, api: Api) -> None:
    answers = await asked(api, thinker)
    kinds = [[kind for kind, _ in said.content] for _, said in answers]
    assert ["reasoning"] in kinds
    assert ["reasoning", "text"] in kinds


async def test_a_template_that_refuses_turns_is_given_others(tmp_path: Path) -> None:
    turns = [Turn("system", "Be brief."), Turn("user", "One"), Turn("user", "and two")]
    with llama_cpp(tmp_path, "strict") as url:
        for api in APIS:
            answer, said = await ask(
                api, url, "Go on", key=LLAMA_KEY, model="tiny", max_tokens=MAX_TOKENS, before=turns, requests=3
            )
            assert_same(api, answer, said)


@pytest.mark.parametrize("api", APIS)
async def test_a_prompt_longer_than_its_context_is_refused_once(server: str, api: Api) -> None:
    answer, said = await ask(api, server, "🙂 漢 " * 400, key=LLAMA_KEY, model="tiny", max_tokens=MAX_TOKENS)
    assert said is not None
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable, answer.error.status) == ("provider_error", False, 400)
    assert (answer.pieces, answer.finished) == ([], None)


@pytest.mark.parametrize("api", APIS)
async def test_a_wrong_key_is_refused(server: str, api: Api) -> None:
    answer, _ = await ask(api, server, "Hello", key="sk-wrong", model="tiny")
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable, answer.error.status) == ("provider_error", False, 401)


@pytest.mark.parametrize("api", APIS)
async def test_viewers_of_a_relay_are_shown_its_answers(relay: World, server: str, thinker: str, api: Api) -> None:
    for number, url in enumerate((server, thinker)):
        said = await ask_through_a_relay(
            relay, api, url, LLAMA_KEY, "tiny", "Hello", "And then? 🙂", session=f"s{number}"
        )
        assert len(said) == 2
