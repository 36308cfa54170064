"""How long to wait before another try: exponential, with full jitter."""

from __future__ import annotations

import random

_FIRST_S, _MAX_S = 0.1, 5.0


class Backoff:
    """Each `next` is drawn from 0 … bound; the bound doubles from 0.1 to 5 s until something worked (`reset`)."""

    def __init__(self) -> None:
        self.failures = 0

    def next(self) -> float:
        bound = min(_MAX_S, _FIRST_S * 2 ** min(self.failures, 16))
        self.failures += 1
        return random.uniform(0, bound)

    def reset(self) -> None:
        self.failures = 0
