"""Redis loses what it had acknowledged: the worker says again what is missing, and the model is not asked again."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from relay.errors import StorageError
from relay.protocol.words import Reason
from relay.store.session.replies import Claim, RebuildResult, WriteOutcome
from relay.store.session.session_log import SessionLog
from relay_workers.writing.flusher import Flusher, OwnershipLost
from tests.examples import tries
from tests.store.in_memory import (
    LEASE_MS,
    admitted_and_claimed,
    first_claims,
    queue_on,
    redis_in_memory,
    session_log_on,
    snapshot,
    transcript,
    whole_log,
)
from tests.workers.writing.unreliable import IMPATIENT, Manual, Unreliable, flusher_of, rebuilder_of

WAIT_S = 10


class Forgetful(Unreliable):
    """Before a try, Redis may lose everything (`gone`), or go back (`back`) to where it was at the last `kept`.

    `acknowledged`: every event that stood in the log when the worker was told of a success, by epoch and seq.
    """

    def __init__(self, session_log: SessionLog, redis: Redis, *plan: str) -> None:
        super().__init__(session_log, *plan)
        self.redis = redis
        self.acknowledged: dict[tuple[str, int], bytes] = {}
        self.losses = 0
        self._copy: dict[bytes | str, bytes] = {}

    async def rebuild(self, *arguments: Any) -> Any:
        return await self._unreliably(lambda: self.log.rebuild(*arguments), "")

    async def lose_everything(self) -> None:
        self.losses += 1
        await self.redis.flushall()

    async def keep(self) -> None:
        """All keys as of one moment: others may be at work."""
        names = await self.redis.keys()
        while True:
            async with self.redis.pipeline(transaction=True) as moment:
                for name in names:
                    moment.dump(name)
                moment.keys()
                *values, now = await moment.execute()
            if set(now) == set(names):
                self._copy = {name: value or b"" for name, value in zip(names, values, strict=True)}
                return
            names = now

    async def go_back(self) -> None:
        """In one moment, as a server does that comes back with what its disk has."""
        self.losses += 1
        async with self.redis.pipeline(transaction=True) as moment:
            moment.flushall()
            for key, value in self._copy.items():
                moment.restore(key, 0, value)
            await moment.execute()

    async def _unreliably(self, write: Callable[[], Awaitable[Any]], text: str) -> Any:
        actions = {"gone": self.lose_everything, "kept": self.keep, "back": self.go_back}
        while self.plan and self.plan[0] in actions:
            await actions[self.plan.pop(0)]()
        outcome = await super()._unreliably(write, text)
        if not isinstance(outcome, WriteOutcome) or outcome.what in ("written", "repeated"):
            page = await self.log.range("s", 1)
            if page is None:
                return outcome  # it was lost again before anybody could read it
            for seq, body in page.entries:
                assert self.acknowledged.setdefault((page.epoch, seq), body) == body, "one seq, two events"
        return outcome


class Stage:
    """One generation, claimed, with its flusher."""

    def __init__(self, redis: Redis, *plan: str) -> None:
        self.log = session_log_on(redis)
        self.redis = Forgetful(self.log, redis, *plan)
        self.now_ms = Manual()
        self.flusher: Flusher

    async def begin(self, **options: Any) -> asyncio.Task[None]:
        await admitted_and_claimed(self.log)
        # The clock runs a second a turn; no refusal is to seem to last for ever.
        patience = replace(IMPATIENT, lost_after_ms=math.inf)
        self.flusher = flusher_of(
            self.redis,
            patience=patience,
            now_ms=self.now_ms,
            **options,
        )
        return asyncio.create_task(self.flusher.run())

    async def pause(self) -> None:
        """Until everything that was said is written."""
        tries = -1
        while tries != self.redis.tries or self._is_due():
            tries = self.redis.tries
            for _ in range(20):
                await asyncio.sleep(0)

    def _is_due(self) -> bool:
        due_ms = self.flusher._batcher.due_ms()
        return due_ms is not None and due_ms <= self.now_ms()

    async def events(self, *kinds: str) -> list[dict[str, Any]]:
        return [event for event in await whole_log(self.log) if event["type"] in kinds]


@pytest.fixture
async def stage() -> Any:
    async with redis_in_memory() as redis:
        yield Stage(redis)


async def over(running: asyncio.Task[None]) -> None:
    async with asyncio.timeout(WAIT_S):
        await running


async def test_everything_is_lost_in_the_middle_and_all_of_it_is_said_again(stage: Stage) -> None:
    running = await stage.begin()
    stage.flusher.status("thinking")
    for token in "abcdef":
        stage.flusher.token("tokens", token)
    await stage.pause()
    await stage.redis.lose_everything()
    for token in "ghi":
        stage.flusher.token("tokens", token)
    stage.flusher.end("complete", b"{}", "a1")
    await over(running)
    log = await whole_log(stage.log)
    assert [event["type"] for event in log][:2] == ["message", "status"]
    assert "".join(event["text"] for event in log if event["type"] == "tokens") == "abcdefghi"
    assert (log[-1]["type"], log[-1]["count"], log[-1]["crc32"]) == ("end", 9, zlib.crc32(b"abcdefghi"))
    assert (await snapshot(stage.log))["text"] == "abcdefghi"
    assert await transcript(stage.log) == ["g1"]


async def test_what_is_left_is_not_said_again(stage: Stage) -> None:
    running = await stage.begin(size=1)
    stage.flusher.token("reasoning", "hm")
    stage.flusher.token("tokens", "a")
    await stage.pause()
    await stage.redis.keep()
    stage.flusher.token("tokens", "b")
    await stage.pause()
    await stage.redis.go_back()
    stage.flusher.end("complete", b"{}", "a1")
    await over(running)
    assert [event["text"] for event in await stage.events("reasoning", "tokens")] == ["hm", "a", "b"]


async def test_a_later_attempt_comes_back_as_that_attempt(stage: Stage) -> None:
    running = await stage.begin()
    stage.flusher.token("tokens", "void")
    stage.flusher.restart("provider_failed")
    stage.flusher.token("tokens", "new")
    await stage.pause()
    await stage.redis.lose_everything()
    stage.flusher.end("complete", b"{}", "a1")
    await over(running)
    log = await stage.events("restart", "tokens", "end")
    assert [(event["type"], event["attempt"]) for event in log] == [("restart", 2), ("tokens", 2), ("end", 2)]
    assert log[0]["reason"] == "provider_failed"


async def test_an_attempt_that_was_taken_over_comes_back_with_a_reason(stage: Stage) -> None:
    lost = await admitted_and_claimed(stage.log)
    await lost.tokens("void")
    await lost.restart()
    await stage.log.release("s", "g1", lost.fence)
    claim = await stage.log.claim("s", "g1", "w1", LEASE_MS, 20)
    assert isinstance(claim, Claim)
    assert (claim.attempt, claim.shown) == (2, False)
    first_claims[stage.log] = claim
    flusher = flusher_of(stage.redis)
    await stage.redis.lose_everything()
    flusher.token("tokens", "new")
    flusher.end("complete", b"{}", "a1")
    await over(asyncio.create_task(flusher.run()))
    assert [(event["attempt"], event["reason"]) for event in await stage.events("restart")] == [(2, "worker_lost")]


async def test_before_the_first_token_the_last_status_comes_back(stage: Stage) -> None:
    running = await stage.begin()
    stage.flusher.status("thinking")
    await stage.pause()
    await stage.redis.lose_everything()
    stage.flusher.rebuild()
    await stage.pause()
    assert [event["state"] for event in await stage.events("status")] == ["queued", "thinking"]
    stage.flusher.end("complete", b"{}")
    await over(running)


async def test_what_is_lost_again_while_it_is_said_again_is_said_a_third_time(stage: Stage) -> None:
    stage.redis.plan = ["", "gone", "lost", "", "gone", "fails", "gone", "lost"]
    running = await stage.begin(size=1)
    for token in "abcdef":
        stage.flusher.token("tokens", token)
    stage.flusher.end("complete", b"{}", "a1")
    await over(running)
    assert stage.redis.losses == 3
    assert "".join(event["text"] for event in await stage.events("tokens")) == "abcdef"


async def test_a_long_answer_comes_back_in_as_few_batches_as_the_bound_allows(stage: Stage) -> None:
    running = await stage.begin()
    for _ in range(300):
        stage.flusher.token("tokens", "0123456789" * 100)
    await stage.pause()
    await stage.redis.lose_everything()
    stage.flusher.end("complete", b"{}", "a1")
    await over(running)
    batches = await stage.events("tokens")
    assert len(batches) == 3  # of 128 KiB at most
    assert sum(batch["count"] for batch in batches) == 300


async def test_an_answer_that_was_stopped_while_redis_forgot_its_worker_is_let_go(stage: Stage) -> None:
    running = await stage.begin()
    stage.flusher.token("tokens", "a")
    await stage.pause()
    await stage.redis.lose_everything()
    assert await stage.log.bury("s", "g1", 1, b"{}") == "buried"
    stage.flusher.token("tokens", "b")
    stage.flusher.end("complete", b"{}", "a1")
    with pytest.raises(OwnershipLost) as raised:
        await over(running)
    assert raised.value.why == "ended"


async def test_the_jobs_row_is_back_before_the_generation_is_made_again() -> None:
    """Should the worker die in between, nobody else would find the job."""
    async with redis_in_memory() as redis:
        log, queue = Forgetful(session_log_on(redis), redis, "fails"), queue_on(redis)
        await admitted_and_claimed(log.log)
        with pytest.raises(StorageError):
            await rebuilder_of(log, Manual(), queue).rebuild(1, ["e"], 1)
        assert await queue.names() == ["default"]
        assert await queue.has_job("default", "s", "g1")
        assert await queue.take("default", 8) == []  # a row, and nothing for others to take


async def test_two_rebuilds_of_one_answer_are_some_time_apart(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("relay_workers.writing.rebuilding.asyncio.sleep", noted)
    claim = await admitted_and_claimed(stage.log)
    rebuilder = rebuilder_of(stage.redis, stage.now_ms, apart_ms=500)
    await rebuilder.pause()
    rebuilt = await rebuilder.rebuild(claim.fence, [], 1)
    assert isinstance(rebuilt, RebuildResult)
    stage.now_ms.now_ms = 400
    await rebuilder.pause()
    stage.now_ms.now_ms = 500
    await rebuilder.pause()
    assert pauses == [0.1]


# Anything

STEP = (
    st.tuples(
        st.sampled_from(["tokens", "tokens", "reasoning"]), st.text(st.sampled_from('ab"日😀'), min_size=1, max_size=5)
    )
    | st.tuples(st.just("restart"), st.just(""))
    | st.tuples(st.just("turn"), st.sampled_from(["1", "4", "9"]))
)
FAULTS = st.lists(
    st.sampled_from(["", "", "", "gone", "kept", "kept", "back", "fails", "lost", "lost", "refused", "late2", "late4"]),
    max_size=40,
)


async def play(steps: list[tuple[str, str]], faults: list[str], size: int, reason: Reason) -> None:
    async with redis_in_memory() as redis:
        stage = Stage(redis)
        running = await stage.begin(size=size)
        await stage.redis.keep()
        stage.redis.plan = faults
        said: dict[str, list[str]] = {"tokens": [], "reasoning": []}
        attempt = 1
        for what, value in steps:
            match what:
                case "restart":
                    stage.flusher.restart("provider_failed")
                    said, attempt = {"tokens": [], "reasoning": []}, attempt + 1
                case "turn":
                    stage.now_ms.now_ms += 1000
                    for _ in range(int(value)):
                        await asyncio.sleep(0)
                case kind:
                    for token in value:
                        stage.flusher.token("reasoning" if kind == "reasoning" else "tokens", token)
                    said[kind] += value
        stage.flusher.end(reason, b"{}", "a1" if reason == "complete" else "")
        async with asyncio.timeout(WAIT_S):
            while not running.done():
                stage.now_ms.now_ms += 1000  # nobody waits for the pause between rebuilds
                await asyncio.sleep(0)
        let_go = running.exception()
        # By its own end, perhaps, which Redis had lost and has again.
        assert let_go is None or (isinstance(let_go, OwnershipLost) and let_go.why == "ended"), let_go
        await stage.redis.land()
        log = await whole_log(stage.log)
        check(log, attempt, said)
        shown = await snapshot(stage.log)
        assert (shown["text"], shown["reasoning"]) == ("".join(said["tokens"]), "".join(said["reasoning"]))
        assert await transcript(stage.log) == (["g1"] if reason == "complete" else [])


def check(log: list[dict[str, Any]], attempt: int, said: dict[str, list[str]]) -> None:
    kinds = [event["type"] for event in log]
    assert (kinds.count("message"), kinds.count("end"), kinds[-1]) == (1, 1, "end")
    assert [event["seq"] for event in log] == sorted({event["seq"] for event in log})
    assert [event.get("attempt", 1) for event in log] == sorted(event.get("attempt", 1) for event in log)
    for kind in ("tokens", "reasoning"):
        batches = [event for event in log if (event["type"], event.get("attempt")) == (kind, attempt)]
        assert "".join(batch["text"] for batch in batches) == "".join(said[kind])
        assert [batch["index"] for batch in batches] == [
            sum(batch["count"] for batch in batches[:place]) for place in range(len(batches))
        ]
    text = "".join(said["tokens"]).encode()
    end = log[-1]
    assert (end["attempt"], end["count"]) == (attempt, len(said["tokens"]))
    assert (end["text_bytes"], end["crc32"]) == (len(text), zlib.crc32(text))


@given(st.lists(STEP, max_size=20), FAULTS, st.integers(1, 4), st.sampled_from(["complete", "failed"]))
@tries(40)
def test_however_redis_forgets_the_log_ends_up_with_everything_once_and_in_order(
    steps: list[tuple[str, str]], faults: list[str], size: int, reason: Reason
) -> None:
    asyncio.run(play(steps, faults, size, reason))
