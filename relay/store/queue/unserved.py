"""Queues that no living worker serves, as one process sees them.

A worker that takes jobs says so each second (`serve.lua`), however busy it is; one that is to go does not. What is
stored is when, by Redis' clock. So a queue that nobody serves is one of which nothing was said for SILENT_S. After a
step of that clock, or of a Redis that was away, the same is true of every queue for a moment; so it has to stay so for
SURE_S by our own clock before it counts.
"""

from __future__ import annotations

from collections.abc import Collection

HEARTBEAT_EVERY_S = 1.0
SILENT_S = 6.0
SURE_S = 2.0


class UnservedQueues:
    """Fed with what `due` says of each queue. Times are this process's own."""

    def __init__(self) -> None:
        self._silent_s: dict[str, float] = {}  # as told last
        self._since: dict[str, float] = {}  # when a queue was first seen silent for too long, without a break

    def note(self, queue: str, silent_ms: int, now_s: float, *, heard: bool) -> None:
        """`heard`: a worker has spoken; else the silence is counted from some moment on, as nothing is known."""
        self._silent_s[queue] = silent_ms / 1000
        if is_silent(silent_ms):
            self._since.setdefault(queue, now_s)
        elif heard:
            self._since.pop(queue, None)

    def left_s(self, queue: str, now_s: float, stable_since_s: float) -> float:
        """How long until it is sure, if nobody comes; 0 or less: it is.

        `calm_since_s`: since when this process could see, and workers could say, that they live.
        """
        calm_s = stable_since_s + SILENT_S - now_s
        if queue in self._since:
            return max(calm_s, self._since[queue] + SURE_S - now_s)
        return max(calm_s, SILENT_S + SURE_S - self._silent_s.get(queue, 0.0))

    def is_heard_of(self, queue: str) -> bool:
        return queue not in self._since

    def retain(self, queues: Collection[str]) -> None:
        """Forget all others."""
        for known in (self._silent_s, self._since):
            for queue in known.keys() - queues:
                del known[queue]


def is_silent(silent_ms: int) -> bool:
    return silent_ms >= SILENT_S * 1000
