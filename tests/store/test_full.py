"""A Redis without room: what begins or grows leaves no trace, what ends or frees goes through.

Redis decides at a script's first write, so the order of the writes in each script matters; fakeredis knows no memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from redis.asyncio import Redis

from relay import embedded
from relay.errors import StorageError
from relay.store.keys import Keys
from relay.store.queue.queue import Queue
from relay.store.queue.worker_registry import Offer, WorkerRegistry
from relay.store.revocations import RevocationStore
from relay.store.session.replies import ClaimRefused
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import (
    LEASE_MS,
    Writer,
    admitted_and_claimed,
    answered,
    job_of,
    next_job,
    queue_on,
    session_log_on,
    snapshot,
    whole_log,
)

MARK_MS = 60_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded.embedded_server() as url:
        yield url


@pytest.fixture
async def redis(url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(url, protocol=2) as redis:
        yield redis
        await redis.config_set("maxmemory", "0")
        await redis.flushall()


class Full:
    """A session with one running answer and one that has ended, and a queue with both; then memory runs out."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.log: SessionLog = session_log_on(redis)
        self.queue: Queue = queue_on(redis)
        self.writer: Writer

    async def begin(self) -> Full:
        await answered(self.log, job_of("g0"), "all ", "of ", "it", "")
        for generation in ("g0", "g1", "g2"):
            await self.queue.enqueue(job_of(generation), 0)
        await next_job(self.queue)
        await self.log.admit(job_of("g2"))
        self.writer = await admitted_and_claimed(self.log)
        await self.writer.tokens("a", "b")
        await self.writer.reasoning("hm")
        await self.redis.config_set("maxmemory", "1")
        return self

    async def room(self) -> None:
        """Also before a snapshot: Redis 7 refuses even reads in a MULTI while it is full."""
        await self.redis.config_set("maxmemory", "0")

    async def stored(self) -> dict[bytes, bytes]:
        return {key: await self.redis.dump(key) for key in await self.redis.keys("*")}  # type: ignore[misc]


@pytest.fixture
async def full(redis: Redis) -> Full:
    return await Full(redis).begin()


GROWS: dict[str, Callable[[Full], Awaitable[object]]] = {
    "admit": lambda full: full.log.admit(job_of("g3")),
    "claim": lambda full: full.log.claim("s", "g2", "w2", LEASE_MS, 20),
    "tokens": lambda full: full.writer.tokens("c"),
    "reasoning": lambda full: full.writer.reasoning("c"),
    "status": lambda full: full.writer.status("thinking"),
    "data": lambda full: full.writer.data({"a": 1}),
    "restart": lambda full: full.writer.restart(),
    "enqueue": lambda full: full.queue.enqueue(job_of("g3"), 0),
    "enqueue in a new queue": lambda full: full.queue.enqueue(job_of("g3", queue="new"), 0),
}


@pytest.mark.parametrize("what", GROWS)
async def test_what_begins_or_grows_is_refused_as_an_outage_and_leaves_no_trace(full: Full, what: str) -> None:
    before = await full.stored()
    with pytest.raises(StorageError, match=r"OOM|OutOfMemory") as failure:
        await GROWS[what](full)
    assert not failure.value.refused
    assert await full.stored() == before


async def test_every_refused_append_can_be_sent_again_when_there_is_room(full: Full) -> None:
    for text in ("c", "d"):
        with pytest.raises(StorageError):
            await full.writer.tokens(text)
        full.writer.n -= 1
        full.writer.written["tokens"].remove(text)
    await full.room()
    await full.writer.tokens("c", "d")
    assert (await full.writer.end()).what == "written"
    assert (await snapshot(full.log))["text"] == "abcd"


async def test_an_answer_whose_text_is_stored_ends(full: Full) -> None:
    assert (await full.writer.end("complete", "m9")).what == "written"
    assert (await full.writer.end("complete", "m9")).what == "repeated"
    await _ended(full, "complete")


async def test_a_stop_holds(full: Full) -> None:
    stopped = await full.log.stop("s", "g1")
    assert stopped is not None
    assert (stopped.already_ended, stopped.owner) == (False, "w1")
    assert (await full.writer.tokens("c")).what == "ended"
    await _ended(full, "stopped")


