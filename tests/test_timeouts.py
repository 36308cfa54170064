"""Timeouts measure somebody else: what this process was late itself does not count, and silence still does."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import pytest

from relay import timeouts
from tests.scenarios.processes import until


async def over() -> None:
    """Another timeout, begun later and as long as those of the tests, has passed."""
    with pytest.raises(TimeoutError):
        async with timeouts.timeout(0.1):
            await asyncio.Event().wait()


async def test_silence_is_noticed() -> None:
    began = time.monotonic()
    await over()
    assert time.monotonic() - began > 0.1


async def test_a_loop_that_was_blocked_for_longer_has_waited_for_nobody() -> None:
    answered = asyncio.Event()
    async with timeouts.timeout(0.1):
        time.sleep(0.5)  # noqa: ASYNC251
        asyncio.get_running_loop().call_soon(answered.set)
        await answered.wait()


async def test_turns_that_each_take_long_count_as_short_ones() -> None:
    async with timeouts.timeout(0.2):
        for _ in range(4):
            time.sleep(0.15)  # noqa: ASYNC251
            await asyncio.sleep(0)


async def test_what_lies_in_the_socket_when_the_time_is_over_is_taken_however_many_turns_it_takes() -> None:
    ours, theirs = await _pair()
    theirs.write(b"x" * 1_000_000)
    await theirs.drain()
    async with timeouts.timeout(0.05):
        time.sleep(0.3)  # noqa: ASYNC251
        assert len(await ours.readexactly(1_000_000)) == 1_000_000
    theirs.close()


async def test_who_waits_for_a_turn_when_the_time_is_over_is_heard_however_long_others_take() -> None:
    arrived = asyncio.get_running_loop().create_future()
    for _ in range(100):
        timeouts.turns().ask(lambda: time.sleep(0.01))
    timeouts.turns().ask(lambda: arrived.set_result(None))
    async with timeouts.timeout(0.01):
        await arrived


async def test_silence_is_noticed_though_others_ask_for_turns_all_the_time() -> None:
    turns, is_over = timeouts.turns(), False

    def ask() -> None:
        if not is_over:
            turns.ask(ask)

    for _ in range(20):
        ask()
    with pytest.raises(TimeoutError):
        async with timeouts.timeout(0.01):
            await asyncio.Event().wait()
    is_over = True


async def test_one_that_is_begun_again_and_again_never_comes_and_once_it_is_not_it_does() -> None:
    called: list[float] = []
    timer = timeouts.Timer(lambda: called.append(time.monotonic()))
    for _ in range(5):
        timer.start(0.1)
        await asyncio.sleep(0.03)
    assert called == []
    await until(lambda: len(called) == 1, "it is due")
    await over()
    assert len(called) == 1


async def test_one_that_was_left_may_be_entered_again_whatever_became_of_it() -> None:
    again = timeouts.timeout(0.02)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with again:
                await asyncio.Event().wait()
        async with again:
            await asyncio.sleep(0)
        await over()


async def test_one_that_was_stopped_never_comes() -> None:
    called: list[None] = []
    timer = timeouts.Timer(lambda: called.append(None))
    timer.start(0.02)
    timer.stop()
    await over()
    assert called == []


async def test_one_that_is_moved_to_an_earlier_moment_comes_then() -> None:
    called: list[None] = []
    timer = timeouts.Timer(lambda: called.append(None))
    timer.start(3600)
    timer.start(0.02)
    await until(lambda: called == [None], "it is due")
    timer.start(3600)
    assert called == [None]
    timer.stop()


async def test_very_many_that_were_stopped_leave_nothing_behind_and_those_that_run_come() -> None:
    called: list[None] = []
    last = timeouts.Timer(lambda: called.append(None))
    last.start(0.05)
    others = [timeouts.Timer(lambda: called.append(None)) for _ in range(5000)]
    for timer in others:
        timer.start(3600)
        timer.stop()
    others[0].start(0.05)
    await until(lambda: len(called) == 2, "both are due")
    left, others = weakref.ref(others[1]), []
    gc.collect()
    assert left() is None


async def test_many_short_waits_until_one_moment_add_up() -> None:
    until_s = timeouts.now() + 0.1

    async def wait() -> None:
        for _ in range(1000):
            async with timeouts.timeout_at(until_s):
                await asyncio.sleep(0.005)

    with pytest.raises(TimeoutError):
        await wait()


async def test_nothing_ticks_while_nothing_is_timed() -> None:
    await over()
    before = timeouts.now()
    await asyncio.sleep(0.1)
    assert timeouts.now() == before


async def test_a_task_that_is_cancelled_meanwhile_is_cancelled_and_has_not_timed_out() -> None:
    async def waits() -> None:
        async with timeouts.timeout(0.05):
            await asyncio.Event().wait()

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def _pair() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    made: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda reader, _: made.set_result(reader), "127.0.0.1", 0, limit=1 << 21)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    server.close()
    return await made, writer


def test_a_loop_that_is_gone_leaves_nothing_behind() -> None:
    """Also if it was closed while something was timed."""
    timing = []

    async def begin() -> None:
        timing.append(timeouts.Timer(lambda: None))
        timing[-1].start(60)

    for _ in range(3):
        asyncio.run(begin())
    assert sum(loop.is_closed() for loop in timeouts._clocks) <= 1


async def test_silence_is_noticed_while_a_cancelled_task_cleans_up() -> None:
    begun, noticed = asyncio.Event(), asyncio.Event()

    async def cleans_up() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await over()
            noticed.set()

    task = asyncio.create_task(cleans_up())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert noticed.is_set()
    assert task.cancelled()


async def test_a_task_that_is_cancelled_again_while_it_cleans_up_has_not_timed_out() -> None:
    begun = asyncio.Event()

    async def cleans_up() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            begun.set()
            with pytest.raises(asyncio.CancelledError):
                async with timeouts.timeout(60):
                    await asyncio.Event().wait()

    task = asyncio.create_task(cleans_up())
    for _ in range(2):
        await begun.wait()
        begun.clear()
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
