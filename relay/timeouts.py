"""Timeouts that measure somebody else: time for which this process itself was late does not count.

asyncio's timeouts run on the wall clock, and mistake our own busy loop for the silence of a server. Here time passes
only while the event loop listens: it ticks, and however late a tick comes, it counts as one. So almost no time passes
while a loop is blocked for a minute, while a process is stopped, or while each turn takes half a second; and whatever
arrived meanwhile is read before anything counts as late.

A timer that is due waits for two more ticks: by then, tasks woken by the last bytes have gone on. And it waits until
everybody who had asked for a turn by then (relay/turns.py) has had one a tick ago. A timeout that was long over when it
began waits for nobody.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from relay.turns import Turns

TICK_S = 0.02
_LATE_S = 2 * TICK_S  # a tick that comes later than this was delayed by this process itself
_GRACE_S = 2 * TICK_S


def now() -> float:
    """Seconds for which this loop has listened, from some moment on; stands still while nothing is timed."""
    return _clock().now()


def turns() -> Turns:
    """Of this loop. Whoever has asked for one has it before a running timer ends."""
    return _clock().turns


class Timer:
    """Calls `on_due` once the loop has listened for so long without `stop` or another `start`. May be reused.

    `due`: when, by `now`; None while it does not run.
    """

    def __init__(self, on_due: Callable[[], None]) -> None:
        self.due: float | None = None
        self.on_due = on_due
        self.queued_at = math.inf  # when the clock checks it next
        self.turns_asked: int | None = None  # when it was found to be due
        self._clock = _clock()

    def start(self, after_s: float) -> None:
        self._clock.start(self, after_s + _GRACE_S)

    def stop(self) -> None:
        if self.due is not None:
            self._clock.stop(self)


def timeout_at(at_s: float | None) -> AbstractAsyncContextManager[Timer | None]:
    """As `timeout`, but until a moment of `now`; for what is awaited in several pieces. With None it costs almost
    nothing: a provider's stream uses it for each token.
    """
    return nullcontext() if at_s is None else timeout(at_s - now())


class timeout:  # noqa: N801 - as asyncio's
    """As `asyncio.timeout`, in time for which the loop listened. The timer it gives may be restarted or stopped.

    `async with timeout(after_s) as timer:` raises TimeoutError. One that was left may be entered again.

    Not `asyncio.timeout` itself: that costs several times as much, and in a cancelled task that cleans up, Python
    3.11.2 (Debian 12) lets its own CancelledError out (gh-102780).
    """

    def __init__(self, after_s: float | None) -> None:
        self._after_s = after_s
        self._timer: Timer | None = None
        self._at_once: asyncio.Handle | None = None

    async def __aenter__(self) -> Timer:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be cancelled")
        self._task, self._cancelled_before = task, task.cancelling()
        self._expired = False
        timer = self._timer = self._timer or Timer(self._expire)
        timer.on_due = self._expire
        if self._after_s is not None:
            timer.start(self._after_s)
            if self._after_s < -_GRACE_S:  # long over: many waits may each be too short for a tick
                self._at_once = asyncio.get_running_loop().call_soon(self._expire)
        return timer

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._timer is not None:
            self._timer.on_due = _nothing
            self._timer.stop()
        if self._at_once is not None:
            self._at_once.cancel()
        if self._expired and self._task.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        if not self._expired:
            self._expired = True
            self._task.cancel()


def _nothing() -> None:
    """The block has ended."""


class _Clock:
    """One for each loop; ticks only while a timer runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listened_s = 0.0  # at the last tick
        self._ticked_at = loop.time()
        self._ticking: asyncio.TimerHandle | None = None
        self._running = 0
        self._queue: list[tuple[float, int, Timer]] = []  # by when to check each; most have moved on by then
        self._numbers = itertools.count()
        self.turns = Turns()
        self._turns_given = 0  # by the last tick

    def now(self) -> float:
        if self._ticking is None:
            return self._listened_s
        return self._listened_s + min(self._loop.time() - self._ticked_at, TICK_S)

    def start(self, timer: Timer, after_s: float) -> None:
        timer.turns_asked = None
        if timer.due is not None:  # begun again, perhaps with each token: not worth a look at the time
            timer.due = self._listened_s + TICK_S + after_s  # the next tick is the latest that it can be now
        else:
            if self._ticking is None:
                self._ticked_at = self._loop.time()
                self._ticking = self._loop.call_later(TICK_S, self._tick)
            self._running += 1
            timer.due = self.now() + after_s
        if timer.due < timer.queued_at:
            self._enqueue(timer, timer.due)

    def stop(self, timer: Timer) -> None:
        timer.due = None
        self._running -= 1
        if not self._running:
            self._rest()

    def _enqueue(self, timer: Timer, at: float) -> None:
        if len(self._queue) > 64 + 4 * self._running:
            self._drop_stopped()
        timer.queued_at = at
        heapq.heappush(self._queue, (at, next(self._numbers), timer))

    def _drop_stopped(self) -> None:
        """Most entries belong to timers that were stopped long ago."""
        kept = []
        for entry in self._queue:
            at, _, timer = entry
            if at == timer.queued_at and timer.due is not None:
                kept.append(entry)
            elif at == timer.queued_at:
                timer.queued_at = math.inf
        heapq.heapify(kept)
        self._queue = kept

    def _tick(self) -> None:
        at = self._loop.time()
        passed_s, self._ticked_at = at - self._ticked_at, at
        self._listened_s += passed_s if passed_s <= _LATE_S else TICK_S
        self._ticking = self._loop.call_later(TICK_S, self._tick)
        while self._queue and self._queue[0][0] <= self._listened_s:
            queued_at, _, timer = heapq.heappop(self._queue)
            if queued_at != timer.queued_at:
                continue  # it has been moved to an earlier moment
            timer.queued_at = math.inf
            if timer.due is not None and timer.due > self._listened_s:
                self._enqueue(timer, timer.due)
            elif timer.due is not None and self._must_wait(timer):
                self._enqueue(timer, self._listened_s + TICK_S)
            elif timer.due is not None:
                self.stop(timer)
                timer.on_due()
        self._turns_given = self.turns.given

    def _must_wait(self, timer: Timer) -> bool:
        """Whether somebody who had asked for a turn when it was due has not had one."""
        if timer.turns_asked is None:
            timer.turns_asked = self.turns.asked
        return self._turns_given < timer.turns_asked

    def _rest(self) -> None:
        if self._ticking is not None:
            self._listened_s = self.now()  # many short waits add up
            self._ticking.cancel()
            self._ticking = None
        for _, _, timer in self._queue:
            timer.queued_at = math.inf
        self._queue.clear()


_clocks: dict[asyncio.AbstractEventLoop, _Clock] = {}


def _clock() -> _Clock:
    loop = asyncio.get_running_loop()
    clock = _clocks.get(loop)
    if clock is None:
        for gone in [other for other in _clocks if other.is_closed()]:
            del _clocks[gone]
        clock = _clocks[loop] = _Clock(loop)
    return clock
