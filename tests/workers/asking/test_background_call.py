"""A worker is lost, its provider's call goes on: another worker goes on with that, in the same attempt."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import settings
from relay.store.session.replies import Claim
from relay.store.session.session_log import SessionLog
from relay_workers.asking import answer_request
from relay_workers.providers.base import Data, Finished, Part, Prompt, ProviderError, Reasoning, ResumeHandle, Text
from tests.examples import tries
from tests.store.in_memory import job_of, queue_on, redis_in_memory, session_log_on, snapshot, whole_log
from tests.workers.alone import alone
from tests.workers.generations import generation_of


class Background:
    """Answers that outlive their readers; `reads`: how many parts the first reader gets before it waits for ever."""

    name = "openai"
    model = "m"
    first_token_s: float | None = None

    def __init__(self, parts: list[Part], reads: int) -> None:
        self.parts = parts
        self.reads = reads
        self.asked = 0
        self.resumed: list[str] = []
        self.cancelled: list[str] = []
        self.drained = asyncio.Event()
        self.holds_back = asyncio.Event()  # while it is not set, the last part of a resumed answer
        self.holds_back.set()
        self.lets_on = asyncio.Event()  # while it is not set, all of it but the first two
        self.lets_on.set()
        self.told: list[Part] | None = None  # to those who resume; None: the same

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        self.asked += 1
        yield ResumeHandle(f"resp_{self.asked}")
        if self.asked == 1:
            for part in self.parts[: self.reads]:
                yield part
            self.drained.set()
            await asyncio.Event().wait()
        for part in self.parts:
            yield part

    async def resume(self, mark: str) -> AsyncGenerator[Part, None]:
        self.resumed.append(mark)
        if self.told == []:
            raise ProviderError("provider_error", "expired", retryable=False, status=404)
        *parts, last = self.told or self.parts
        for place, part in enumerate(parts):
            if place == 2:
                await self.lets_on.wait()
            yield part
        await self.holds_back.wait()
        yield last

    async def cancel(self, mark: str) -> None:
        self.cancelled.append(mark)

    async def check(self) -> None: ...

    async def aclose(self) -> None: ...


def parts_of(*texts: str) -> list[Part]:
    return [*map(Text, texts), Finished("stop", "m")]


async def claimed(log: SessionLog, worker: str) -> Claim:
    claim = await log.claim("s", "g1", worker, 60_000, 0)
    assert isinstance(claim, Claim)
    return claim


async def lost(log: SessionLog, redis: Any, provider: Background, data: int = 0) -> None:
    """A first worker begins, writes what it has read and is gone; its job is free for another."""
    claim = await claimed(log, "w1")
    eager = settings.load(batch_linger_ms=0)
    running = asyncio.create_task(generation_of(claim, "w1", alone(provider), log, queue_on(redis), eager).run())
    key = log.keys.generation("s", "g1")
    said = sum(isinstance(part, Text) for part in provider.parts[: provider.reads])
    async with asyncio.timeout(10):
        await provider.drained.wait()
        while (  # noqa: ASYNC110
            int(await redis.hget(key, "count")) < said
            or int(await redis.hget(key, "data")) < data
            or not await redis.hget(key, "mark")
        ):
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert provider.cancelled == [], "a hand-over cancels nothing"
    await log.release("s", "g1", claim.fence)


async def taken_over(log: SessionLog, redis: Any, provider: Background, **named: float) -> dict[str, Any]:
    claim, chosen = await claimed(log, "w2"), settings.load(**named)
    generation = generation_of(claim, "w2", alone(provider), log, queue_on(redis), chosen)
    async with asyncio.timeout(10):
        assert await generation.run() is True
    return await snapshot(log)


@given(
    st.lists(st.tuples(st.booleans(), st.text("aé日🙂", min_size=1, max_size=3)), min_size=1, max_size=12), st.data()
)
@tries(25)
def test_wherever_the_first_worker_dies_the_text_is_whole_and_the_model_is_asked_once(
    said: list[tuple[bool, str]], data: st.DataObject
) -> None:
    parts = [Text(text) if is_text else Reasoning(text) for is_text, text in said]
    reads = data.draw(st.integers(0, len(parts)))

    async def play() -> None:
        async with redis_in_memory() as redis:
            log, provider = session_log_on(redis), Background([*parts, Finished("stop", "m")], reads)
            await log.admit(job_of())
            await lost(log, redis, provider)
            shown = await taken_over(log, redis, provider)
            assert shown["text"] == "".join(text for is_text, text in said if is_text)
            assert shown["reasoning"] == "".join(text for is_text, text in said if not is_text)
            assert (shown["reason"], shown["attempt"], provider.asked) == ("complete", 1, 1)
            events = await whole_log(log)
            assert [event["type"] for event in events].count("restart") == 0
            for kind in ("tokens", "reasoning"):
                at = 0
                for event in events:
                    if event["type"] == kind:
                        assert event["index"] == at
                        at += event["count"]

    asyncio.run(play())


@pytest.mark.parametrize(
    "told",
    [[], parts_of("quite ", "another ", "text"), parts_of("one "), parts_of("one ", "twoo", "three")],
    ids=["expired", "another text", "less text", "one letter more"],
)
async def test_what_cannot_be_gone_on_with_begins_again_and_nothing_is_mixed(told: list[Part]) -> None:
    async with redis_in_memory() as redis:
        log, provider = session_log_on(redis), Background(parts_of("one ", "two ", "three"), 2)
        await log.admit(job_of())
        await lost(log, redis, provider)
        provider.told = told
        shown = await taken_over(log, redis, provider)
        assert (shown["text"], shown["attempt"], provider.asked) == ("one two three", 2, 2)
        assert provider.resumed == provider.cancelled == ["resp_1"]


@pytest.mark.parametrize("told", [parts_of("six ", "ten ", "seven"), parts_of("one ", "twoo", "three")])
async def test_of_another_text_as_long_nothing_is_written_behind_what_was_left(told: list[Part]) -> None:
    """Not for a moment: a restart would void it, but viewers would have seen text of two calls in one."""
    async with redis_in_memory() as redis:
        log, provider = session_log_on(redis), Background(parts_of("one ", "two ", "three"), 2)
        await log.admit(job_of())
        await lost(log, redis, provider)
        provider.told = told
        provider.holds_back.clear()  # so that a batch would leave before the stream's end, where counts are compared
        taking_over = asyncio.create_task(taken_over(log, redis, provider, batch_linger_ms=0))
        async with asyncio.timeout(10):
            key = log.keys.generation("s", "g1")
            while int(await redis.hget(key, "count") or 0) == 2 and not taking_over.done():  # noqa: ASYNC110
                await asyncio.sleep(0)
        provider.holds_back.set()
        await taking_over
        first = [event for event in await whole_log(log) if event["type"] == "tokens" and event["attempt"] == 1]
        assert "".join(event["text"] for event in first) == "one two "


class Shows(Background):
    """Each of its calls shows something of its own before it says anything."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        self.parts = [Data("card", self.asked + 1), *parts_of(f"text of call {self.asked + 1}")]
        async for part in super().stream(prompt):
            yield part


