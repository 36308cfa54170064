"""Nothing of ours stays in Redis for ever: whatever each script writes expires, also where Redis has lost any one key.

No script fails over such a loss in its middle either: half of what it does would be left.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import relay.store
import relay.store.scripts
from relay.errors import StorageError
from relay.protocol import events
from relay.store.keys import Keys
from relay.store.queue.backlog import Backlog
from relay.store.queue.worker_registry import Offer, WorkerRegistry
from relay.store.revocations import RevocationStore, Revoked
from relay.store.session.replies import Claim
from relay.store.session.session_log import Append
from relay.store.ticket_key import TicketKey
from tests.store.in_memory import LEASE_MS, Clock, job_of, queue_on, session_log_on

LOOK_MS = 1000
LUA = Path(relay.store.__file__).parent
FAILED = b'{"error":{"code":"storage","message":"The answer was lost.","retryable":true}}'


class Stage:
    """A session and its queue. Steps may be repeated over other keys: what they need of one another is kept here."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.log = session_log_on(redis, max_generations=3, max_requests=3)
        self.narrow = session_log_on(redis, max_generations=1)
        self.queue = queue_on(redis)
        self.epoch = ""
        self.claims: dict[str, Claim] = {}

    async def claim(self, generation: str, worker: str = "w1") -> None:
        claim = await self.log.claim("s", generation, worker, LEASE_MS, 20)
        if isinstance(claim, Claim):
            self.claims[generation] = claim

    async def append(self, n: int, event: Any, index: int = 0, before: str = "", generation: str = "g1") -> None:
        kind = str(event.__struct_config__.tag)
        text = getattr(event, "text", getattr(event, "state", ""))
        so_far = (before + text).encode()
        append = Append(kind, events.encode(event), index, 1, text, len(so_far), zlib.crc32(so_far))
        await self.log.append("s", generation, self.claims[generation].fence, n, LEASE_MS, append)

    async def end(self, generation: str, count: int = 0) -> None:
        await self.log.end("s", generation, self.claims[generation].fence, "complete", b"{}", count, f"a-{generation}")

    async def rebuild(self, generation: str = "g1") -> None:
        claim = self.claims[generation]
        await self.log.rebuild(job_of(generation), claim.fence, "w1", LEASE_MS, [claim.epoch], 1, claim.times)

    async def open(self, *, create: bool = True) -> None:
        opened = await self.log.open("s", create=create)
        self.epoch = opened.epoch if opened is not None else self.epoch

    async def submit(self, generation: str) -> None:
        await self.queue.enqueue(job_of(generation), LOOK_MS)
        await self.log.admit(job_of(generation))


Step = Callable[[Stage], Awaitable[object]]
OFFER = Offer("default", "demo", "demo")

