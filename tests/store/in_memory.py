"""Redis in memory, with a clock that only the test moves, and a worker's hand to write with."""

from __future__ import annotations

import time
import zlib
from typing import Any
from weakref import WeakKeyDictionary

import fakeredis
import msgspec
import pytest
from redis.asyncio import Redis

from relay.protocol import events
from relay.protocol.events import State
from relay.protocol.words import Reason
from relay.redis.connections import AnyRedis
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.queue.queue import Queue
from relay.store.session.replies import Claim, WriteOutcome
from relay.store.session.session_log import Append, SessionLog
from relay_workers.writing.batching import Kind

LEASE_MS = 10_000
SESSION_TTL_S = 1000
TRIM_AFTER_S = 600

# Every module of fakeredis 2.40 that asks for the time of day.
_TELLS_TIME = ("_socket._base", "commands_mixins.server_mixin", "model._stream", "_helpers")


class Clock:
    """Redis' clock; stands in for the `time` module inside fakeredis."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def time(self) -> float:
        return self.now_ms / 1000

    def advance(self, *, s: float = 0, ms: int = 0) -> None:
        self.now_ms += int(s * 1000) + ms

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in _TELLS_TIME:
            monkeypatch.setattr(f"fakeredis.{module}.time", self)


def redis_in_memory() -> Redis:
    """A client of a new, empty server. RESP2: that is what our scripts see on a real one."""
    client: Redis = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(), protocol=2)
    return client


def session_log_on(redis: AnyRedis, *, max_generations: int = 200, max_requests: int = 1000) -> SessionLog:
    return SessionLog(
        redis,
        redis,
        Keys("t"),
        session_ttl_s=SESSION_TTL_S,
        max_generations=max_generations,
        max_requests=max_requests,
    )


def queue_on(redis: Redis, *, max_backlog: int = 100) -> Queue:
    return Queue(redis, redis, Keys("t"), max_backlog=max_backlog, ttl_s=SESSION_TTL_S, trim_after_s=TRIM_AFTER_S)


async def next_job(queue: Queue, name: str = "default") -> Job | None:
    jobs = await queue.take(name)
    return jobs[0] if jobs else None


def job_of(generation: str = "g1", **fields: Any) -> Job:
    """A job of session `s`; what it is asked follows from the generation's name."""
    return Job(
        **{
            "session": "s",
            "generation": generation,
            "request_id": f"r-{generation}",
            "body_hash": f"h-{generation}",
            "queue": "default",
            "message_id": f"m-{generation}",
            "content": f"question of {generation}",
            **fields,
        }
    )


async def whole_log(session_log: SessionLog, session: str = "s") -> list[dict[str, Any]]:
    """Every event of the log, with its seq."""
    page = await session_log.range(session, 1)
    assert page is not None
    return [{"seq": seq, **msgspec.json.decode(body)} for seq, body in page.entries]


