"""Until when a worker may believe that a generation is its own."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest
from structlog.testing import capture_logs

from relay import logging
from relay_workers.lease import Lease
from tests.scenarios.processes import until

LONG_AGO = -1e9


async def test_it_is_renewed_until_somebody_says_that_it_is_lost() -> None:
    answers = iter([True, False, True])

    async def renew() -> bool:
        try:
            return next(answers)
        except StopIteration:
            raise LookupError from None

    async with asyncio.timeout(10):
        with pytest.raises(LookupError):
            await Lease(0.01, time.monotonic()).keep(renew)


async def test_who_is_not_sure_of_it_asks_at_once_and_waits_for_the_answer() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def renew() -> bool:
        asked.set()
        await answer.wait()
        return True

    lease = Lease(600, LONG_AGO)
    keeping = asyncio.create_task(lease.keep(renew))
    waiting = asyncio.create_task(lease.held())
    async with asyncio.timeout(10):
        await asked.wait()
        assert not lease.is_held
        assert not waiting.done()
        answer.set()
        await waiting
    assert lease.is_held
    keeping.cancel()


async def test_a_renewal_that_failed_is_none() -> None:
    tries = 0

    async def renew() -> bool:
        nonlocal tries
        tries += 1
        return tries > 3

    lease = Lease(0.3, LONG_AGO)
    keeping = asyncio.create_task(lease.keep(renew))
    async with asyncio.timeout(10):
        await lease.held()
    assert tries == 4
    keeping.cancel()


async def test_who_is_sure_of_it_does_not_wait() -> None:
    async def renew() -> bool:
        raise AssertionError("nobody asked for that")

    lease = Lease(600, time.monotonic())
    keeping = asyncio.create_task(lease.keep(renew))
    await lease.held()
    await asyncio.sleep(0)
    assert not keeping.done()
    keeping.cancel()


async def test_what_a_write_has_renewed_is_not_renewed_again_before_its_time() -> None:
    tries: list[str] = []

    async def renew(name: str) -> bool:
        tries.append(name)
        return True

    leases = {name: Lease(60, time.monotonic() - 19.9) for name in ("written", "silent")}
    keeping = [asyncio.create_task(lease.keep(partial(renew, name))) for name, lease in leases.items()]
    leases["written"].written(time.monotonic())
    await until(lambda: "silent" in tries, "the one without writes is renewed")
    assert tries == ["silent"]
    for task in keeping:
        task.cancel()


async def test_a_write_that_was_asked_for_before_shortens_nothing() -> None:
    lease = Lease(600, time.monotonic())
    lease.renewed(LONG_AGO)
    assert lease.is_held


@pytest.mark.parametrize(("ago_s", "late"), [(0, False), (200, False), (400, True), (590, True), (700, False)])
async def test_it_is_late_when_half_of_it_is_over_and_not_when_all_is(ago_s: float, late: bool) -> None:
    assert Lease(600, time.monotonic() - ago_s).is_late is late


async def test_a_write_shows_that_renewing_is_no_trouble_any_more_and_the_lifeline_does_not() -> None:
    with capture_logs() as lines:
        trouble = logging.FailureLog(logging.get_logger("test"), "renewal_failed")
        lease = Lease(600, time.monotonic(), trouble)
        trouble.failed("away")
        lease.renewed(time.monotonic())
        assert [line["event"] for line in lines] == ["renewal_failed"]
        lease.written(time.monotonic())
        assert [line["event"] for line in lines] == ["renewal_failed", "recovered"]
