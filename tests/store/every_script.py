"""Every script of the log, run once on a Redis in memory with all that it may write. Texts and ids are told by names.

A script that is new, or writes something new, has its place here: tests/store/test_shapes.py misses it otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from redis.asyncio import Redis

from relay import settings
from relay.protocol.options import Options
from relay.protocol.words import PRIORITIES
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.queue import policy
from relay.store.queue.backlog import Backlog
from relay.store.queue.enqueue import JobSubmitter
from relay.store.queue.worker_registry import Offer, WorkerRegistry
from relay.store.revocations import RevocationStore, Revoked
from relay.store.session.replies import Claim
from relay.store.session.session_log import SessionLog
from relay.store.ticket_key import TicketKey
from tests.store.in_memory import LEASE_MS, Writer, queue_on, session_log_on

Look = Callable[[], Awaitable[None]]

KEYS = Keys("t")
LOOK_MS = 1000
MAX_GENERATIONS = 3  # so that the oldest soon goes
SESSION, QUEUE = "SESSION", "QUEUE"
LOST = b'{"error":{"code":"storage","message":"SENTENCE","retryable":true}}'


async def run_every_script(redis: Redis, look: Look) -> None:
    """`look` is called whenever there is something that was not there before."""
    await _queue(look, redis)
    await _session(look, redis)
    await _access(redis)
    await look()


# All that scripts write of a queue


async def _queue(look: Look, redis: Redis) -> None:
    queue = queue_on(redis)
    offers, backlog = WorkerRegistry(redis, KEYS), Backlog(redis, KEYS)
    await offers.publish([Offer(QUEUE, "PROVIDER", "MODEL", ["MODEL"], "WORKER", "open")])
    await queue.announce(QUEUE)
    for number, priority in enumerate(PRIORITIES):
        await queue.enqueue(job(number, priority=priority), LOOK_MS)
    said = policy.encode_policy(settings.load(lease_s=10.0, queue_timeout_s=60.0))
    await queue.due(QUEUE, 10, LOOK_MS, said)
    await look()
    await queue.serve(QUEUE)
    await queue.look_at(QUEUE, SESSION, "GENERATION0", 0)
    await queue.take(QUEUE, 3)
    await queue.requeue(QUEUE, SESSION, "GENERATION0", 0)
    await backlog.counts(QUEUE)
    await redis.delete(KEYS.queue(QUEUE, "jobs"), KEYS.queue(QUEUE, "entries"))
    await queue.ensure_row(job(0), LOOK_MS)
    await look()
    await queue.done(QUEUE, SESSION, "GENERATION0", "worker_lost")
    await look()
    await queue.discard(QUEUE, SESSION, "GENERATION0")


# All that they write of a session


async def _session(look: Look, redis: Redis) -> None:
    log = session_log_on(redis, max_generations=MAX_GENERATIONS)
    await log.open(SESSION, sub="SUB")
    await look()
    await _answered(look, log)
    await _asked_again(look, log, redis)
    await _lost(look, log, redis)
    await _no_room(look, log)
    await log.delete(SESSION, 1000)
    await look()


async def _answered(look: Look, log: SessionLog) -> None:
    """The first generation, with all that an answer may have, merged in the end."""
    await log.admit(job(1))
    await log.unserved(SESSION, "GENERATION1")
    writer = await _claimed(log, job(1))
    await log.renew(SESSION, "GENERATION1", writer.fence, LEASE_MS, 0, "1 PROVIDER MARK")
    await look()
    await writer.status("thinking")
    for write in (writer.reasoning, writer.tokens):
        await write("TEXT")
    await writer.restart()
    for _ in range(2):
        await writer.reasoning("TEXT")
        await writer.tokens("TEXT")
    await writer.data("VALUE")
    await look()
    usage = {"input_tokens": 1, "output_tokens": 2}
    await writer.end("complete", "MESSAGE", finish="stop", provider="PROVIDER", model="MODEL", usage=usage)
    await log.trim(SESSION, "GENERATION1")
    await log.range(SESSION, 1)
    await log.moment(SESSION, 1)
    await look()


async def _asked_again(look: Look, log: SessionLog, redis: Redis) -> None:
    """A retry that is handed over and stopped; one that dies; then the oldest goes, and leaves its question."""
    again = job(2, retry_of="GENERATION1", message_id="MESSAGE1")
    await log.admit(again)
    writer = await _claimed(log, again)
    await log.release(SESSION, "GENERATION2", writer.fence)
    await _claimed(log, again)
    stopped = await log.stop(SESSION, "GENERATION2")
    assert stopped is not None
    await look()
    await JobSubmitter(log, queue_on(redis), redis, look_ms=LOOK_MS).clean_up_after_stop(SESSION, stopped)
    await log.admit(job(3))
    error = {"error": {"code": "worker_lost", "message": "SENTENCE", "retryable": True}}
    await log.reap(SESSION, "GENERATION3", "0", msgspec.json.encode(error), "worker_lost")
    await log.admit(job(4))
    await look()


async def _lost(look: Look, log: SessionLog, redis: Redis) -> None:
    """Redis loses an answer, its worker makes it again; loses another, and nobody does."""
    writer = await _claimed(log, job(4))
    await redis.delete(KEYS.generation(SESSION, "GENERATION4"))
    await log.rebuild(job(4), writer.fence, "WORKER", LEASE_MS, [writer.claim.epoch], 1000, writer.claim.times)
    await look()
    await log.rotate(SESSION, await _epoch(log), missing=False)
    await log.bury(SESSION, "GENERATION9", 1, LOST, sub="SUB")
    await look()
    await log.rotate(SESSION, await _epoch(log), missing=True)


async def _no_room(look: Look, log: SessionLog) -> None:
    for number in range(10, 11 + MAX_GENERATIONS):
        await log.admit_or_refuse(job(number))
    await look()


async def _epoch(log: SessionLog) -> str:
    opened = await log.open(SESSION)
    assert opened is not None
    return opened.epoch


async def _access(redis: Redis) -> None:
    """Who may no longer, and what tickets are signed with."""
    revocations = RevocationStore(redis, KEYS)
    await revocations.revoke("SUB1")
    await revocations.put_back([Revoked("SUB2", 1)])
    await revocations.news(0, 1000)
    await TicketKey(redis, KEYS).keys()


def job(number: int, **fields: Any) -> Job:
    """With every field, each told by its name."""
    asked = {
        "content": "CONTENT", "message_id": f"MESSAGE{number}", "metadata": {"KEY": "VALUE"}, "language": "LANGUAGE",
        "provider": "PROVIDER", "model": "MODEL", "max_tokens": 1, "system": "SYSTEM",
        "options": Options(1.5, 0.5, ["STOP"], 1, "low"), "sub": "SUB",
    }  # fmt: skip
    ids = {"session": SESSION, "generation": f"GENERATION{number}", "request_id": f"REQUEST{number}"}
    return Job(**{**ids, "body_hash": "HASH", "queue": QUEUE, **asked, **fields})


async def _claimed(log: SessionLog, job: Job) -> Writer:
    claim = await log.claim(SESSION, job.generation, "WORKER", LEASE_MS, 10)
    assert isinstance(claim, Claim)
    return Writer(log, job, claim)
