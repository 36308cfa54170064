"""Asking: one provider after the other, by the deadlines of tokens, and what is said of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from relay import settings
from relay.protocol.options import Options
from relay.store.jobs import Job
from relay.store.session.replies import Claim
from relay_workers.asking.breaker import Breaker
from relay_workers.asking.provider_pool import ProviderPool, ProviderSlot
from relay_workers.providers.base import Data, Finished, Part, Prompt, ProviderError, Reasoning, Text, TextComplete
from tests.store.in_memory import job_of, queue_on, redis_in_memory, session_log_on, snapshot, whole_log
from tests.workers.generations import generation_of

NEVER = object()  # the provider falls silent for good
Said = Part | ProviderError | object


class Scripted:
    """Says one line of `lines` per call, part by part; an error is raised, a number is a pause in seconds."""

    model = "m"

    def __init__(
        self, name: str, *lines: list[Said], first_token_s: float | None = None, options: Options | None = None
    ) -> None:
        self.name = name
        self.lines = list(lines)
        self.first_token_s = first_token_s
        self.calls = 0
        self.closed = 0
        self.options = options
        self.asked: list[Prompt] = []

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        self.asked.append(prompt)
        line = self.lines[min(self.calls, len(self.lines) - 1)]
        self.calls += 1
        try:
            for said in line:
                if isinstance(said, ProviderError):
                    raise said
                if said is NEVER:
                    await asyncio.Event().wait()
                elif isinstance(said, float):
                    await asyncio.sleep(said)
                else:
                    yield said  # type: ignore[misc]
        finally:
            self.closed += 1

    async def check(self) -> None: ...

    async def aclose(self) -> None: ...


def whole(*texts: str) -> list[Said]:
    return [*map(Text, texts), Finished("stop", "m")]


def fails(code: Any = "provider_error", *, retryable: bool = True, status: int | None = 503) -> ProviderError:
    return ProviderError(code, "as scripted", retryable=retryable, status=status)


async def answered(*providers: Scripted, **given: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The generation as it ended, and the log. `given`: settings, and the `job` if it is to be another."""
    seats = [ProviderSlot(provider, Breaker(5, 15), None, provider.options) for provider in providers]
    job: Job | None = given.pop("job", None)
    async with redis_in_memory() as redis:
        log = session_log_on(redis)
        await log.admit(job_of())
        claim = await log.claim("s", "g1", "w", 60_000, 0)
        assert isinstance(claim, Claim)
        quick = settings.load(**{"provider_retry_ms": 1, **given})
        async with asyncio.timeout(20):
            generation = generation_of(claim, "w", ProviderPool(seats), log, queue_on(redis), quick, job=job)
            assert await generation.run() is True
        assert all(provider.closed == provider.calls for provider in providers)
        return await snapshot(log), await whole_log(log)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


@pytest.mark.parametrize("shows", [Text("half "), Reasoning("half "), Data("card", {"n": 1})])
async def test_what_was_shown_of_a_provider_that_failed_is_void_before_another_says_anything(shows: Part) -> None:
    shown, events = await answered(Scripted("a", [shows, fails()]), Scripted("b", whole("all ", "of it")))
    assert (shown["text"], shown["reasoning"] or "", shown["attempt"]) == ("all of it", "", 2)
    void = types(events).index("restart")
    assert all(event["attempt"] == 1 for event in events[:void] if event["type"] != "message")
    assert all(event["attempt"] == 2 for event in events[void:])
    assert next(event["index"] for event in events[void:] if event["type"] == "tokens") == 0


async def test_nothing_is_void_where_nothing_was_shown() -> None:
    shown, events = await answered(Scripted("a", [fails()]), Scripted("b", whole("all ", "of it")))
    assert (shown["text"], shown["attempt"], shown["provider"]) == ("all of it", 1, "b")
    assert "restart" not in types(events)
    assert [event["state"] for event in events if event["type"] == "status"][-2:] == ["thinking", "retrying"]


