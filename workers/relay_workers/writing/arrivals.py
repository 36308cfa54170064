"""When the tokens of an answer came, from whichever call."""

from __future__ import annotations

import time
from collections import deque

from relay import metrics

_TIMES = 4096  # how many are remembered: more tokens cannot be in flight when an answer is stopped


class Arrivals:
    """`claimed_s`: when the answer was claimed, by `time.monotonic`. `first_token_s`: seconds after that, or None."""

    def __init__(self, claimed_s: float) -> None:
        self.claimed_s = claimed_s
        self.first_token_s: float | None = None
        self._times: deque[float] = deque(maxlen=_TIMES)

    def note(self, tokens: int) -> None:
        """So many tokens have come just now."""
        now_s = time.monotonic()
        self._times.extend([now_s] * min(tokens, _TIMES))
        if self.first_token_s is None and tokens:
            self.first_token_s = now_s - self.claimed_s
            metrics.first_token_s.observe(self.first_token_s)

    def since(self, at_s: float) -> int:
        """How many tokens have come after this moment of `time.monotonic`."""
        return sum(1 for arrived_s in self._times if arrived_s > at_s)
