"""Submits that are sent again, against a log in memory: what there is of the first may have gone on, or away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.auth.identity import UNRESTRICTED
from relay.errors import ClientError
from relay.gateway import deadlines, waiting
from relay.gateway.submissions import Accepted, Submissions
from relay.protocol.commands import Options, Submit
from relay.store.jobs import Job
from relay.store.queue.queue import Queue
from relay.store.session.replies import Admitted, Stopped
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import (
    answered,
    claimed,
    job_of,
    next_job,
    queue_on,
    redis_in_memory,
    session_log_on,
    snapshot,
)

LOOK_MS = 1000


async def _on_offer(submit: Submit) -> None: ...


class Gateway:
    """As much of one as a submit asks for; its sessions keep two generations."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.session_log: SessionLog = session_log_on(redis, max_generations=2)
        self.queue: Queue = queue_on(redis)
        menu: Any = SimpleNamespace(check=_on_offer, serves=lambda queue: True)
        hub: Any = SimpleNamespace(get=lambda *_: None)
        self._submissions = Submissions(
            menu, self.session_log, self.queue, redis, hub, look_ms=LOOK_MS, tombstone_ms=1000
        )

    async def submit(self, request_id: str = "r", **fields: Any) -> Accepted:
        asked = fields or {"content": "why?"}
        return await self._submissions.submit(Submit(session="s", request_id=request_id, **asked), UNRESTRICTED)

    async def answer(self) -> str:
        """The next job's, by a worker; its generation."""
        job = await next_job(self.queue)
        assert job is not None
        await (await claimed(self.session_log, job)).end()
        await self.queue.done("default", "s", job.generation)
        return job.generation


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with redis_in_memory() as redis:
        yield Gateway(redis)


async def test_a_submit_that_is_sent_again_is_a_duplicate_while_its_answer_runs_and_when_it_has_ended(
    gateway: Gateway,
) -> None:
    first = await gateway.submit()
    assert await gateway.submit() == Accepted(first.generation, duplicate=True)
    await gateway.answer()
    assert await gateway.submit() == Accepted(first.generation, duplicate=True)


async def test_a_submit_whose_answer_is_not_kept_any_more_is_not_found(gateway: Gateway) -> None:
    """A duplicate of nothing would be waited for; and it is not asked a second time."""
    await gateway.submit()
    await gateway.answer()
    for generation in ("g1", "g2"):
        await answered(gateway.session_log, job_of(generation))
    with pytest.raises(ClientError) as refused:
        await gateway.submit()
    assert (refused.value.code, refused.value.retryable) == ("not_found", False)
    assert await next_job(gateway.queue) is None
    with pytest.raises(ClientError) as conflict:
        await gateway.submit(content="and why?")
    assert conflict.value.code == "conflict"


async def test_a_submit_that_is_answered_and_forgotten_before_it_is_accepted_is_told_so(gateway: Gateway) -> None:
    """Nobody has deleted anything; but there is nothing to wait for either."""
    admit = gateway.session_log.admit

    async def overtaken(job: Job) -> Admitted | None:
        gateway.session_log.admit = admit  # type: ignore[method-assign]
        for one in (job, job_of("g1"), job_of("g2")):
            await answered(gateway.session_log, one)
        return await admit(job)

    gateway.session_log.admit = overtaken  # type: ignore[method-assign]
    for _ in range(2):  # and when it is sent again
        with pytest.raises(ClientError, match="not kept any more") as refused:
            await gateway.submit()
        assert (refused.value.code, refused.value.retryable) == ("not_found", False)
    assert await next_job(gateway.queue) is None


async def test_a_submit_whose_answer_is_to_come_back_is_a_duplicate(gateway: Gateway) -> None:
    """Entries are missing: its worker makes it again."""
    first = await gateway.submit()
    job = await next_job(gateway.queue)
    assert job is not None
    writer = await claimed(gateway.session_log, job)
    await gateway.session_log.rotate("s", writer.claim.epoch, missing=True)
    assert await gateway.submit() == Accepted(first.generation, duplicate=True)


