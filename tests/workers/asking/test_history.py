"""What the model is given: bounded in turns and tokens, newest first, whole exchanges only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from relay import settings
from relay.protocol.commands import Options
from relay.protocol.commands import Turn as SubmittedTurn
from relay.store.session.session_log import SessionLog
from relay_workers.app import Job
from relay_workers.asking.history import prompt_for
from relay_workers.limits import history_limits
from relay_workers.providers.agent import AgentProvider
from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Finished
from relay_workers.providers.openai import OpenAIProvider
from relay_workers.providers.openai_background import OpenAIBackgroundProvider
from tests.fakes.provider import FakeProvider, Script
from tests.fakes.script import Body, messages_of, text_of
from tests.store.in_memory import answered, claimed, job_of, redis_in_memory, session_log_on


@pytest.fixture
async def session_log() -> AsyncIterator[SessionLog]:
    async with redis_in_memory() as redis:
        yield session_log_on(redis)


async def prompted(log: SessionLog, job: Any, **bounds: Any) -> list[tuple[str, str]]:
    """(role, content) of each turn that the job's model is given."""
    await log.admit(job)
    writer = await claimed(log, job)
    prompt = await prompt_for(job, writer.history, log.snapshots, history_limits(settings.load(**bounds)))
    return [(turn.role, turn.content) for turn in prompt.turns]


async def test_completed_exchanges_come_in_order_before_the_question(session_log: SessionLog) -> None:
    for name in ("g1", "g2"):
        await answered(session_log, job_of(name), f"answer of {name}")
    await answered(session_log, job_of("g3"), "half an ans", reason="failed")
    assert await prompted(session_log, job_of("g4", system="Be brief.")) == [
        ("system", "Be brief."),
        ("user", "question of g1"), ("assistant", "answer of g1"),
        ("user", "question of g2"), ("assistant", "answer of g2"),
        ("user", "question of g4"),
    ]  # fmt: skip


async def test_the_newest_exchanges_that_fit_are_kept_whole(session_log: SessionLog) -> None:
    for name, size in [("g1", 10), ("g2", 4000), ("g3", 1000), ("g4", 1000)]:
        await answered(session_log, job_of(name, content="q"), "a" * size)
    job = job_of("g5", content="now")
    given = await prompted(session_log, job, history_tokens=600)  # 2,400 bytes: g4 and g3, not g2, so not g1 either
    assert [len(content) for _, content in given] == [1, 1000, 1, 1000, 3]


@pytest.mark.parametrize(("tokens", "turns"), [(500, 1), (501, 3)])
async def test_the_bound_is_met_to_the_byte(session_log: SessionLog, tokens: int, turns: int) -> None:
    await answered(session_log, job_of("g1", content="qqqq"), "a" * 2000)
    assert len(await prompted(session_log, job_of("g2"), history_tokens=tokens)) == turns


async def test_bytes_count_not_characters(session_log: SessionLog) -> None:
    await answered(session_log, job_of("g1", content="q"), "🙂" * 100)
    assert len(await prompted(session_log, job_of("g2"), history_tokens=100)) == 1


async def test_a_retry_sees_what_its_question_saw_also_when_later_turns_are_long(session_log: SessionLog) -> None:
    await answered(session_log, job_of("g1"), "one")
    await answered(session_log, job_of("g2"), "two")
    await answered(session_log, job_of("g3"), "x" * 9000)
    retry = job_of("g4", retry_of="g2", message_id="m-g2", content="question of g2")
    assert await prompted(session_log, retry, history_tokens=100) == [
        ("user", "question of g1"), ("assistant", "one"), ("user", "question of g2"),
    ]  # fmt: skip