STEPS: list[Step] = [
    lambda on: on.open(),
    lambda on: on.queue.announce("default"),
    lambda on: on.queue.enqueue(job_of(), LOOK_MS),
    lambda on: on.log.admit(job_of()),
    lambda on: on.queue.take("default"),
    lambda on: on.claim("g1"),
    lambda on: on.append(1, events.Status("g1", 1, "thinking")),
    lambda on: on.append(2, events.Reasoning("g1", 1, 0, 1, "hm")),
    lambda on: on.append(3, events.Tokens("g1", 1, 0, 1, "a")),
    lambda on: on.append(4, events.Data("g1", 1, "note", 1)),
    lambda on: on.append(5, events.Reasoning("g1", 1, 1, 1, "so"), 1),
    lambda on: on.append(6, events.Data("g1", 1, "note", 2), 1),
    lambda on: on.append(7, events.Tokens("g1", 1, 1, 1, "b"), 1, "a"),
    lambda on: on.log.renew("s", "g1", on.claims["g1"].fence, LEASE_MS, 7, "mark"),
    lambda on: on.append(8, events.Restart("g1", 2, "worker_lost"), 2),
    lambda on: on.append(9, events.Tokens("g1", 2, 0, 1, "c")),
    lambda on: on.log.release("s", "g1", on.claims["g1"].fence),
    lambda on: on.queue.requeue("default", "s", "g1", 0),
    lambda on: on.claim("g1", "w2"),
    lambda on: on.queue.ensure_row(job_of(), LOOK_MS),
    lambda on: on.queue.look_at("default", "s", "g1", 1),
    lambda on: on.queue.due("default", 10, LOOK_MS, "policy"),
    lambda on: on.queue.serve("default"),
    lambda on: on.rebuild(),
    lambda on: on.log.rotate("s", on.epoch, missing=False),
    lambda on: on.open(create=False),
    lambda on: on.log.rotate("s", on.epoch, missing=True),
    lambda on: on.rebuild(),
    lambda on: on.claim("g1"),
    lambda on: on.append(1, events.Tokens("g1", 1, 0, 1, "d")),
    lambda on: on.append(2, events.Tokens("g1", 1, 1, 1, "e"), 1, "d"),
    lambda on: on.log.snapshots.session("s", 10),
    lambda on: on.end("g1", 2),
    lambda on: on.log.trim("s", "g1"),
    lambda on: on.queue.done("default", "s", "g1"),
    lambda on: on.submit("g2"),
    lambda on: on.narrow.admit_or_refuse(job_of("full")),
    lambda on: on.narrow.admit(job_of("full")),
    lambda on: on.claim("g2"),
    lambda on: on.log.stop("s", "g2"),
    lambda on: on.submit("g3"),
    lambda on: on.log.unserved("s", "g3"),
    lambda on: on.log.reap("s", "g3", "0", FAILED, "worker_lost"),
    lambda on: on.queue.done("default", "s", "g3", "worker_lost"),
    lambda on: on.submit("g4"),  # the oldest goes
    lambda on: on.log.bury("s", "lost", 1, FAILED),
    lambda on: on.log.range("s", 1),
    lambda on: Backlog(on.redis, on.log.keys).counts("default"),
    lambda on: on.queue.discard("default", "s", "g3"),
    lambda on: WorkerRegistry(on.redis, Keys("t")).publish([OFFER]),
    lambda on: WorkerRegistry(on.redis, Keys("t"))._run([], [b"another"]),
    lambda on: RevocationStore(on.redis, Keys("t")).revoke("somebody"),
    lambda on: RevocationStore(on.redis, Keys("t")).put_back([Revoked("another", 1)]),
    lambda on: RevocationStore(on.redis, Keys("t")).news(0, 1000),
    lambda on: TicketKey(on.redis, Keys("t")).keys(),
    lambda on: on.log.delete("s", 60_000, ["another"], ["one"]),
    lambda on: on.log.delete("s", 60_000, ["another"], ["one"]),
    lambda on: on.open(),
]  # fmt: skip


async def kept(redis: Redis) -> dict[Any, tuple[int, bytes]]:
    return {key: (await redis.pttl(key), await redis.dump(key) or b"") for key in await redis.keys()}


async def go_back_to(redis: Redis, before: dict[Any, tuple[int, bytes]]) -> None:
    await redis.flushdb()
    for key, (ttl_ms, value) in before.items():
        await redis.restore(key, ttl_ms, value)


async def without_expiry(redis: Redis) -> list[Any]:
    return [key for key in await redis.keys() if await redis.pttl(key) < 0]


async def test_whatever_a_script_writes_expires_whichever_key_redis_has_lost(
    redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: set[str] = set()
    run = relay.store.scripts.Script.__call__

    async def noted(script: Any, *arguments: Any) -> Any:
        ran.add(script.name)
        return await run(script, *arguments)

    monkeypatch.setattr(relay.store.scripts.Script, "__call__", noted)
    stage = Stage(redis)
    for number, step in enumerate(STEPS, 1):
        clock.advance(ms=1)
        before, claims, epoch = await kept(redis), stage.claims, stage.epoch
        for lost in [*before, b"nothing"]:  # the last one is what the next step begins with
            stage.claims, stage.epoch = dict(claims), epoch
            await go_back_to(redis, {key: value for key, value in before.items() if key != lost})
            try:
                await step(stage)
            except StorageError as error:
                pytest.fail(f"step {number} without {lost.decode()}: {error}")
            assert not await without_expiry(redis), f"after step {number} without {lost.decode()}"
    assert ran == {file.stem for file in LUA.rglob("*.lua")} - {"prelude", "generation", "acl"}  # the latter has no key
