"""Learning what a server refuses: the rules on a pretended server, then the real SDKs against a real HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from relay import metrics
from relay.protocol.options import Options
from relay_workers.providers import request_adapter
from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Finished, Prompt, ProviderError, Turn
from relay_workers.providers.openai import OpenAIProvider
from relay_workers.providers.openai_background import OpenAIBackgroundProvider
from relay_workers.providers.request import OTHER_NAME, Parameter, Request
from relay_workers.providers.request_adapter import MAX_ADAPTATIONS, MAX_MODELS, RequestAdapter
from tests.fakes.provider import FakeProvider, Script
from tests.fakes.script import Body

PARAMETERS: tuple[Parameter, ...] = ("temperature", "top_p", "stop", "seed", "reasoning_effort", "stream_options")


class Refusal(Exception):
    """An SDK's error."""

    def __init__(self, parameter: str, status: int = 400, why: str = "is not supported") -> None:
        super().__init__(parameter)
        self.status_code = status
        self.body = {"message": f"'{parameter}' {why}", "param": parameter}


class Server:
    """Refuses these parameters, one at a time; `asked` are the requests so far, by their parameters."""

    def __init__(self, *refuses: str, why: str = "is not supported") -> None:
        self.refuses = list(refuses)
        self.why = why
        self.asked: list[set[str]] = []

    async def send(self, arguments: dict[str, Any]) -> str:
        self.asked.append({*arguments})
        await asyncio.sleep(0)
        for parameter in self.refuses:
            if parameter in arguments:
                raise Refusal(parameter, why=self.why)
        return "answered"


def builder(*parameters: Parameter) -> Callable[[frozenset[Parameter]], Request]:
    def build(refused: frozenset[Parameter]) -> Request:
        sent = [name for name in parameters if name not in refused]
        sent += [OTHER_NAME[name] for name in parameters if name in refused and name in OTHER_NAME]
        ignored = tuple(name for name in parameters if name not in sent and name not in OTHER_NAME)
        return Request(dict.fromkeys(sent, 1), frozenset(sent), ignored)

    return build


@pytest.fixture
def adapter() -> RequestAdapter:
    return RequestAdapter("openai")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterable[list[dict[str, Any]]]:
    with capture_logs() as lines:
        monkeypatch.setattr(request_adapter, "logger", structlog.get_logger())
        yield lines  # type: ignore[misc]


def adapted(parameter: str, provider: str = "openai") -> float:
    return float(metrics.provider_requests_adapted.labels(provider, parameter)._value.get())


# The rules


async def test_what_is_refused_is_left_out_at_once_and_from_then_on(
    adapter: RequestAdapter, logged: list[dict[str, Any]]
) -> None:
    server, before = Server("seed", "stop"), adapted("seed")
    for _ in range(2):
        assert await adapter.ask("m", builder("seed", "stop", "top_p"), server.send) == "answered"

    assert server.asked == [{"seed", "stop", "top_p"}, {"stop", "top_p"}, {"top_p"}, {"top_p"}]
    assert adapted("seed") == before + 1
    expected = [("request_adapted", "parameter", "seed"), ("request_adapted", "parameter", "stop")]
    expected += [("option_ignored", "option", "seed"), ("option_ignored", "option", "stop")]
    assert logged == [
        {"event": event, "log_level": "warning", "provider": "openai", "model": "m", name: value}
        for event, name, value in expected
    ]


async def test_models_are_apart(adapter: RequestAdapter) -> None:
    server = Server("seed")
    await adapter.ask("a", builder("seed"), server.send)
    await adapter.ask("b", builder("seed"), server.send)
    assert server.asked == [{"seed"}, set(), {"seed"}, set()]


async def test_a_limit_changes_its_name_and_back_but_is_never_left_out(adapter: RequestAdapter) -> None:
    server = Server("max_tokens")
    await adapter.ask("m", builder("max_tokens"), server.send)
    server.refuses = ["max_completion_tokens"]  # another server behind the same address
    await adapter.ask("m", builder("max_tokens"), server.send)
    await adapter.ask("m", builder("max_tokens"), server.send)
    server.refuses = ["max_completion_tokens", "max_tokens"]
    with pytest.raises(Refusal):
        await adapter.ask("m", builder("max_tokens"), server.send)

    old, new = {"max_tokens"}, {"max_completion_tokens"}
    assert server.asked == [old, new, new, old, old, old, new]


async def test_nothing_is_learned_if_the_request_is_refused_all_the_same(
    adapter: RequestAdapter, logged: list[dict[str, Any]]
) -> None:
    server = Server("seed", "model")

    async def send(arguments: dict[str, Any]) -> str:
        return await server.send({"model": 1, **arguments})

    with pytest.raises(Refusal, match="model"):
        await adapter.ask("m", builder("seed"), send)
    server.refuses = []
    await adapter.ask("m", builder("seed"), send)
    assert server.asked == [{"model", "seed"}, {"model"}, {"model", "seed"}]
    assert logged == []