@pytest.mark.parametrize("told", [[], parts_of("text of call 1"), None], ids=["expired", "less data", "the same"])
async def test_data_that_a_lost_worker_has_shown_is_gone_on_with_or_void(told: list[Part] | None) -> None:
    async with redis_in_memory() as redis:
        log, provider = session_log_on(redis), Shows([], 1)
        await log.admit(job_of())
        await lost(log, redis, provider, data=1)
        provider.told = told
        shown = await taken_over(log, redis, provider)
        asked = 1 if told is None else 2
        assert (shown["text"], shown["attempt"], provider.asked) == (f"text of call {asked}", asked, asked)
        cards = [(event["attempt"], event["value"]) for event in await whole_log(log) if event["type"] == "data"]
        assert cards == [(attempt, attempt) for attempt in range(1, asked + 1)]


@pytest.mark.parametrize("told", [parts_of("b1 ", "b2 ", "b3 ", "b4"), None], ids=["another text", "the same"])
@pytest.mark.parametrize("left", range(4))
async def test_where_redis_has_lost_a_part_of_what_was_left_the_rest_of_it_is_proved_all_the_same(
    left: int, told: list[Part] | None
) -> None:
    async with redis_in_memory() as redis:
        log, provider = session_log_on(redis), Background(parts_of("a1 ", "a2 ", "a3 ", "a4"), 3)
        await log.admit(job_of())
        await lost(log, redis, provider)
        provider.told = told
        provider.lets_on.clear()
        taking_over = asyncio.create_task(taken_over(log, redis, provider, lease_s=0.3))
        async with asyncio.timeout(10):
            while not provider.resumed:  # noqa: ASYNC110
                await asyncio.sleep(0)
            key, text = log.keys.generation("s", "g1"), "".join(f"a{n + 1} " for n in range(left))
            fence = int(await redis.hget(key, "fence") or 0)
            await redis.set(log.keys.generation("s", "g1", "text"), text)
            stood: Any = {"count": left, "bytes": len(text), "crc": zlib.crc32(text.encode()), "n": 0, "fence": 1}
            await redis.hset(key, mapping=stood)
            while int(await redis.hget(key, "fence") or 0) <= fence:  # noqa: ASYNC110
                await asyncio.sleep(0)
            provider.lets_on.set()
            shown = await taking_over
        assert shown["text"] in ("a1 a2 a3 a4", "b1 b2 b3 b4"), "text of two calls is never mixed"
        assert shown["crc32"] == zlib.crc32(shown["text"].encode())
        assert provider.asked == 1 + (told is not None and left > 0)


