"""Whether a session's log can be seen from here, and who is told when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relay import metrics

DEGRADED_AFTER_S = 0.5  # of trying in vain; with a second until the silence is noticed, viewers know within two


class Sight:
    """`degraded`: it is lost, and that was said. A blip is nobody's business."""

    def __init__(self, on_degraded: Callable[[], None], on_restored: Callable[[], None]) -> None:
        self.degraded = False
        self._on_degraded = on_degraded
        self._on_restored = on_restored
        self._timer: asyncio.TimerHandle | None = None

    def trying(self) -> None:
        """A look begins; unless it is regained soon, it is lost."""
        if self._timer is None and not self.degraded:
            loop = asyncio.get_running_loop()
            due = loop.time() + DEGRADED_AFTER_S
            self._timer = loop.call_at(due, self._overdue, due)

    def lost(self) -> None:
        self.close()
        if not self.degraded:
            self.degraded = True
            metrics.degradations.inc()
            self._on_degraded()

    def regained(self) -> None:
        self.close()
        if self.degraded:
            self.degraded = False
            self._on_restored()

    def _overdue(self, due: float) -> None:
        """If this comes late, the process was busy itself, and the answer may lie in its socket."""
        self._timer = None
        if asyncio.get_running_loop().time() - due > DEGRADED_AFTER_S / 2:
            self.trying()
        else:
            self.lost()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
