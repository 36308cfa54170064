"""OpenAI's background responses: the real SDK against a real HTTP server; nothing lost or told twice by any cut."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from relay import settings
from relay_workers import providers
from relay_workers.providers import openai_background
from relay_workers.providers.base import (
    Finished,
    Part,
    Prompt,
    ProviderError,
    ProviderErrorCode,
    Reasoning,
    Resumable,
    ResumeHandle,
    Text,
    Turn,
)
from relay_workers.providers.openai import OpenAIProvider
from relay_workers.providers.openai_background import OpenAIBackgroundProvider
from relay_workers.writing.text_repair import TextRepair
from tests.fakes.provider import FakeProvider, Script
from tests.fakes.script import Body

HELLO = Prompt([Turn("system", "Be brief."), Turn("user", "Hello?"), Turn("assistant", "Yes?"), Turn("user", "Go on.")])
WILD = [
    "👩‍👩‍👧",
    " e\u0301",
    "\u0301",
    "\ud83d",
    "\ude00",
    " 日本",
    "語",
    " 🗺",
    "\ufe0f",
    "\n\n",
    ' <b>&amp;\\" ',
    "\u2028",
]
USAGE = {"prompt_tokens": 11, "completion_tokens": 7}
END = Finished("stop", "test-model", {"input_tokens": 11, "output_tokens": 7})
MARK = ResumeHandle("resp_0")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in os.environ if name.startswith(("OPENAI_", "RELAY_")) or name.lower().endswith("_proxy")
    ]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_background, "RECONNECT_PAUSES_S", (0.0, 0.01, 0.01))
    monkeypatch.setattr(openai_background, "POLL_S", 0.01)


@asynccontextmanager
async def provider_of(
    fake: FakeProvider, model: str = "test-model", **options: Any
) -> AsyncIterator[OpenAIBackgroundProvider]:
    provider = OpenAIBackgroundProvider(None, fake.openai_base_url, model, connect_timeout_s=5, **options)
    try:
        yield provider
    finally:
        await provider.aclose()


async def parts_of(script: Script, prompt: Prompt = HELLO, **options: Any) -> list[Part]:
    async with FakeProvider(script) as fake, provider_of(fake, **options) as provider:
        return [part async for part in provider.stream(prompt)]


async def failure_of(parts: AsyncGenerator[Part, None]) -> tuple[list[Part], ProviderError]:
    """The parts that came before the failure, and the failure."""
    came: list[Part] = []
    try:
        async for part in parts:
            came.append(part)
    except ProviderError as error:
        return came, error
    pytest.fail(f"no ProviderError after {came}")


async def stream_failure_of(script: Script) -> tuple[list[Part], ProviderError]:
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        return await failure_of(provider.stream(HELLO))


def texts(tokens: list[str]) -> list[Part]:
    return [Text(token) for token in tokens]


# What a good answer looks like


async def test_the_mark_comes_first_then_the_text_exactly_and_one_finish_with_the_usage() -> None:
    assert await parts_of(Script(tokens=WILD, usage=USAGE)) == [MARK, *texts(WILD), END]


async def test_the_request_is_one_post_for_a_background_stream_of_the_whole_context() -> None:
    prompt = Prompt(HELLO.turns, model="other-model", max_tokens=5)
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake) as provider:
        parts = [part async for part in provider.stream(prompt)]
    (call,) = fake.calls
    assert call.body == {
        "model": "other-model",
        "input": [{"role": turn.role, "content": turn.content} for turn in HELLO.turns],
        "max_output_tokens": 5,
        "background": True,
        "store": True,
        "stream": True,
    }
    assert (call.prompt, len(call.readers)) == ("Go on.", 1)
    assert isinstance(parts[-1], Finished)
    assert parts[-1].model == "other-model"


async def test_one_connection_serves_one_answer_after_the_other() -> None:
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake) as provider:
        for n in range(3):
            assert [part async for part in provider.stream(HELLO)][:2] == [ResumeHandle(f"resp_{n}"), Text("x")]
        assert len(fake.connections) == 1


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "filter"), ("steered", "other")],
)
async def test_the_finish_is_the_responses_own(reason: str, finish: str) -> None:
    *_, last = await parts_of(Script(tokens=["x"], finish_reason=reason, usage=USAGE))
    assert last == Finished(finish, "test-model", END.usage)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [2**53, -1, True, 1.5])
async def test_an_odd_usage_costs_the_usage_and_not_the_answer(count: int) -> None:
    for usage in ({"prompt_tokens": count, "completion_tokens": 1}, {"prompt_tokens": 1, "completion_tokens": count}):
        parts = await parts_of(Script(tokens=["x"], usage=usage))
        assert parts[1] == Text("x")
        assert parts[-1] == Finished("stop", "test-model", None)


async def test_a_refusal_is_text_with_finish_filter() -> None:
    parts = await parts_of(Script(refusal=["I can't", " help."], usage=USAGE))
    assert parts == [MARK, Text("I can't"), Text(" help."), Finished("filter", "test-model", END.usage)]


async def test_reasoning_comes_apart_from_the_text_each_part_of_it_a_paragraph() -> None:
    script = Script(tokens=["Yes."], reasoning=["Hm", "…"], usage=USAGE)
    assert await parts_of(script) == [MARK, Reasoning("Hm"), Reasoning("\n\n"), Reasoning("…"), Text("Yes."), END]


@pytest.mark.parametrize(("asked", "sent"), [(None, None), (5, 16), (17, 17)])
async def test_a_limit_lower_than_openai_takes_is_its_lowest(asked: int | None, sent: int | None) -> None:
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake) as provider:
        provider._is_openai = True  # as for OpenAI's own host
        assert await _all(provider.stream(Prompt(HELLO.turns, max_tokens=asked)))
    assert fake.calls[0].body.get("max_output_tokens") == sent


REFUSED = '{"error": {"message": "no", "type": "invalid_request_error", "param": "reasoning.summary", "code": "x"}}'


def summing_up_refused(body: Body) -> Script:
    return Script(status=400, status_body=REFUSED) if "reasoning" in body else Script(tokens=["x"])


@pytest.mark.parametrize(
    ("model", "asked"),
    [("gpt-5-mini", True), ("o4-mini", True), ("gpt-10", True), ("gpt-4o", False), ("gpt-5-chat-latest", False)],
)
async def test_a_summary_of_the_reasoning_is_asked_for_only_of_models_that_may_have_it(model: str, asked: bool) -> None:
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake, model) as provider:
        assert [part async for part in provider.stream(HELLO)]
    assert fake.calls[0].body.get("reasoning") == ({"summary": "auto"} if asked else None)


async def test_a_model_that_refuses_to_sum_its_reasoning_up_is_asked_without_from_then_on() -> None:
    async with FakeProvider(summing_up_refused) as fake, provider_of(fake, "gpt-5") as provider:
        for _ in range(2):
            assert Text("x") in [part async for part in provider.stream(HELLO)]
    assert ["reasoning" in call.body for call in fake.calls] == [True, False, False]


# Cuts and silence


@pytest.mark.parametrize("after", range(len(WILD) + 1))
@pytest.mark.parametrize("fault", ["cut_after", "close_after"])
async def test_a_stream_that_breaks_at_any_token_is_taken_up_without_a_token_lost_or_told_twice(
    fault: str, after: int
) -> None:
    script = Script(tokens=WILD, reasoning=["Hm"], usage=USAGE, **{fault: after})  # type: ignore[arg-type]
    parts = await parts_of(script)
    assert parts == [MARK, Reasoning("Hm"), *texts(WILD), END]


@pytest.mark.parametrize("after", range(len(WILD) + 1))
async def test_a_reset_at_any_token_is_taken_up_as_well(after: int) -> None:
    script = Script(tokens=WILD, usage=USAGE, reset_after=after, hold_before=after)
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        parts = provider.stream(HELLO)
        assert [await anext(parts) for _ in range(1 + after)] == [MARK, *texts(WILD[:after])]
        await fake.wait_for(lambda f: f.calls[0].held)
        fake.release()  # only now: a reset may overtake what was sent before it
        assert [part async for part in parts] == [*texts(WILD[after:]), END]


@pytest.mark.parametrize("events", [1, 2, 3, 5])
async def test_however_often_it_breaks_the_answer_is_whole_while_each_connection_brings_something(events: int) -> None:
    async with FakeProvider(Script(tokens=WILD, usage=USAGE, cut_each=events)) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)] == [MARK, *texts(WILD), END]
        starts = [reader.starting_after for reader in fake.calls[0].readers]
    assert starts[0] is None
    assert starts[1:] == [events * n - 1 for n in range(1, len(starts))]
    assert len(fake.calls) == 1


@pytest.mark.parametrize("after", range(0, len(WILD) + 1, 2))
async def test_what_a_server_tells_again_is_not_yielded_again(after: int) -> None:
    script = Script(tokens=WILD, reasoning=["Hm"], usage=USAGE, cut_after=after, retells=True)
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        assert await _all(provider.stream(HELLO)) == [MARK, Reasoning("Hm"), *texts(WILD), END]
    assert [reader.events > after for reader in fake.calls[0].readers] == [True, True]


@pytest.mark.parametrize("retells", [False, True])
async def test_keepalives_have_numbers_of_which_nothing_follows(retells: bool) -> None:
    script = Script(tokens=WILD, usage=USAGE, cut_after=5, keepalives=True, retells=retells)
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        assert await _all(provider.stream(HELLO)) == [MARK, *texts(WILD), END]
    assert [reader.starting_after for reader in fake.calls[0].readers] == [None, 6]


async def test_the_response_goes_on_while_nobody_reads_and_is_then_told_live() -> None:
    script = Script(tokens=WILD, usage=USAGE, cut_after=2, hold_before=6)
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        parts = provider.stream(HELLO)
        assert [await anext(parts) for _ in range(7)] == [MARK, *texts(WILD[:6])]
        await fake.wait_for(lambda f: f.calls[0].held)
        fake.release()
        assert [part async for part in parts] == [*texts(WILD[6:]), END]


async def test_a_silent_connection_is_left_for_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_background, "QUIET_S", 0.3)
    script = Script(tokens=WILD, usage=USAGE, stall_after=3, retrieves=[0, 0, 0, 0, 0])
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)] == [MARK, *texts(WILD), END]
        stalled = fake.calls[0].readers[:6]
        gone = await fake.wait_for(
            lambda f: all(r.client_gone_at for r in stalled) and [r.client_gone_at for r in stalled]
        )
    assert [reader.starting_after for reader in stalled] == [None, 4, 4, 4, 4, 4]
    assert gone == sorted(gone)


async def test_a_response_that_only_thinks_may_take_longer_than_a_connection_may_be_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai_background, "QUIET_S", 0.1)
    async with FakeProvider(Script(tokens=WILD, usage=USAGE, hold_before=1)) as fake, provider_of(fake) as provider:
        parts = provider.stream(HELLO)
        assert [await anext(parts) for _ in range(2)] == [MARK, Text(WILD[0])]
        rest = asyncio.create_task(_all(parts))
        await fake.wait_for(lambda f: len(f.calls[0].readers) > 5)
        fake.release()
        assert await rest == [*texts(WILD[1:]), END]


async def _all(parts: AsyncGenerator[Part, None]) -> list[Part]:
    return [part async for part in parts]


async def test_the_callers_deadline_ends_a_retake_that_hangs() -> None:
    script = Script(tokens=WILD, cut_after=1, retrieves=[0])
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        reading = asyncio.create_task(_all(provider.stream(HELLO)))
        await fake.wait_for(lambda f: f.calls and len(f.calls[0].readers) == 2)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await fake.wait_for(lambda f: f.calls[0].readers[1].client_gone_at)


async def test_the_callers_deadline_ends_a_question_that_hangs() -> None:
    async with FakeProvider(Script(hold_status=True)) as fake, provider_of(fake) as provider:
        reading = asyncio.create_task(_all(provider.stream(HELLO)))
        await fake.wait_for(lambda f: f.calls and f.calls[0].held)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await fake.wait_for(lambda f: f.calls[0].client_gone_at)


async def test_errors_of_a_retake_that_may_pass_are_passed_over() -> None:
    script = Script(tokens=WILD, usage=USAGE, cut_after=4, retrieves=[503, 429])
    assert await parts_of(script) == [MARK, *texts(WILD), END]


@pytest.mark.parametrize(
    ("script", "code", "status"),
    [
        (Script(tokens=["x", "y"], finish_reason=None), "truncated", None),
        (Script(tokens=["x", "y", "z"], cut_after=2, retrieves=[503] * 9), "provider_error", 503),
        (Script(tokens=["x", "y", "z"], cut_after=2, retrieves=[429] * 9), "provider_rate_limited", 429),
    ],
)
async def test_three_retakes_in_a_row_that_bring_nothing_are_a_failure_of_a_response_that_goes_on(
    script: Script, code: ProviderErrorCode, status: int | None
) -> None:
    script = dataclasses.replace(script, hold_before=None if script.finish_reason is None else 3)
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        parts, error = await failure_of(provider.stream(HELLO))
        assert len(fake.calls[0].readers) == 4
    assert parts == [MARK, Text("x"), Text("y")]
    assert (error.code, error.retryable, error.status) == (code, True, status)


async def test_an_ended_response_is_whole_even_where_three_retakes_in_a_row_bring_nothing() -> None:
    parts = await parts_of(Script(tokens=["x", "y", "z"], usage=USAGE, cut_after=1, retrieves=[503] * 9))
    assert parts == [MARK, Text("x"), Text("yz"), END]


async def test_progress_gives_the_retakes_new_patience() -> None:
    script = Script(tokens=WILD, usage=USAGE, cut_each=6, retrieves=[503, 503, 200, 503, 503, 200, 503, 503])
    assert await parts_of(script) == [MARK, *texts(WILD), END]


async def test_a_stream_that_ends_before_its_mark_cannot_be_taken_up() -> None:
    parts, error = await stream_failure_of(Script(tokens=["x"], cut_each=0))
    assert (parts, error.code, error.retryable) == ([], "truncated", True)


# Resuming from a mark


@pytest.mark.parametrize("after", range(0, len(WILD) + 1, 3))
async def test_another_worker_tells_the_same_answer_from_its_first_token_and_goes_on(after: int) -> None:
    script = Script(tokens=WILD, reasoning=["Hm"], usage=USAGE, hold_before=after)
    async with FakeProvider(script) as fake:
        async with provider_of(fake) as first, aclosing(first.stream(HELLO)) as parts:
            assert await anext(parts) == MARK
            await fake.wait_for(lambda f: f.calls[0].held)
        async with provider_of(fake) as second:
            parts = second.resume(MARK.handle)
            told = [await anext(parts) for _ in range(1 + after)]
            assert told == [Reasoning("Hm"), *texts(WILD[:after])]
            fake.release()
            assert [part async for part in parts] == [*texts(WILD[after:]), END]
        (call,) = fake.calls
    assert [reader.starting_after for reader in call.readers] == [None, None]
    assert call.client_gone_at
    assert (call.generated, call.finished, call.cancelled_at) == (len(WILD), True, None)


async def test_a_finished_answer_is_told_again_whole_by_whoever_asks_through_cuts_as_well() -> None:
    async with FakeProvider(Script(tokens=WILD, usage=USAGE, cut_each=4)) as fake, provider_of(fake) as first:
        assert len([part async for part in first.stream(HELLO)]) == len(WILD) + 2
        async with provider_of(fake) as second:
            assert [part async for part in second.resume(MARK.handle)] == [*texts(WILD), END]


async def test_an_expired_response_fails_at_once_and_for_good() -> None:
    async with FakeProvider(Script(tokens=["x"])) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)]
        fake.backgrounds.forget()
        parts, error = await failure_of(provider.resume(MARK.handle))
    assert parts == []
    assert (error.code, error.retryable, error.status) == ("provider_error", False, 404)


@pytest.mark.parametrize("taken_over", [False, True])
async def test_a_cancelled_response_is_an_error_to_whoever_reads_it(taken_over: bool) -> None:
    async with FakeProvider(Script(tokens=["x", "y"], hold_before=1)) as fake, provider_of(fake) as provider:
        parts = provider.stream(HELLO)
        assert [await anext(parts) for _ in range(2)] == [MARK, Text("x")]
        await provider.cancel(MARK.handle)
        came, error = await failure_of(provider.resume(MARK.handle) if taken_over else parts)
        await parts.aclose()
    assert came == ([Text("x")] if taken_over else [])
    assert (error.code, error.retryable) == ("provider_error", False)


# OpenAI answers 400 to a stream asked for five minutes after the response's creation.


@pytest.mark.parametrize("said", [0, 1, 4, 5, len(WILD)])
async def test_what_cannot_be_streamed_any_more_is_completed_from_the_response_itself(said: int) -> None:
    parts = await parts_of(Script(tokens=WILD, usage=USAGE, cut_after=said, retrieves=[400] * 9))
    assert parts[: said + 1] == [MARK, *texts(WILD[:said])]
    assert mended(parts) == mended(texts(WILD))
    assert parts[-1] == END


async def test_what_cannot_be_streamed_any_more_is_waited_for() -> None:
    script = Script(tokens=WILD, usage=USAGE, cut_after=2, hold_before=6, retrieves=[400] * 1000)
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        reading = asyncio.create_task(_all(provider.stream(HELLO)))
        await fake.wait_for(lambda f: f.calls and f.calls[0].held and len(f.calls[0].readers) > 5)
        fake.release()
        parts = await reading
    assert parts[:3] == [MARK, *texts(WILD[:2])]
    assert mended(parts) == mended(texts(WILD))
    assert parts[-1] == END


@pytest.mark.parametrize("refusal", [[], ["I can't", " help."]])
async def test_what_is_too_old_to_be_streamed_is_told_in_one_piece_to_another_worker(refusal: list[str]) -> None:
    script = Script(tokens=["a", "b"], refusal=refusal, usage=USAGE, retrieves=[400])
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)]
        parts = [part async for part in provider.resume(MARK.handle)]
    text = "".join(["a", "b", *refusal])
    assert parts == [Text(text), Finished("filter" if refusal else "stop", "test-model", END.usage)]


def mended(parts: list[Part]) -> bytes:
    mender = TextRepair()
    tokens = [token for part in parts if isinstance(part, Text) for token in mender.feed(part.text)]
    return "".join([*tokens, *mender.flush()]).encode()


# Failures that the response itself names


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (None, "provider_error", True),
        ({"code": "server_error", "message": "sk-secret"}, "provider_error", True),
        ({"code": "rate_limit_exceeded", "message": ""}, "provider_rate_limited", True),
        ({"code": "invalid_prompt", "message": "flagged"}, "provider_refused", False),
        ({"code": "data_residency_mismatch", "message": ""}, "provider_error", False),
        ({"type": "invalid_request_error", "code": "x", "message": ""}, "provider_error", False),
        ({"type": "server_error", "code": "overloaded", "message": ""}, "provider_error", True),
    ],
)
@pytest.mark.parametrize("after", [0, 2])
async def test_a_failed_response_gives_what_came_before_and_then_its_class(
    error: Any, code: ProviderErrorCode, retryable: bool, after: int
) -> None:
    script = Script(tokens=["x", "y", "z"], error_after=after, error=error)
    async with FakeProvider(script) as fake, provider_of(fake) as provider:
        parts, failure = await failure_of(provider.stream(HELLO))
        readers = len(fake.calls[0].readers)
    assert parts == [MARK, Text("x"), Text("y")][: 1 + after]
    assert (failure.code, failure.retryable, readers) == (code, retryable, 1)
    assert "secret" not in str(failure)


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [(500, "provider_error", True), (429, "provider_rate_limited", True), (401, "provider_error", False)],
)
async def test_a_refused_question_is_classed_by_its_status_and_not_asked_again(
    status: int, code: ProviderErrorCode, retryable: bool
) -> None:
    async with FakeProvider(Script(status=status)) as fake, provider_of(fake, "gpt-5") as provider:
        parts, error = await failure_of(provider.stream(HELLO))
        assert len(fake.calls) == 1
    assert (parts, error.code, error.retryable, error.status) == ([], code, retryable, status)


ODD_DELTA = '{"type": "response.output_text.delta", "delta": %s, "sequence_number": %s}'


@pytest.mark.parametrize("garbage", ["[1]", "5", "{}", ODD_DELTA % ("[]", "NUMBER")])
async def test_what_is_no_event_is_an_error(garbage: str) -> None:
    parts, error = await stream_failure_of(Script(tokens=["x"], garbage_after=1, garbage=garbage))
    assert parts == [MARK, Text("x")]
    assert (error.code, error.retryable) == ("provider_error", True)


async def test_a_server_whose_events_nobody_could_resume_is_named_by_its_setting() -> None:
    parts, error = await stream_failure_of(Script(tokens=["x"], garbage_after=1, garbage=ODD_DELTA % ('"x"', "null")))
    assert parts == [MARK, Text("x")]
    assert (error.code, error.retryable, error.misconfigured) == ("provider_error", False, True)
    assert "RELAY_OPENAI_BACKGROUND" in str(error)


@pytest.mark.parametrize("garbage", ['{"type": "response.outp', '"\udcff"'])
async def test_an_event_that_cannot_be_read_may_have_been_cut_and_is_asked_for_again(garbage: str) -> None:
    async with (
        FakeProvider(Script(tokens=["x"], garbage_after=1, garbage=garbage)) as fake,
        provider_of(fake) as provider,
    ):
        parts, error = await failure_of(provider.stream(HELLO))
    assert parts == [MARK, Text("x")]
    assert (error.code, error.retryable) == ("provider_error", True)
    assert [reader.starting_after for reader in fake.calls[0].readers] == [None, 2, 2, 2]


@pytest.mark.parametrize("garbage", ['{"type": "keepalive", "sequence_number": NUMBER}', '{"type": "response.new"}'])
async def test_events_of_another_kind_are_passed_over(garbage: str) -> None:
    _, error = await stream_failure_of(Script(tokens=["x"], garbage_after=1, garbage=garbage))
    assert error.code == "truncated"


@pytest.mark.parametrize("named", ["", "r" * 257, "schlüssel", "a\nb", "..", 5, {"a": 1}])
async def test_a_response_whose_id_cannot_be_a_mark_is_an_error(named: Any) -> None:
    parts, error = await stream_failure_of(Script(tokens=["x"], response_id=named))
    assert (parts, error.code, error.retryable) == ([], "provider_error", False)


async def test_an_id_with_anything_printable_in_it_serves_as_a_mark() -> None:
    odd = "resp/../ 1?%2f#\"'"
    parts = await parts_of(Script(tokens=WILD, usage=USAGE, response_id=odd, cut_after=3))
    assert parts == [ResumeHandle(odd), *texts(WILD), END]


# How it is stopped


async def test_cancel_stops_the_response_there_and_is_harmless_afterwards() -> None:
    async with FakeProvider(Script(tokens=["x", "y"], hold_before=1)) as fake, provider_of(fake) as provider:
        async with aclosing(provider.stream(HELLO)) as parts:
            assert await anext(parts) == MARK
            await fake.wait_for(lambda f: f.calls[0].held)
        await provider.cancel(MARK.handle)
        at = fake.calls[0].cancelled_at
        await provider.cancel(MARK.handle)
    assert at
    assert (fake.calls[0].cancelled_at, fake.calls[0].generated) == (at, 1)


@pytest.mark.parametrize("status", [None, 400, 409])
async def test_cancelling_what_has_ended_is_harmless_however_the_server_takes_it(status: int | None) -> None:
    async with FakeProvider(Script(tokens=["x"], cancel_status=status)) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)]
        await provider.cancel(MARK.handle)
        assert fake.calls[0].cancelled_at is None


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (500, "provider_error", True),
        (401, "provider_error", False),
        (404, "provider_error", False),
        (0, "provider_timeout", True),
    ],
)
async def test_a_cancel_that_fails_says_so_in_time(
    status: int, code: ProviderErrorCode, retryable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status == 0:
        monkeypatch.setattr(openai_background, "CANCEL_S", 0.05)
    async with FakeProvider(Script(tokens=["x"], cancel_status=status)) as fake, provider_of(fake) as provider:
        assert [part async for part in provider.stream(HELLO)]
        with pytest.raises(ProviderError) as caught:
            await provider.cancel(MARK.handle)
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


async def test_closing_the_generator_closes_the_connection_and_nothing_else() -> None:
    async with FakeProvider(Script(tokens=["x", "y"], hold_before=1)) as fake, provider_of(fake) as provider:
        stream = provider.stream(HELLO)
        assert [await anext(stream) for _ in range(2)] == [MARK, Text("x")]
        await stream.aclose()
        await fake.wait_for(lambda f: f.calls[0].client_gone_at)
        fake.release()
        call = await fake.wait_for(lambda f: f.calls[0].finished and f.calls[0])
    assert (call.generated, call.cancelled_at, len(call.readers)) == (2, None, 1)


@pytest.mark.parametrize("resumed", [False, True])
async def test_cancelling_the_reading_task_closes_the_connection_and_nothing_else(resumed: bool) -> None:
    async with FakeProvider(Script(tokens=["x", "y"], hold_before=1)) as fake, provider_of(fake) as provider:
        reading = asyncio.create_task(_all(provider.stream(HELLO)))
        call = await fake.wait_for(lambda f: f.calls and f.calls[0].held and f.calls[0])
        if resumed:
            other = asyncio.create_task(_all(provider.resume(MARK.handle)))
            await fake.wait_for(lambda f: len(call.readers) == 2 and call.readers[1].events == 3)
            reading, other = other, reading
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await fake.wait_for(lambda f: call.readers[-1].client_gone_at)
        fake.release()
        if resumed:
            assert (await other)[:3] == [MARK, Text("x"), Text("y")]
        await fake.wait_for(lambda f: call.finished)
    assert (call.generated, call.cancelled_at) == (2, None)


# Settings


@pytest.mark.parametrize(
    ("background", "kind"), [(False, OpenAIProvider), (True, OpenAIBackgroundProvider)], ids=["off", "on"]
)
async def test_the_setting_chooses_it(background: bool, kind: type[OpenAIProvider]) -> None:
    provider = providers.make("openai", settings.load(openai_api_key="k", openai_background=background))
    assert type(provider) is kind
    assert provider.name == "openai"
    assert isinstance(provider, Resumable) is background
    await provider.aclose()