async def test_an_answer_that_is_made_after_its_retry_does_not_see_its_own_question_answered(
    session_log: SessionLog,
) -> None:
    await answered(session_log, job_of("g0"), "before")
    await session_log.admit(job_of("g1"))  # and no worker has it yet
    await answered(session_log, job_of("g2", retry_of="g1", message_id="m-g1", content="question of g1"), "the retry's")
    await answered(session_log, job_of("g3"), "later")
    assert await prompted(session_log, job_of("g1")) == [
        ("user", "question of g0"), ("assistant", "before"), ("user", "question of g1"),
    ]  # fmt: skip


async def test_given_messages_are_the_whole_context(session_log: SessionLog) -> None:
    await answered(session_log, job_of("g1"), "one")
    job = job_of("g2", messages=[SubmittedTurn("assistant", "Hm?"), SubmittedTurn("user", "Well")])
    assert await prompted(session_log, job) == [("assistant", "Hm?"), ("user", "Well")]


@pytest.mark.parametrize(
    ("asked", "default", "cap", "given"),
    [(None, 0, 0, None), (None, 100, 0, 100), (50, 100, 0, 50), (500, 100, 200, 200), (None, 0, 200, 200),
     (None, 300, 200, 200), (150, 0, 200, 150)],
)  # fmt: skip
async def test_max_tokens_has_a_default_and_a_cap(
    session_log: SessionLog,
    asked: int | None,
    default: int,
    cap: int,
    given: int | None,
) -> None:
    bounds = history_limits(settings.load(max_tokens=default, max_tokens_cap=cap))
    assert (await prompt_for(job_of(max_tokens=asked), [], session_log.snapshots, bounds)).max_tokens == given


async def test_the_prompt_says_for_whom_it_is_and_what_the_submit_had_beside_it(session_log: SessionLog) -> None:
    job = job_of("g1", metadata={"user": "u"})
    prompt = await prompt_for(job, [], session_log.snapshots, history_limits(settings.load()))
    assert (prompt.session, prompt.generation, prompt.metadata) == (job.session, "g1", {"user": "u"})


async def test_the_options_of_a_job_are_given_as_they_are(session_log: SessionLog) -> None:
    bounds = history_limits(settings.load())
    for options in (None, Options(top_p=0.5)):
        assert (await prompt_for(job_of(options=options), [], session_log.snapshots, bounds)).options == options


async def test_a_session_with_an_answer_without_text_goes_on(session_log: SessionLog) -> None:
    """A model that refuses, or only calls a tool, leaves a turn that most APIs refuse the whole context for."""
    await answered(session_log, job_of("g1"), "")
    await answered(session_log, job_of("g2"), " \n")
    job = job_of("g3", system="Be brief.")
    await session_log.admit(job)
    writer = await claimed(session_log, job)
    prompt = await prompt_for(job, writer.history, session_log.snapshots, history_limits(settings.load()))
    assert [turn.role for turn in prompt.turns].count("assistant") == 2

    async with FakeProvider(_refusing_blank_turns) as fake:
        provider: Any
        for provider in (
            OpenAIProvider(None, fake.openai_base_url, "m", 5),
            OpenAIBackgroundProvider(None, fake.openai_base_url, "m", 5),
            AnthropicProvider(None, fake.anthropic_base_url, "m", 5),
            AgentProvider(fake.agent_url, None, 5, 5, 5, ""),
        ):
            parts = [part async for part in provider.stream(prompt)]
            await provider.aclose()
            assert isinstance(parts[-1], Finished)
        said = ["".join(text_of(turn["content"]) for turn in messages_of(call.body)) for call in fake.calls]
    for context in said:
        assert context.endswith("question of g3")
        assert "question of g1" in context
    given = Job.of(prompt, None)
    assert [turn.role for turn in given.messages] == ["system", "user", "user", "user"]
    assert given.content == "question of g3"


def _refusing_blank_turns(body: Body) -> Script:
    if all(text_of(turn["content"]).strip() for turn in messages_of(body)):
        return Script(tokens=["x"])
    return Script(status=400, status_body='{"error": {"message": "Assistant message must have either content or …"}}')
