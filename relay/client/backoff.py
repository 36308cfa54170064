"""How long to wait before another try: exponential, with full jitter."""

from __future__ import annotations

import random

from relay.client.constants import SHARED


class Backoff:
    """Each `next` is drawn from 0 … bound; the bound doubles up to `most_s`, until a success calls `reset`."""

    def __init__(self) -> None:
        self.failures = 0

    def next(self, most_s: float = SHARED.backoff_most_s) -> float:
        bound = min(most_s, SHARED.backoff_first_s * 2 ** min(self.failures, 16))
        self.failures += 1
        return random.uniform(0, bound)

    def reset(self) -> None:
        self.failures = 0