async def test_each_provider_is_asked_with_its_own_options_beneath_the_submits() -> None:
    """Also where it is asked again: nothing of the one between stays."""
    first = Scripted("a", [fails()], whole("all"), options=Options(temperature=0.1, effort="low"))
    second = Scripted("b", [fails()], options=Options(temperature=0.9, seed=7))
    await answered(first, second, job=job_of(options=Options(temperature=0.5, stop=["END"])))
    of_first, of_second = ([prompt.options for prompt in provider.asked] for provider in (first, second))
    assert of_first == [Options(temperature=0.5, stop=["END"], effort="low")] * 2
    assert of_second == [Options(temperature=0.5, stop=["END"], seed=7)]


async def test_without_options_nothing_is_asked_for() -> None:
    provider = Scripted("a", whole("all"))
    await answered(provider)
    assert [prompt.options for prompt in provider.asked] == [None]


async def test_the_last_failure_is_the_answers() -> None:
    first, second = Scripted("a", [fails()]), Scripted("b", [fails("provider_refused", retryable=False, status=400)])
    shown, _ = await answered(first, second)
    assert (shown["reason"], shown["error"]["code"], shown["provider"]) == ("failed", "provider_refused", "b")
    assert (first.calls, second.calls) == (1, 1)


async def test_deltas_without_text_are_no_progress() -> None:
    silent = Scripted("a", [Text("x"), *[Text(""), 0.05] * 100])
    shown, _ = await answered(silent, token_timeout_s=0.5)
    assert (shown["error"]["code"], shown["text"]) == ("provider_timeout", "x")


@pytest.mark.parametrize("shows", [Text("a"), Reasoning("a"), Data("a", 1)])
async def test_whatever_is_shown_is_progress(shows: Part) -> None:
    slow = Scripted("a", [*[shows, 0.2] * 4, Text("b"), Finished("stop", "m")])
    shown, _ = await answered(slow, token_timeout_s=0.5, first_token_timeout_s=0.5)
    assert shown["reason"] == "complete"


async def test_text_after_a_finish_that_came_early_has_its_deadline_again() -> None:
    early = Scripted("a", [Text("a"), TextComplete(), 0.7, Text("b"), NEVER])
    shown, _ = await answered(early, token_timeout_s=0.3, provider_retries=0)
    assert (shown["error"]["code"], shown["text"]) == ("provider_timeout", "ab")


async def test_a_model_whose_thinking_nobody_is_shown_is_not_silent() -> None:
    thinks = Scripted("a", [*[Reasoning("hm"), 0.2] * 4, Text("b"), Finished("stop", "m")])
    shown, events = await answered(thinks, token_timeout_s=0.5, first_token_timeout_s=0.5, reasoning=False)
    assert (shown["reason"], shown["text"]) == ("complete", "b")
    assert "reasoning" not in types(events)


async def test_a_provider_may_have_a_deadline_of_its_own_for_its_first_token() -> None:
    hasty = {"first_token_timeout_s": 0.1, "provider_retries": 0}
    slow = Scripted("a", [0.3, *whole("x")], first_token_s=20)
    assert (await answered(slow, **hasty))[0]["reason"] == "complete"
    assert (await answered(Scripted("a", [NEVER]), **hasty))[0]["error"]["code"] == "provider_timeout"


async def test_the_whole_answer_has_a_deadline_failovers_included() -> None:
    providers = [Scripted("a", [0.2, fails()]), Scripted("b", [Text("x"), *[Text("y"), 0.05] * 100])]
    shown, _ = await answered(*providers, answer_timeout_s=0.6)
    assert (shown["reason"], shown["error"]["code"]) == ("failed", "provider_timeout")
    assert shown["text"].startswith("xy")


