"""Whether a session's log can be read from here; calls back when that changes."""

from __future__ import annotations

import math
from collections.abc import Callable

from relay import metrics, timeouts

DEGRADED_AFTER_S = 0.5  # of failed reads; with the second until the silence is noticed, viewers know within two


class Visibility:
    """`degraded`: the log cannot be read, and `on_degraded` was called. A short failure is not reported.

    A sync has to wait for its turn. `answered_at` says, by `timeouts.now`, when this log's server last answered any
    read. As long as it answers others, the log counts as readable.
    """

    def __init__(
        self,
        on_degraded: Callable[[], None],
        on_restored: Callable[[], None],
        answered_at: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        self.degraded = False
        self._on_degraded = on_degraded
        self._on_restored = on_restored
        self._answered_at = answered_at
        self._trying_at = 0.0
        self._failed = False  # our own sync failed: that others are answered no longer counts
        self._timer: timeouts.Timer | None = None

    def check_began(self) -> None:
        """A sync begins; unless `restored` follows soon, the log is lost."""
        if self._timer is not None:
            self._failed = True
        elif not self.degraded:
            self._failed = False
            self._timer = timeouts.Timer(self._overdue)
            self._timer.start(DEGRADED_AFTER_S)
            self._trying_at = timeouts.now()

    def lost(self) -> None:
        self.close()
        if not self.degraded:
            self.degraded = True
            metrics.degradations.inc()
            self._on_degraded()

    def restored(self) -> None:
        self.close()
        if self.degraded:
            self.degraded = False
            self._on_restored()

    def _overdue(self) -> None:
        begun_at = self._trying_at if self._failed else max(self._trying_at, self._answered_at())
        remaining_s = begun_at + DEGRADED_AFTER_S - timeouts.now()
        if self._timer is not None and remaining_s > 0:
            self._timer.start(remaining_s)
        else:
            self.lost()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