async def test_a_few_parts_of_one_call_at_most(adapter: RequestAdapter) -> None:
    await adapter.ask("m", builder(*PARAMETERS), Server(*PARAMETERS).send)  # every option there is, and the usage
    many: tuple[Parameter, ...] = (*PARAMETERS, "thinking", "output_config", "stop_sequences")
    server = Server(*many)
    with pytest.raises(Refusal):
        await adapter.ask("another", builder(*many), server.send)
    assert len(server.asked) == MAX_ADAPTATIONS + 1


async def test_a_value_that_does_not_fit_is_left_out_of_this_call_only(
    adapter: RequestAdapter, logged: list[dict[str, Any]]
) -> None:
    server = Server("temperature", why="must be between 0 and 1")
    await adapter.ask("m", builder("temperature"), server.send)
    await adapter.ask("m", builder("temperature"), server.send)
    assert server.asked == [{"temperature"}, set()] * 2
    assert [line["event"] for line in logged] == ["option_ignored"]


async def test_what_cannot_be_left_out_is_not_tried_for_ever(adapter: RequestAdapter) -> None:
    server = Server("seed")
    request = Request({"seed": 1}, frozenset({"seed"}))
    with pytest.raises(Refusal):
        await adapter.ask("m", lambda _: request, server.send)
    assert len(server.asked) == 2


@pytest.mark.parametrize("error", [Refusal("seed", 429), Refusal("logprobs"), ValueError("seed is not supported")])
async def test_any_other_error_is_passed_on_at_once(adapter: RequestAdapter, error: Exception) -> None:
    asked: list[dict[str, Any]] = []

    async def send(arguments: dict[str, Any]) -> str:
        asked.append(arguments)
        raise error

    with pytest.raises(type(error)) as raised:
        await adapter.ask("m", builder("seed"), send)
    assert raised.value is error
    assert len(asked) == 1


async def test_calls_at_once_learn_side_by_side(adapter: RequestAdapter, logged: list[dict[str, Any]]) -> None:
    server = Server("seed", "stop")
    calls = [builder("seed", "top_p"), builder("stop", "top_p"), builder("seed", "stop")]
    assert await asyncio.gather(*(adapter.ask("m", build, server.send) for build in calls * 3)) == ["answered"] * 9
    server.asked.clear()
    await adapter.ask("m", builder("seed", "stop", "top_p"), server.send)
    assert server.asked == [{"top_p"}]
    names = sorted(line["parameter"] for line in logged if line["event"] == "request_adapted")
    assert names == ["seed", "stop"]


async def test_of_many_models_those_asked_longest_ago_are_forgotten(
    adapter: RequestAdapter, logged: list[dict[str, Any]]
) -> None:
    server = Server("seed")
    for number in range(MAX_MODELS):
        await adapter.ask(f"m{number}", builder("seed"), server.send)
    await adapter.ask("m0", builder("seed"), server.send)
    await adapter.ask("another", builder("seed"), server.send)
    server.asked.clear()
    await adapter.ask("m0", builder("seed"), server.send)
    assert server.asked == [set()]
    await adapter.ask("m1", builder("seed"), server.send)
    assert server.asked == [set(), {"seed"}, set()]
    assert len(adapter._refused) == len(adapter._logged) == MAX_MODELS


# The real SDKs

ASKED = Prompt(
    [Turn("system", "Be brief."), Turn("user", "1"), Turn("user", "2")],
    max_tokens=5,
    options=Options(temperature=0.5, stop=["END"], effort="low"),
)


@asynccontextmanager
async def providers(fake: FakeProvider) -> AsyncIterator[dict[str, Any]]:
    model = "claude-sonnet-4-6"  # takes all three options
    made: dict[str, Any] = {
        "openai": OpenAIProvider(None, fake.openai_base_url, "m", 5),
        "background": OpenAIBackgroundProvider(None, fake.openai_base_url, "gpt-5.2", 5),
        "anthropic": AnthropicProvider(None, fake.anthropic_base_url, model, 5),
    }
    try:
        yield made
    finally:
        for provider in made.values():
            await provider.aclose()


def refusing(status: int, body: Any, refused: Callable[[Body], bool]) -> Callable[[Body], Script]:
    def script(asked: Body) -> Script:
        return Script(status=status, status_body=json.dumps(body)) if refused(asked) else Script(tokens=["x"])

    return script


def roles_of(body: Body) -> str:
    return "".join(turn["role"][0] for turn in body.get("messages") or body.get("input") or [])


