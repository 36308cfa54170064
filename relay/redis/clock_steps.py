"""Forward steps of Redis' clock, as one process sees them: a machine that slept, an NTP correction, another master.

Deadlines are kept by Redis' clock. Time that it has skipped did not really pass, for anybody.
"""

from __future__ import annotations

from collections import deque

MAX_STEPS = 16  # remembered, the newest
MIN_STEP_S = 1.0  # less is a busy process, or a clock that is being adjusted gradually


class ClockSteps:
    """Of one server. Fed with the times that it returns, and with this process's times of asking."""

    def __init__(self) -> None:
        self._before: tuple[float, int] | None = None  # when it was asked last, and its time then
        self._steps: deque[tuple[int, int]] = deque(maxlen=MAX_STEPS)  # the time after each, and its size, in ms

    def note(self, asked_s: float, answered_s: float, now_ms: int, tolerated_s: float) -> bool:
        """Whether it has certainly stepped forward since the last note, by more than `tolerated_s`."""
        before, self._before = self._before, (asked_s, now_ms)
        if before is None:
            return False
        skipped_ms = now_ms - before[1] - (answered_s - before[0]) * 1000
        if skipped_ms <= max(tolerated_s, MIN_STEP_S) * 1000:
            return False
        self._steps.append((now_ms, int(skipped_ms)))
        return True

    def skipped_ms(self, since_ms: int) -> int:
        """How much of the time since then was skipped."""
        return sum(by_ms for to_ms, by_ms in self._steps if to_ms > since_ms)
