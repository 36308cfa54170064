"""Whatever makes a generation's state makes it whole: a submit, its worker after a loss, the end of a lost one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.store.session.replies import RebuildResult
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import LEASE_MS, Clock, job_of

# As admitted. What a later release adds goes here, too: then each of the three has it.
NEW = {
    "state": "queued", "attempt": "1", "fence": "0", "n": "0", "count": "0", "reasoned": "0", "data": "0",
    "bytes": "0", "crc": "0", "accepted": "1700000000000",
}  # fmt: skip
OF_THE_JOB = {"request_id": "r-g1", "queue": "default", "message_id": "m-g1", "content": "question of g1"}

Makes = Callable[[SessionLog], Awaitable[None]]


async def admits(log: SessionLog) -> None:
    assert await log.admit(job_of()) is not None


async def rebuilds(log: SessionLog) -> None:
    assert isinstance(await log.rebuild(job_of(), 7, "w1", LEASE_MS, [], 0, {}), RebuildResult)


async def buries(log: SessionLog) -> None:
    assert await log.bury("s", "g1", 1, b"{}") == "buried"


async def state_of(redis: Redis, log: SessionLog) -> dict[str, str]:
    stored: Any = await redis.hgetall(log.keys.generation("s", "g1"))
    return {name.decode(): value.decode() for name, value in stored.items()}


@pytest.mark.parametrize("makes", [admits, rebuilds, buries])
async def test_each_way_to_make_a_generation_stores_every_field_of_a_new_one(
    session_log: SessionLog, redis: Redis, clock: Clock, makes: Makes
) -> None:
    assert clock.now_ms == int(NEW["accepted"])
    await makes(session_log)
    assert NEW.keys() <= (await state_of(redis, session_log)).keys()
    assert await redis.zscore(session_log.keys.session("s", "generations"), "g1") is not None


async def test_a_submit_stores_these_values_and_what_its_job_says(session_log: SessionLog, redis: Redis) -> None:
    await admits(session_log)
    assert await state_of(redis, session_log) == NEW | OF_THE_JOB
    assert await redis.zcard(session_log.keys.session("s", "active")) == 1


async def test_a_worker_that_brings_one_back_stores_the_same_and_that_it_holds_it(
    session_log: SessionLog, redis: Redis
) -> None:
    await rebuilds(session_log)
    held = {"fence", "n", "claims", "replaced", "owner", "lease"}
    stored = await state_of(redis, session_log)
    assert {name: value for name, value in stored.items() if name not in held} == {
        name: value for name, value in (NEW | OF_THE_JOB).items() if name not in held
    }
    assert stored["claims"] == "1"
    assert await redis.zcard(session_log.keys.session("s", "active")) == 1


async def test_one_that_is_buried_keeps_its_place_and_does_not_run(session_log: SessionLog, redis: Redis) -> None:
    await admits(session_log)
    place = await redis.zscore(session_log.keys.session("s", "generations"), "g1")
    await redis.delete(session_log.keys.generation("s", "g1"))
    await buries(session_log)
    assert await redis.zscore(session_log.keys.session("s", "generations"), "g1") == place
    assert await redis.zcard(session_log.keys.session("s", "active")) == 0


def test_no_script_makes_one_by_itself() -> None:
    scripts = (files("relay.store.session") / "lua").iterdir()
    assert [file.name for file in scripts if "'accepted', digits" in file.read_text()] == ["generation.lua"]