async def test_what_came_before_the_deadline_of_the_whole_answer_is_kept() -> None:
    """As a token's is: time passes here only while the loop listens, and these come without a pause."""
    for deadline in ("answer_timeout_s", "token_timeout_s"):
        silent = Scripted("a", [*map(Text, "abcde"), NEVER])
        shown, _ = await answered(silent, **{deadline: 0.3, "provider_retries": 0})
        assert (shown["error"]["code"], shown["text"]) == ("provider_timeout", "abcde")


async def test_the_bound_of_an_answer_counts_each_attempt_by_itself() -> None:
    long = Text("x" * 1000)
    first, second = Scripted("a", [long, fails()]), Scripted("b", [long, Finished("stop", "m")])
    assert (await answered(first, second, max_answer_bytes=1500))[0]["reason"] == "complete"
    shown, _ = await answered(Scripted("a", [long, long]), max_answer_bytes=1500)
    assert (shown["error"]["code"], shown["text"]) == ("too_long", "x" * 1000)


async def test_data_stands_in_its_place_among_the_tokens() -> None:
    line = [Data("first", 1), Text("a"), Text("b"), Data("second", {"n": 2}), Reasoning("r"), Text("c")]
    shown, events = await answered(Scripted("a", [*line, Finished("stop", "m")]))
    said = [event for event in events if event["type"] in ("tokens", "reasoning", "data")]
    assert [(event["name"], event["value"], event["at"]) for event in said if event["type"] == "data"] == [
        ("first", 1, 0),
        ("second", {"n": 2}, 2),
    ]
    order = [event.get("text") or event["name"] for event in said]
    assert order.index("first") == 0
    assert order.index("second") < order.index("r") < order.index("c")
    assert shown["text"] == "abc"


async def test_each_call_is_counted_once_by_what_came_of_it() -> None:
    def now() -> list[float]:
        pairs = [("a", "provider_error"), ("b", "complete")]
        calls = [counted("relay_provider_calls_total", provider=name, outcome=outcome) for name, outcome in pairs]
        return [*calls, counted("relay_failovers_total", provider="a", moment="first_token")]

    before = now()
    await answered(Scripted("a", [fails()]), Scripted("b", whole("x")))
    assert [after - earlier for after, earlier in zip(now(), before, strict=True)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("failure", "opens"),
    [
        (fails(), True),
        (fails("provider_timeout", status=None), True),
        (fails(retryable=False, status=401), True),
        (fails(retryable=False, status=400), False),
        (fails("provider_refused", retryable=False, status=400), False),
    ],
    ids=["503", "timeout", "401", "400", "refused"],
)
async def test_what_is_the_providers_fault_opens_its_breaker_and_what_was_asked_does_not(
    failure: ProviderError, opens: bool
) -> None:
    provider = Scripted("a", [failure])
    breaker = Breaker(1, 600)
    async with redis_in_memory() as redis:
        log = session_log_on(redis)
        await log.admit(job_of())
        claim = await log.claim("s", "g1", "w", 60_000, 0)
        assert isinstance(claim, Claim)
        once = settings.load(provider_retries=0)
        lineup = ProviderPool([ProviderSlot(provider, breaker)])
        await generation_of(claim, "w", lineup, log, queue_on(redis), once).run()
    assert (breaker.opened == 1) is opens


async def test_a_worker_without_its_lease_asks_nobody_until_it_knows() -> None:
    provider = Scripted("a", whole("x"))
    async with redis_in_memory() as redis:
        log = session_log_on(redis)
        await log.admit(job_of())
        claim = await log.claim("s", "g1", "w", 60_000, 0)
        assert isinstance(claim, Claim)
        stale = claim._replace(asked_s=-1e9)  # it was frozen since
        await log.release("s", "g1", claim.fence)
        assert isinstance(await log.claim("s", "g1", "another", 60_000, 0), Claim)
        alone = ProviderPool([ProviderSlot(provider, Breaker(5, 15))])
        async with asyncio.timeout(20):
            ended = await generation_of(stale, "w", alone, log, queue_on(redis), settings.load()).run()
        assert (ended, provider.calls) == (False, 0)
