"""The breaker: what a worker process has lately seen of one provider. Pure; `now_s` is an argument.

    closed ──`failures` in a row, or a retry-after──▶ open ──after `open_s`──▶ half_open ──an answer──▶ closed
                                                       ▲                          │
                                                       └────────a failure─────────┘

It chooses among providers and never refuses the only one left: with no other provider to ask, a refusal would replace
a likely failure with a certain one.
"""

from __future__ import annotations

import math

from relay.store.queue.worker_registry import BreakerState

MAX_OPEN_S = 60.0  # a provider's retry-after may be hours; then it is tried each minute


class Breaker:
    """The breaker of one provider. Calls that say nothing about it (stopped, or the question was at fault) are not
    reported.
    """

    def __init__(self, failures: int, open_s: float) -> None:
        self.opened = 0  # times
        self._failures = failures
        self._open_s = open_s
        self._in_a_row = 0
        self._until_s: float | None = None  # None: closed
        self._trial_s = -math.inf  # when it was last tried, half open

    def state(self, now_s: float) -> BreakerState:
        if self._until_s is None:
            return "closed"
        return "open" if now_s < self._until_s else "half_open"

    def admits(self, now_s: float) -> bool:
        """Whether a call is likely enough to succeed. Half open, one call per `open_s` finds out."""
        state = self.state(now_s)
        return state == "closed" or (state == "half_open" and now_s - self._trial_s >= self._open_s)

    def begin(self, now_s: float) -> None:
        """A call begins."""
        if self.state(now_s) == "half_open":
            self._trial_s = now_s

    def succeeded(self) -> None:
        """A complete answer came."""
        self._in_a_row, self._until_s = 0, None

    def failed(self, now_s: float, retry_after_s: float | None = None) -> None:
        """The provider failed, and would have failed another question as well."""
        self._in_a_row += 1
        if retry_after_s:
            self._open(now_s + min(retry_after_s, MAX_OPEN_S))
        elif self._in_a_row >= self._failures or self.state(now_s) == "half_open":
            self._open(now_s + self._open_s)

    def _open(self, until_s: float) -> None:
        self.opened += self._until_s is None
        self._until_s = max(until_s, self._until_s or until_s)
        self._trial_s = -math.inf
