"""One generation from claim to end, where no scenario can aim: replies that are lost at one moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from prometheus_client import REGISTRY

from relay import settings
from relay.errors import StorageError
from relay.store.keys import Keys
from relay.store.session.replies import Claim, WriteOutcome
from relay.store.session.session_log import SessionLog
from relay_workers.providers.base import Finished, Part, Prompt, Text
from tests.store.in_memory import SESSION_TTL_S, job_of, queue_on, redis_in_memory, session_log_on, snapshot
from tests.workers.alone import alone
from tests.workers.generations import generation_of


class OneToken:
    name = "one"
    model = "one"
    first_token_s: float | None = None

    async def check(self) -> None: ...

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        yield Text("all of it")
        yield Finished("stop", "one", None)

    async def aclose(self) -> None: ...


class LosesTheReplyToTheEnd(SessionLog):
    """The first `end` lands and nobody hears of it; until it is tried again, the lease is renewed."""

    lost = False

    async def end(self, *arguments: Any, **named: Any) -> WriteOutcome:
        outcome = await super().end(*arguments, **named)
        if not self.lost:
            self.lost = True
            raise StorageError("the reply is lost")
        return outcome


def ended(reason: str) -> float:
    return REGISTRY.get_sample_value("relay_generations_total", {"reason": reason, "code": ""}) or 0.0


async def test_an_end_whose_reply_was_lost_is_ours_also_when_the_lease_is_renewed_in_between() -> None:
    async with redis_in_memory() as redis:
        log = LosesTheReplyToTheEnd(
            redis, redis, Keys("t"), session_ttl_s=SESSION_TTL_S, max_generations=9, max_requests=9
        )
        await log.admit(job_of())
        claim = await log.claim("s", "g1", "w", 1000, 0)
        assert isinstance(claim, Claim)
        before = ended("complete")
        # The lease is renewed every 70 ms, the end tried again after 500 ms at least.
        patient = settings.load(lease_s=0.21, flush_retry_ms=1000)
        assert await generation_of(claim, "w", alone(OneToken()), log, queue_on(redis), patient).run() is True
        assert log.lost
        assert ended("complete") == before + 1
        assert (await snapshot(log))["reason"] == "complete"


class NoName(OneToken):
    """As a provider of one's own may; those here name none that is none."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        yield Text("all of it")
        yield Finished("stop", "half a \ud83d", None)


async def test_a_finish_that_cannot_be_written_fails_the_answer_and_the_model_is_not_asked_again() -> None:
    async with redis_in_memory() as redis:
        log = session_log_on(redis)
        await log.admit(job_of())
        claim = await log.claim("s", "g1", "w", 1000, 0)
        assert isinstance(claim, Claim)
        assert await generation_of(claim, "w", alone(NoName()), log, queue_on(redis), settings.load()).run() is True
        shown = await snapshot(log)
        assert (shown["reason"], shown["error"]["code"], shown["text"]) == ("failed", "internal", "all of it")


class Leaks(OneToken):
    """A cancellation that nobody asked for, as it escapes from tasks of a library's own."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        yield Text("half")
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task


async def test_a_cancellation_that_nobody_asked_for_ends_the_answer_and_is_a_bug() -> None:
    async with redis_in_memory() as redis:
        log = session_log_on(redis)
        await log.admit(job_of())
        claim = await log.claim("s", "g1", "w", 1000, 0)
        assert isinstance(claim, Claim)
        before = REGISTRY.get_sample_value("relay_unexpected_errors_total", {"part": "generation"}) or 0.0
        generation = generation_of(claim, "w", alone(Leaks()), log, queue_on(redis), settings.load())
        async with asyncio.timeout(10):
            assert await generation.run() is True
        shown = await snapshot(log)
        assert (shown["reason"], shown["error"]["code"], shown["text"]) == ("failed", "internal", "half")
        assert REGISTRY.get_sample_value("relay_unexpected_errors_total", {"part": "generation"}) == before + 1


class SaysNothing(OneToken):
    """Parts without text that come without a pause."""

    def __init__(self) -> None:
        self.said = 0

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        yield Text("half")
        for self.said in range(1_000_000):
            yield Text("")
        yield Finished("stop", "one", None)


async def test_parts_without_text_stop_neither_the_others_nor_the_deadline() -> None:
    async with redis_in_memory() as redis:
        log, provider = session_log_on(redis), SaysNothing()
        await log.admit(job_of())
        claim = await log.claim("s", "g1", "w", 1000, 0)
        assert isinstance(claim, Claim)
        hasty = settings.load(token_timeout_s=0.001)
        assert await generation_of(claim, "w", alone(provider), log, queue_on(redis), hasty).run() is True
        shown = await snapshot(log)
        assert (shown["reason"], shown["error"]["code"], shown["text"]) == ("failed", "provider_timeout", "half")
        assert provider.said < 999_999