OPENAI_ERROR = {
    "error": {"message": "Unsupported parameter: 'temperature' is not supported", "param": "temperature", "code": "x"}
}
FASTAPI = {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]}
MISTRAL = {"object": "error", "message": FASTAPI, "type": "invalid_request_error", "param": None, "code": None}
LIMIT = {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model.", "param": None}}
XAI = {"code": "Client specified an invalid argument", "error": "Argument not supported on this model: stop"}
ANTHROPIC = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "This model does not support the effort parameter."},
}
TEMPLATE = {"error": {"code": 500, "message": "Conversation roles must alternate user/assistant/…", "type": "x"}}
REASONING = {
    "error": {"message": "Unsupported parameter: 'reasoning.effort'", "param": "reasoning.effort", "code": "x"}
}


@pytest.mark.parametrize(
    ("name", "status", "body", "refused"),
    [
        ("openai", 400, OPENAI_ERROR, lambda asked: "temperature" in asked),
        ("openai", 422, FASTAPI, lambda asked: "stream_options" in asked),
        ("openai", 422, MISTRAL, lambda asked: "stream_options" in asked),
        ("openai", 400, LIMIT, lambda asked: "max_completion_tokens" not in asked),
        ("openai", 400, XAI, lambda asked: "stop" in asked),
        ("openai", 500, TEMPLATE, lambda asked: roles_of(asked) != "su"),
        ("openai", 400, TEMPLATE, lambda asked: roles_of(asked) != "u"),  # first the order, then the system turn
        ("background", 400, REASONING, lambda asked: "effort" in asked.get("reasoning", {})),
        ("background", 400, OPENAI_ERROR, lambda asked: "temperature" in asked),
        ("anthropic", 400, ANTHROPIC, lambda asked: "output_config" in asked),
        ("anthropic", 400, {**ANTHROPIC, "error": {"message": "`temperature` is deprecated for this model"}},
         lambda asked: "temperature" in asked),
    ],
)  # fmt: skip
async def test_an_answer_comes_all_the_same_and_the_next_one_at_the_first_try(
    name: str, status: int, body: Any, refused: Callable[[Body], bool]
) -> None:
    async with FakeProvider(refusing(status, body, refused)) as fake, providers(fake) as made:
        for _ in range(2):
            parts = [part async for part in made[name].stream(ASKED)]
            assert isinstance(parts[-1], Finished)
        asked = [refused(call.body) for call in fake.calls]
        assert asked[-2:] == [False, False]
        assert asked[0] is True
        assert len(fake.connections) == 1  # the refused request's connection is used again
        assert len(asked) <= 4


async def test_two_answers_at_once_both_come(logged: list[dict[str, Any]]) -> None:
    refusal = Script(status=400, status_body=json.dumps(OPENAI_ERROR), hold_status=True)
    async with FakeProvider(lambda asked: refusal if "temperature" in asked else Script(tokens=["x"])) as fake:
        async with providers(fake) as made:

            async def answer() -> Any:
                return [part async for part in made["openai"].stream(ASKED)][-1]

            answers = asyncio.gather(answer(), answer())
            await fake.wait_for(lambda f: len(f.calls) == 2 and all(call.held for call in f.calls))
            fake.release()
            assert all(isinstance(last, Finished) for last in await answers)
        assert ["temperature" in call.body for call in fake.calls] == [True, True, False, False]
    assert [line["event"] for line in logged] == ["request_adapted", "option_ignored"]


async def test_the_error_of_the_second_request_counts() -> None:
    refusal = Script(status=400, status_body=json.dumps(OPENAI_ERROR))
    async with FakeProvider(lambda asked: refusal if "temperature" in asked else Script(status=503)) as fake:
        async with providers(fake) as made:
            with pytest.raises(ProviderError) as raised:
                assert [part async for part in made["openai"].stream(ASKED)]
        assert (raised.value.status, raised.value.retryable, len(fake.calls)) == (503, True, 2)


@pytest.mark.parametrize("name", ["openai", "background", "anthropic"])
async def test_a_refused_question_is_asked_once(name: str) -> None:
    script = Script(status=400, status_body='{"error": {"message": "no", "param": "messages"}}')
    async with FakeProvider(script) as fake, providers(fake) as made:
        with pytest.raises(ProviderError) as raised:
            assert [part async for part in made[name].stream(ASKED)]
        assert (raised.value.status, len(fake.calls)) == (400, 1)


async def test_an_option_that_the_api_lacks_is_logged_once(logged: list[dict[str, Any]]) -> None:
    prompt = Prompt(ASKED.turns, options=Options(seed=1, stop=["END"]))
    async with FakeProvider(Script(tokens=["x"])) as fake, providers(fake) as made:
        for _ in range(2):
            for provider in made.values():
                assert [part async for part in provider.stream(prompt)]
        assert [call.body.get("seed") for call in fake.calls] == [1, None, None] * 2
    assert [(line["event"], line["provider"], line["option"]) for line in logged] == [
        ("option_ignored", "openai", "stop"),
        ("option_ignored", "openai", "seed"),
        ("option_ignored", "anthropic", "seed"),
    ]