class Writer:
    """The holder of one claim: numbers its appends and keeps the counts, as the flusher does."""

    def __init__(self, session_log: SessionLog, job: Job, claim: Claim) -> None:
        self.log = session_log
        self.session, self.generation = job.session, job.generation
        self.claim = claim
        self.fence, self.attempt, self.shown, self.history = claim.fence, claim.attempt, claim.shown, claim.history
        self.n = 0
        self.written: dict[Kind, list[str]] = {"tokens": [], "reasoning": [], "data": []}

    async def status(self, state: State) -> WriteOutcome:
        return await self._append("status", events.Status(self.generation, self.attempt, state), text=state)

    async def data(self, value: Any) -> WriteOutcome:
        event = events.Data(self.generation, self.attempt, "note", value)
        self.written["data"].append(events.encode(event).decode())
        return await self._append("data", event, index=len(self.written["data"]) - 1, count=1)

    async def restart(self) -> WriteOutcome:
        self.attempt += 1
        self.written = {"tokens": [], "reasoning": [], "data": []}
        event = events.Restart(self.generation, self.attempt, "worker_lost")
        return await self._append("restart", event, index=self.attempt)

    async def tokens(self, *texts: str) -> WriteOutcome:
        return await self._batch("tokens", events.Tokens, texts)

    async def reasoning(self, *texts: str) -> WriteOutcome:
        return await self._batch("reasoning", events.Reasoning, texts)

    async def end(self, reason: Reason = "complete", message_id: str = "", **members: Any) -> WriteOutcome:
        count = len(self.written["tokens"])
        return await self.log.end(
            self.session, self.generation, self.fence, reason, msgspec.json.encode(members), count, message_id
        )

    async def _batch(
        self, kind: Kind, event: type[events.Tokens | events.Reasoning], texts: tuple[str, ...]
    ) -> WriteOutcome:
        index = len(self.written[kind])
        self.written[kind] += texts
        so_far = "".join(self.written["tokens"]).encode()
        return await self._append(
            kind,
            event(self.generation, self.attempt, index, len(texts), "".join(texts)),
            index=index,
            count=len(texts),
            text="".join(texts),
            text_bytes=len(so_far),
            crc32=zlib.crc32(so_far),
        )

    async def _append(self, kind: str, event: events.Event, **arguments: Any) -> WriteOutcome:
        self.n += 1
        append = Append(kind, events.encode(event), **arguments)
        return await self.log.append(self.session, self.generation, self.fence, self.n, LEASE_MS, append)


# The first claim in each log, for a flusher that is to be its holder.
first_claims: WeakKeyDictionary[SessionLog, Claim] = WeakKeyDictionary()


async def claimed(session_log: SessionLog, job: Job, worker: str = "w1", history_turns: int = 20) -> Writer:
    """Claim an admitted job; fails the test if that is refused."""
    claim = await session_log.claim(job.session, job.generation, worker, LEASE_MS, history_turns)
    assert isinstance(claim, Claim), claim
    first_claims.setdefault(session_log, claim)
    return Writer(session_log, job, claim)


async def answered(session_log: SessionLog, job: Job, *texts: str, reason: Reason = "complete") -> None:
    """Admit, claim, write and end one generation."""
    admitted = await session_log.admit(job)
    assert admitted is not None
    assert admitted.fresh
    writer = await claimed(session_log, job)
    if texts:
        await writer.tokens(*texts)
    assert (await writer.end(reason, f"a-{job.generation}" if reason == "complete" else "")).what == "written"


async def admitted_and_claimed(session_log: SessionLog, generation: str = "g1", **fields: Any) -> Writer:
    job = job_of(generation, **fields)
    assert await session_log.admit(job) is not None
    return await claimed(session_log, job)


async def snapshot(session_log: SessionLog, generation: str = "g1") -> dict[str, Any]:
    found = await session_log.snapshots.generation("s", generation)
    assert found is not None
    return found


async def head(session_log: SessionLog) -> int:
    opened = await session_log.open("s", create=False)
    assert opened is not None
    return opened.head


def parts_of(found: dict[str, Any]) -> list[str | dict[str, Any]]:
    """A snapshot's text, and the data in its places there."""
    text, parts, at = found["text"].encode(), [], 0
    for one in found["data"]:
        if one["text_bytes"] > at:
            parts.append(text[at : one["text_bytes"]].decode())
        at = one["text_bytes"]
        parts.append({"name": one["name"], "value": one["value"], "at": one["at"]})
    return [*parts, text[at:].decode()] if at < len(text) else parts


async def generations(session_log: SessionLog, limit: int = 1000) -> list[str]:
    """In order of submit, the newest `limit`."""
    moment = await session_log.moment("s", limit)
    return moment.generations if moment is not None else []


async def transcript(session_log: SessionLog) -> list[str]:
    moment = await session_log.moment("s", 1000)
    return moment.completed if moment is not None else []
