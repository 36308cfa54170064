"""Turns: of many tasks for which something has arrived, only a few go on in each turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

PER_TURN = 4  # of 300 models at 50 tokens/s on one core: p95 140 ms; with 12 up to 250, with all of them 400


class Turns:
    """First come, first served. `asked`, `given`: how many turns ever; who asked first is given one first."""

    def __init__(self) -> None:
        self.asked = self.given = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_due = False

    def ask(self, on_turn: Callable[[], None]) -> None:
        """Call `on_turn` when its turn comes. Nobody asks again before that: so no more wait than there are askers."""
        self._waiting.append(on_turn)
        self.asked += 1
        if not self._is_due:
            self._next()

    def _next(self) -> None:
        self._is_due = True
        asyncio.get_running_loop().call_soon(self._give)

    def _give(self) -> None:
        try:
            for _ in range(min(PER_TURN, len(self._waiting))):
                self.given += 1
                self._waiting.popleft()()
        finally:  # whatever one of them raises, the others have theirs
            self._is_due = False
            if self._waiting:
                self._next()