async def test_what_nobody_claims_ends(full: Full) -> None:
    assert await full.log.reap("s", "g2", "0", b'{"error":{"code":"no_worker"}}')
    await full.room()
    claim = await full.log.claim("s", "g2", "w2", LEASE_MS, 20)
    assert isinstance(claim, ClaimRefused)
    assert claim.why == "ended"


async def test_viewers_are_told_that_no_worker_serves_their_queue_and_workers_say_that_they_do(full: Full) -> None:
    assert await full.log.unserved("s", "g2")
    assert not await full.log.unserved("s", "g2")
    await full.queue.serve("default")
    await full.room()
    told = [event for event in await whole_log(full.log) if event["generation"] == "g2"]
    assert told[-1]["detail"] == "no_worker"
    assert await full.redis.pttl("t:q:{default}:served") > 0


async def test_a_lease_is_renewed_and_given_back(full: Full) -> None:
    before = await full.redis.hget("t:s:{s}:g:g1", "lease")
    assert (await full.log.renew("s", "g1", full.writer.fence, 10 * LEASE_MS)).what == "written"
    assert int(await full.redis.hget("t:s:{s}:g:g1", "lease") or 0) > int(before or 0)
    await full.log.release("s", "g1", full.writer.fence)
    assert await full.redis.hget("t:s:{s}:g:g1", "owner") is None


async def test_a_session_is_deleted_with_what_runs_in_it(full: Full) -> None:
    deleted = await full.log.delete("s", MARK_MS)
    assert deleted is not None
    assert {stopped.generation for stopped in deleted} == {"g1", "g2"}
    assert [key for key in await full.redis.keys("t:s:*") if b":deleted" not in key] == []
    assert await full.log.delete("s", MARK_MS) == []


async def test_ended_answers_are_trimmed(full: Full) -> None:
    while await full.log.trim("s", "g0"):
        pass
    await full.room()
    assert await full.redis.hget("t:s:{s}:g:g0", "pieces") is not None
    assert [event["text"] for event in await whole_log(full.log) if event["type"] == "tokens"] == ["all of it", "ab"]


async def test_reapers_find_move_and_finish_jobs(full: Full) -> None:
    assert len((await full.queue.due("default", 100, 1000)).rows) == 3
    assert (await full.queue.due("default", 100, 1000)).rows == []
    await full.queue.look_at("default", "s", "g1", 1)
    await full.queue.look_at("default", "s", "g9", 1)
    assert (await full.queue.due("default", 100, 1000)).rows == [("s", "g1")]
    assert await full.redis.pttl("t:q:{default}:open") > 0
    assert await full.queue.requeue("default", "s", "g0", 0) == "requeued"
    await full.queue.done("default", "s", "g0")
    await full.queue.done("default", "s", "g1", "worker_lost")
    assert await full.queue.sizes("default") == (1, 1)
    assert await full.queue.discard("default", "s", "g1")
    assert await full.queue.sizes("default") == (1, 0)
    await full.queue.trimmed("default", "s", "g0")
    await full.queue.trimmed("default", "s", "g1")
    assert await full.redis.zcard("t:q:{default}:trims") == 0


async def test_followers_begin_and_workers_are_known(full: Full) -> None:
    opened = await full.log.open("s")
    assert opened is not None
    assert [active.generation for active in opened.active] == ["g2", "g1"]
    offers = WorkerRegistry(full.redis, Keys("t"))
    await offers.publish([Offer("default", "demo", "m")])
    assert len(await offers.current()) == 1


async def test_whom_somebody_revokes_is_revoked(full: Full) -> None:
    """It may be the only way to stop what fills it."""
    store = RevocationStore(full.redis, Keys("t"))
    revoked = await store.revoke("somebody")
    assert revoked is not None
    assert (await store.news(0, 1000)).rows == [revoked]


async def _ended(full: Full, reason: str) -> None:
    await full.room()
    ends = [event for event in await whole_log(full.log) if event["type"] == "end" and event["generation"] == "g1"]
    assert [(end["reason"], end["count"], end["text_bytes"]) for end in ends] == [(reason, 2, 2)]
    assert (await snapshot(full.log))["text"] == "ab"
