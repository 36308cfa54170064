"""Whose a session is: who makes it, what they keep of it through any loss, and what others never see."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.store.jobs import Job
from relay.store.queue.enqueue import JobSubmitter
from relay.store.queue.queue import Queue
from relay.store.session.replies import Claim, RebuildResult, Request, Stopped, WriteOutcome
from relay.store.session.session_log import EMPTY_SESSION_TTL_S, SessionLog
from tests.store.in_memory import (
    LEASE_MS,
    Clock,
    Writer,
    admitted_and_claimed,
    answered,
    claimed,
    job_of,
    next_job,
    session_log_on,
    whole_log,
)

META = "t:s:{s}:meta"
TOMBSTONE_MS = 60_000


async def owner(log: SessionLog) -> str | None:
    """ "": nobody; None: there is no session."""
    opened = await log.open("s", create=False)
    return opened.sub if opened is not None else None


async def state_of(log: SessionLog, job: Job) -> str:
    admitted = await log.admit(job)
    assert admitted is not None
    return admitted.state


async def rebuilt(writer: Writer, job: Job) -> RebuildResult | WriteOutcome:
    epochs = [writer.claim.epoch]
    return await writer.log.rebuild(job, writer.fence, "w1", LEASE_MS, epochs, 1, writer.claim.times)


async def lose(redis: Redis) -> None:
    await redis.flushall()


# Who owns it


async def test_whoever_makes_it_owns_it(session_log: SessionLog) -> None:
    assert await session_log.own("s", "a", make=True)
    assert await owner(session_log) == "a"
    assert not await session_log.own("s", "b", make=True)
    assert await session_log.own("s", "a", make=False)


async def test_of_two_who_make_it_at_once_one_owns_it(session_log: SessionLog) -> None:
    for _ in range(20):
        found = await asyncio.gather(*(session_log.own("s", sub, make=True) for sub in ("a", "b")))
        assert sorted(found) == [False, True]
        assert await owner(session_log) == "ab"[found.index(True)]
        await session_log.delete("s", TOMBSTONE_MS)


async def test_asking_whose_it_is_makes_and_changes_nothing(session_log: SessionLog, redis: Redis) -> None:
    assert not await session_log.own("s", "a", make=False)
    assert await redis.keys() == []
    await session_log.open("s")
    assert not await session_log.own("s", "a", make=False)
    assert await owner(session_log) == ""


async def test_without_auth_nothing_is_stored(session_log: SessionLog, redis: Redis) -> None:
    await answered(session_log, job_of(), "text")
    assert not await redis.hexists(META, "sub")
    assert await owner(session_log) == ""


@pytest.mark.parametrize("by", ["own", "open", "admit", "rebuild", "bury"])
async def test_a_session_that_viewers_wait_in_becomes_theirs_who_first_do_more(
    session_log: SessionLog, by: str
) -> None:
    writer = await admitted_and_claimed(session_log, sub="a")
    await session_log.delete("s", 0)
    waiting = await session_log.open("s")
    assert waiting is not None
    match by:
        case "own":
            await session_log.own("s", "a", make=True)
        case "open":
            await session_log.open("s", sub="a")
        case "admit":
            assert await state_of(session_log, job_of("g2", sub="a")) == "queued"
        case "rebuild":
            assert isinstance(await rebuilt(writer, job_of("g2", sub="a")), RebuildResult)
        case "bury":
            assert await session_log.bury("s", "g2", 1, b"{}", sub="a") == "buried"
    assert await owner(session_log) == "a"
    after = await session_log.open("s", create=False)
    assert after is not None
    assert after.epoch == waiting.epoch  # it is the same session for those who wait
    page = await session_log.range("s", 1)
    assert page is not None
    assert page.sub == "a"


async def test_a_session_with_events_that_nobody_owns_stays_so(session_log: SessionLog) -> None:
    await answered(session_log, job_of(), "text")
    assert not await session_log.own("s", "a", make=True)
    assert await state_of(session_log, job_of("g2", sub="a")) == "foreign"
    assert await session_log.bury("s", "g3", 1, b"{}", sub="a") == "deleted"
    assert await owner(session_log) == ""


async def test_a_session_that_is_claimed_is_not_claimed_again(session_log: SessionLog) -> None:
    await session_log.open("s")
    assert await session_log.own("s", "a", make=True)
    await session_log.open("s", sub="b")
    assert await state_of(session_log, job_of(sub="b")) == "foreign"
    assert await owner(session_log) == "a"


async def test_a_session_without_events_is_forgotten_with_its_owner(session_log: SessionLog, clock: Clock) -> None:
    await session_log.own("s", "a", make=True)
    clock.advance(s=EMPTY_SESSION_TTL_S + 1)
    assert await session_log.own("s", "b", make=True)


async def test_the_owner_is_read_with_the_request(session_log: SessionLog) -> None:
    assert await session_log.look_up("s", "r") == Request(None, False, "", is_free=True)
    await session_log.open("s")
    assert await session_log.look_up("s", "r") == Request(None, False, "", is_free=True)
    await session_log.admit(job_of(sub="a"))
    assert await session_log.look_up("s", "r-g1") == Request(("g1", "h-g1"), False, "a", is_free=False)
    await session_log.delete("s", TOMBSTONE_MS)
    assert await session_log.look_up("s", "r-g1") == Request(None, True, "", is_free=True)
    await answered(session_log, job_of("g2"), "without auth")
    assert await session_log.look_up("s", "r-g2") == Request(("g2", "h-g2"), False, "", is_free=False)


# What is not theirs


async def test_a_job_for_somebody_elses_session_leaves_nothing_in_it(session_log: SessionLog) -> None:
    await answered(session_log, job_of(sub="a"), "text")
    before = await whole_log(session_log)
    for sub in ("b", ""):
        foreign = job_of("g2", sub=sub)
        admitted = await session_log.admit_or_refuse(foreign)
        assert admitted is not None
        assert not admitted.accepts("g2")
        assert await state_of(session_log, job_of("g3", request_id="r-g1", sub=sub)) == "foreign"  # no word of r-g1
    assert await whole_log(session_log) == before


async def test_a_submit_to_somebody_elses_session_is_not_admitted_and_its_job_is_gone(
    session_log: SessionLog, queue: Queue, redis: Redis
) -> None:
    await session_log.own("s", "a", make=True)
    submitter = JobSubmitter(session_log, queue, redis, look_ms=1000)
    assert await submitter.submit(job_of(sub="b")) == "foreign"
    assert await next_job(queue) is None
    assert await queue.sizes("default") == (0, 0)


async def test_a_job_of_the_release_before_names_nobody_and_is_made_where_it_was_admitted(
    session_log: SessionLog, redis: Redis
) -> None:
    """Its gateway asks nobody; then the worker admits it once more, and claims it."""
    await session_log.admit(job_of(sub="a"))
    earlier = job_of()
    assert await state_of(session_log, earlier) == "queued"
    writer = await claimed(session_log, earlier)
    await writer.tokens("text")
    await redis.delete("t:s:{s}:t:g1")
    assert isinstance(await rebuilt(writer, earlier), RebuildResult)


@pytest.mark.parametrize("sub", ["b", "a"])
async def test_reads_and_ends_find_nothing_in_somebody_elses_session(session_log: SessionLog, sub: str) -> None:
    await admitted_and_claimed(session_log, sub="a")
    theirs, snapshots = sub == "a", session_log.snapshots
    found: list[Any] = [
        await session_log.moment("s", 9, sub),
        await session_log.span("s", "g1", sub),
        await session_log.user_turn("s", "g1", sub),
        await snapshots.session("s", 9, sub),
        await snapshots.generation("s", "g1", sub),
        await session_log.stop("s", "g1", sub),
        await session_log.delete("s", TOMBSTONE_MS, sub=sub),
    ]
    assert [one is not None for one in found] == [theirs] * len(found)
    assert (await owner(session_log) is None) is theirs
    if not theirs:
        assert [event["type"] for event in await whole_log(session_log)] == ["message", "status"]


async def test_of_a_session_without_owner_they_find_nothing_either(session_log: SessionLog) -> None:
    await admitted_and_claimed(session_log)
    assert await session_log.moment("s", 9, "a") is None
    assert await session_log.span("s", "g1", "a") is None
    assert await session_log.user_turn("s", "g1", "a") is None
    assert await session_log.snapshots.generation("s", "g1", "a") is None
    assert await session_log.stop("s", "g1", "a") is None
    assert await session_log.delete("s", TOMBSTONE_MS, sub="a") is None


async def test_an_owner_without_a_name_is_our_bug(session_log: SessionLog) -> None:
    """Otherwise it would be taken for one who may see everything."""
    await answered(session_log, job_of(sub="a"), "text")
    with pytest.raises(ValueError, match="name"):
        await session_log.snapshots.session("s", 9, "")
    with pytest.raises(ValueError, match="name"):
        await session_log.delete("s", TOMBSTONE_MS, sub="")
    with pytest.raises(ValueError, match="name"):
        await session_log.own("s", "", make=True)


# Deleted


async def test_who_deletes_again_is_told_so_and_others_are_told_nothing(session_log: SessionLog) -> None:
    await answered(session_log, job_of(sub="a"), "text")
    for _ in range(2):
        assert await session_log.delete("s", TOMBSTONE_MS, sub="a") == []
    assert await session_log.delete("s", TOMBSTONE_MS, sub="b") is None
    assert await session_log.delete("s", TOMBSTONE_MS) == []


async def test_what_was_deleted_may_be_made_by_somebody_else(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log, sub="a")
    await session_log.delete("s", TOMBSTONE_MS, sub="a")
    assert await session_log.own("s", "b", make=True)
    assert await session_log.delete("s", TOMBSTONE_MS, sub="a") is None
    assert (await writer.tokens("late")).what == "ended"
    assert await whole_log(session_log) == []


@pytest.mark.parametrize("shown", [True, False])
async def test_what_redis_has_left_without_meta_is_deleted_only_for_those_who_were_shown_it(
    session_log: SessionLog, redis: Redis, shown: bool
) -> None:
    await admitted_and_claimed(session_log, sub="a")
    await redis.delete(META)
    deleted = await session_log.delete("s", TOMBSTONE_MS, ["e"] if shown else [], ["g1"] if shown else [], "a")
    assert deleted == ([Stopped("g1", False, "w1", "default")] if shown else None)


async def test_what_was_shown_before_a_loss_deletes_nothing_that_somebody_else_has_made_since(
    session_log: SessionLog, redis: Redis
) -> None:
    writer = await admitted_and_claimed(session_log, sub="a")
    await lose(redis)
    await answered(session_log, job_of("g2", sub="b"), "of b")
    assert await session_log.delete("s", TOMBSTONE_MS, [writer.claim.epoch], ["g1"], "a") is None
    assert await session_log.snapshots.generation("s", "g2", "b") is not None


# Lost


async def test_a_rebuild_restores_the_owner(session_log: SessionLog, redis: Redis) -> None:
    job = job_of(sub="a")
    writer = await admitted_and_claimed(session_log, sub="a")
    await lose(redis)
    assert isinstance(await rebuilt(writer, job), RebuildResult)
    assert await owner(session_log) == "a"


async def test_so_does_a_job_that_is_admitted_again_and_the_end_of_a_lost_answer(
    session_log: SessionLog, redis: Redis
) -> None:
    await session_log.admit(job_of(sub="a"))
    await lose(redis)
    assert await state_of(session_log, job_of(sub="a")) == "queued"
    assert await owner(session_log) == "a"
    await lose(redis)
    assert await session_log.bury("s", "g1", 1, b"{}", sub="a") == "buried"
    assert await owner(session_log) == "a"


@pytest.mark.parametrize("whose", ["b", ""])
async def test_after_a_loss_nothing_comes_back_into_a_session_that_is_somebody_elses_now(
    session_log: SessionLog, redis: Redis, whose: str
) -> None:
    job = job_of(sub="a")
    writer = await admitted_and_claimed(session_log, sub="a")
    await writer.tokens("secret")
    await lose(redis)
    await answered(session_log, job_of("g2", sub=whose), "of another")
    before = await whole_log(session_log)
    assert await rebuilt(writer, job) == WriteOutcome("ended")
    assert await state_of(session_log, job) == "foreign"
    assert await session_log.bury("s", "g1", 1, b"{}", sub="a") == "deleted"
    assert (await writer.tokens("more")).what == "unknown"
    assert await whole_log(session_log) == before
    assert await owner(session_log) == whose


async def test_nor_does_what_nobody_owned(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await lose(redis)
    await answered(session_log, job_of("g2", sub="b"), "of b")
    assert await rebuilt(writer, job_of()) == WriteOutcome("ended")
    assert await state_of(session_log, job_of()) == "foreign"
    assert await session_log.bury("s", "g1", 1, b"{}") == "deleted"


async def test_a_snapshot_that_is_read_while_the_session_becomes_somebody_elses_holds_nothing_of_theirs(
    session_log: SessionLog, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered(session_log, job_of(sub="a"), "of a")
    stored = session_log.snapshots._stored

    async def made_again(session: str, name: str) -> Any:
        monkeypatch.setattr(session_log.snapshots, "_stored", stored)
        await lose(redis)
        await answered(session_log, job_of(sub="b"), "of b")  # even under the same name
        return await stored(session, name)

    monkeypatch.setattr(session_log.snapshots, "_stored", made_again)
    assert await session_log.snapshots.session("s", 9, "a") is None


# Whatever happens


_STEPS = ["ask", "write", "rebuild", "admit", "bury", "open", "delete", "lose", "keep a copy", "go back"]


class History:
    """Two owners, nobody, their workers and their followers, who all have the same name for their session.

    Each text begins with its author. After each step nobody who owns may see a text that is not theirs.
    """

    def __init__(self, redis: Redis, chance: random.Random) -> None:
        self._redis, self._chance = redis, chance
        self._log = session_log_on(redis)
        self._writers: list[tuple[Writer, Job]] = []
        self._shown: list[tuple[str, str]] = []  # generations, and under whom they were shown
        self._count = 0
        self._copy: dict[bytes | str, bytes] = {}  # of Redis, as a replica that is behind would have it

    async def step(self) -> None:
        chance, sub = self._chance, self._chance.choice(["a", "b", ""])
        match chance.choice([*_STEPS, "ask", "write"]):
            case "ask":
                await self._ask(sub)
            case "open":
                await self._log.open("s", sub=sub)
            case "delete":
                if chance.random() < 0.3:
                    await self._log.delete("s", TOMBSTONE_MS, sub=sub or None)
            case "lose":
                if chance.random() < 0.3:
                    await self._redis.flushall()
            case "keep a copy":
                self._copy = {key: await self._redis.dump(key) or b"" for key in await self._redis.keys()}
            case "go back":
                if chance.random() < 0.3:
                    await self._redis.flushall()
                    for key, value in self._copy.items():
                        await self._redis.restore(key, 0, value)
            case "bury" if self._shown:
                generation, whose = chance.choice(self._shown)
                await self._log.bury("s", generation, 1, b"{}", sub=whose)
            case what if self._writers:
                writer, job = chance.choice(self._writers)
                if what == "write":
                    await writer.tokens(f"[{job.sub}]")
                elif what == "admit":
                    await self._log.admit_or_refuse(job)
                elif isinstance(made := await rebuilt(writer, job), RebuildResult):
                    writer.fence, writer.n = made.fence, 1
                    writer.written["tokens"] = writer.written["tokens"][: made.tokens]

    async def _ask(self, sub: str) -> None:
        self._count += 1
        job = job_of(f"g{self._count}", sub=sub, content=f"[{sub}]")
        admitted = await self._log.admit(job)
        if admitted is not None and admitted.accepts(job.generation):
            claim = await self._log.claim("s", job.generation, "w1", LEASE_MS, 0)
            assert isinstance(claim, Claim)
            self._writers.append((Writer(self._log, job, claim), job))
            self._shown.append((job.generation, sub))

    async def check(self) -> int:
        whose, page = await owner(self._log), await self._log.range("s", 1)
        seen = "".join(str(body) for _, body in page.entries) if page is not None else ""
        for other in {"a", "b", ""} - {whose}:
            assert f"[{other}]" not in seen, (whose, seen)
        for sub in ("a", "b"):
            snapshot = await self._log.snapshots.session("s", 100, sub)
            assert (snapshot is not None) is (whose == sub)
            for generation, _ in self._shown[-3:]:
                assert whose == sub or await self._log.snapshots.generation("s", generation, sub) is None
        return seen.count("[")


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_nobody_sees_what_is_not_theirs(redis: Redis, clock: Clock, seed: int) -> None:
    history, seen = History(redis, random.Random(seed)), 0
    for _ in range(200):
        clock.advance(ms=1)
        await history.step()
        seen += await history.check()
    assert seen > 50, "nothing was shown"
