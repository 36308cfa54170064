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

    def ask(self, on_turn: Callable[[], None]) -> None:
        """Call `on_turn` when its turn comes. It must not raise, and whoever asks waits before it asks again."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._give)
        self._waiting.append(on_turn)
        self.asked += 1

    def _give(self) -> None:
        for _ in range(min(PER_TURN, len(self._waiting))):
            self._waiting.popleft()()
            self.given += 1
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._give)
