"""The policy of a queue: by which deadlines its jobs are judged. Its workers say it, every reaper keeps to it.

So an operator sets it in one place, with the worker that serves the queue; what a gateway's own settings say counts for
queues that no worker has served lately.
"""

from __future__ import annotations

from typing import NamedTuple

from relay.settings import Settings

_VERSION = "1"


class Policy(NamedTuple):
    """`lease_ms`: a worker unheard of for this long is lost. `queue_timeout_ms`: a job without a worker has failed."""

    lease_ms: int
    queue_timeout_ms: int
    max_takeovers: int

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        return cls(int(settings.lease_s * 1000), int(settings.queue_timeout_s * 1000), settings.max_takeovers)

    @property
    def lease_s(self) -> float:
        return self.lease_ms / 1000

    @property
    def look_ms(self) -> int:
        """How often an open row is looked at: often enough to notice either deadline soon."""
        return max(100, min(self.lease_ms, self.queue_timeout_ms) // 2)

    def encode(self) -> str:
        return " ".join([_VERSION, *map(str, self)])


def decode(stored: bytes) -> Policy | None:
    """None: there is none, or one of a later release."""
    version, *numbers = stored.decode().split(" ")
    return Policy(*map(int, numbers)) if version == _VERSION and len(numbers) == len(Policy._fields) else None
