"""Queues that no living worker serves, as one process sees them.

A worker that takes jobs sends a heartbeat each second (`serve.lua`), however busy it is; one that is draining does not.
Redis stores the time of the last one, by its own clock. A queue without a heartbeat for SILENT_S has no worker. After
an outage, or a step of that clock, this is briefly true of every queue; so it counts only after another SURE_S by our
own clock.
"""

from __future__ import annotations

from collections.abc import Collection

HEARTBEAT_EVERY_S = 1.0
SILENT_S = 6.0
SURE_S = 2.0


class UnservedQueues:
    """Fed with what `due` returns for each queue. Times are by this process's clock."""

    def __init__(self) -> None:
        self._silent_s: dict[str, float] = {}  # as noted last
        self._since: dict[str, float] = {}  # since when a queue has been silent for too long, without a break

    def note(self, queue: str, silent_ms: int, now_s: float, *, heard: bool) -> None:
        """`heard`: there has been a heartbeat; otherwise the silence counts from when nothing was known."""
        self._silent_s[queue] = silent_ms / 1000
        if is_silent(silent_ms):
            self._since.setdefault(queue, now_s)
        elif heard:
            self._since.pop(queue, None)

    def left_s(self, queue: str, now_s: float, stable_since_s: float) -> float:
        """How long until it is certain, if no worker comes; 0 or less: it is.

        `stable_since_s`: since when workers could send heartbeats, and this process could see them.
        """
        stable_in_s = stable_since_s + SILENT_S - now_s
        if queue in self._since:
            return max(stable_in_s, self._since[queue] + SURE_S - now_s)
        return max(stable_in_s, SILENT_S + SURE_S - self._silent_s.get(queue, 0.0))

    def is_heard_of(self, queue: str) -> bool:
        return queue not in self._since

    def retain(self, queues: Collection[str]) -> None:
        """Forget all others."""
        for known in (self._silent_s, self._since):
            for queue in known.keys() - queues:
                del known[queue]


def is_silent(silent_ms: int) -> bool:
    return silent_ms >= SILENT_S * 1000