async def test_a_stop_cancels_the_call_at_the_provider() -> None:
    async with redis_in_memory() as redis:
        log, provider = session_log_on(redis), Background(parts_of("one ", "two ", "three"), 2)
        await log.admit(job_of())
        claim = await claimed(log, "w1")
        generation = generation_of(claim, "w1", alone(provider), log, queue_on(redis), settings.load())
        running = asyncio.create_task(generation.run())
        async with asyncio.timeout(10):
            await provider.drained.wait()
            await log.stop("s", "g1")
            generation.stop()
            assert await running is True
        assert provider.cancelled == ["resp_1"]


class Deaf(Background):
    """Nobody can tell it anything."""

    def __init__(self, failure: Exception | None) -> None:
        super().__init__(parts_of("one ", "two ", "three"), 2)
        self.failure = failure

    async def cancel(self, mark: str) -> None:
        await super().cancel(mark)
        if self.failure is not None:
            raise self.failure
        await asyncio.Event().wait()


@pytest.mark.parametrize("failure", [None, KeyError("a bug"), ProviderError("truncated", "x", retryable=True)])
async def test_a_provider_that_cannot_be_told_of_a_stop_holds_up_no_job(
    failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_request, "CANCEL_S", 0.01)
    async with redis_in_memory() as redis:
        log, provider = session_log_on(redis), Deaf(failure)
        await log.admit(job_of())
        claim = await claimed(log, "w1")
        generation = generation_of(claim, "w1", alone(provider), log, queue_on(redis), settings.load())
        running = asyncio.create_task(generation.run())
        async with asyncio.timeout(10):
            await provider.drained.wait()
            await log.stop("s", "g1")
            generation.stop()
            assert await running is True
        assert provider.cancelled == ["resp_1"]


async def test_a_worker_that_was_replaced_cancels_nothing() -> None:
    async with redis_in_memory() as redis:
        log, provider = session_log_on(redis), Background(parts_of("one ", "two ", "three"), 2)
        await log.admit(job_of())
        claim = await claimed(log, "w1")
        frozen = generation_of(claim, "w1", alone(provider), log, queue_on(redis), settings.load(lease_s=0.3))
        running = asyncio.create_task(frozen.run())
        async with asyncio.timeout(10):
            await provider.drained.wait()
            while not await redis.hget(log.keys.generation("s", "g1"), "mark"):  # noqa: ASYNC110
                await asyncio.sleep(0)
            await log.release("s", "g1", claim.fence)
            provider.holds_back.clear()
            taking_over = asyncio.create_task(taken_over(log, redis, provider))
            assert await running is False
            provider.holds_back.set()
            shown = await taking_over
        assert (shown["text"], shown["attempt"], provider.asked) == ("one two three", 1, 1)
        assert provider.cancelled == []


async def test_an_answer_that_takes_too_long_is_cancelled_at_the_provider() -> None:
    async with redis_in_memory() as redis:
        log, provider = session_log_on(redis), Background(parts_of("one ", "two ", "three"), 2)
        await log.admit(job_of())
        claim = await claimed(log, "w1")
        hasty = settings.load(token_timeout_s=0.05)
        async with asyncio.timeout(10):
            await generation_of(claim, "w1", alone(provider), log, queue_on(redis), hasty).run()
        shown = await snapshot(log)
        assert (shown["reason"], shown["error"]["code"]) == ("failed", "provider_timeout")
        assert provider.cancelled == ["resp_1"]
