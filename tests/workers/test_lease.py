"""Until when a worker may believe that a generation is its own."""

from __future__ import annotations

import asyncio
import time

import pytest

from workers.lease import Lease

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
            await Lease(renew, 0.01, time.monotonic()).keep()


async def test_who_is_not_sure_of_it_asks_at_once_and_waits_for_the_answer() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def renew() -> bool:
        asked.set()
        await answer.wait()
        return True

    lease = Lease(renew, 600, LONG_AGO)
    keeping = asyncio.create_task(lease.keep())
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

    lease = Lease(renew, 0.3, LONG_AGO)
    keeping = asyncio.create_task(lease.keep())
    async with asyncio.timeout(10):
        await lease.held()
    assert tries == 4
    keeping.cancel()


async def test_who_is_sure_of_it_does_not_wait() -> None:
    async def renew() -> bool:
        raise AssertionError("nobody asked for that")

    await Lease(renew, 600, time.monotonic()).held()