async def test_a_retry_that_waits_is_queued_again_as_it_was_though_what_it_retries_is_gone(gateway: Gateway) -> None:
    """Redis has lost the queue; the session has forgotten the first answer, and the retry has its question."""
    first = await gateway.submit("r1")
    await gateway.answer()
    retry = await gateway.submit("r2", retry_of=first.generation)
    job = await next_job(gateway.queue)
    await answered(gateway.session_log, job_of("g9"))
    assert await gateway.session_log.snapshots.generation("s", first.generation) is None
    await gateway.redis.delete(*await gateway.redis.keys("t:q:*"))
    assert await gateway.submit("r2", retry_of=first.generation) == Accepted(retry.generation, duplicate=True)
    assert await next_job(gateway.queue) == job
    assert (await snapshot(gateway.session_log, retry.generation))["message"]["content"] == "why?"


async def test_options_are_part_of_what_was_asked_and_come_back_with_a_job_that_was_lost(gateway: Gateway) -> None:
    options = Options(temperature=0.5, stop=["END"])
    first = await gateway.submit("r1", content="why?", options=options)
    with pytest.raises(ClientError) as refused:
        await gateway.submit("r1", content="why?", options=Options(temperature=0.6, stop=["END"]))
    assert refused.value.code == "conflict"
    with pytest.raises(ClientError) as refused:
        await gateway.submit("r1", content="why?")
    assert refused.value.code == "conflict"
    job = await next_job(gateway.queue)
    assert job is not None
    assert job.options == options
    await gateway.redis.delete(*await gateway.redis.keys("t:q:*"))
    assert await gateway.submit("r1", content="why?", options=options) == Accepted(first.generation, duplicate=True)
    assert await next_job(gateway.queue) == job


async def test_a_retry_brings_its_own_options_as_it_brings_its_own_model(gateway: Gateway) -> None:
    first = await gateway.submit("r1", content="why?", options=Options(seed=1), model="m")
    await gateway.answer()
    for request_id, options in (("r2", Options(seed=2)), ("r3", None)):
        await gateway.submit(request_id, retry_of=first.generation, options=options)
        job = await next_job(gateway.queue)
        assert job is not None
        assert (job.content, job.options, job.model) == ("why?", options, None)


@pytest.mark.parametrize(
    ("deleted", "said"),
    [(True, "The session was deleted."), (False, "There is no such generation in this session any more.")],
)
async def test_who_waits_for_an_answer_that_is_gone_is_told_why(gateway: Gateway, deleted: bool, said: str) -> None:
    """Others took its place beyond the bound before anybody here had heard of its end; or somebody deleted it."""
    follower: Any = SimpleNamespace(
        session="s", active={}, missing={}, deleted=deleted, broadcast=SimpleNamespace(viewers=set(), keeping_up=set())
    )
    with pytest.raises(ClientError) as refused:
        await waiting._ended(gateway, follower, "g1", [], UNRESTRICTED)  # type: ignore[arg-type]
    assert (refused.value.code, str(refused.value)) == ("not_found", said)


async def test_a_delete_that_has_used_up_its_time_begins_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait for a Redis that is slow would take a little more than none, and cost a connection."""
    monkeypatch.setattr(deadlines, "ANSWER_WITHIN_S", 0.2)
    begun: list[str] = []

    async def never(session: str, stopped: Stopped) -> None:
        begun.append(stopped.generation)
        await asyncio.Event().wait()

    async def delete(*_: object, sub: str | None) -> list[Stopped]:
        return [Stopped(f"g{number}", already_ended=False) for number in range(50)]

    log: Any = SimpleNamespace(delete=delete)
    hub: Any = SimpleNamespace(get=lambda *_: None)
    nothing: Any = None
    submissions = Submissions(nothing, log, nothing, nothing, hub, look_ms=LOOK_MS, tombstone_ms=1000)
    monkeypatch.setattr(submissions._submitter, "clean_up_after_stop", never)
    await submissions.delete("s", UNRESTRICTED)
    assert begun == ["g0"]
