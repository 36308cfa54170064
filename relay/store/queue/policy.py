"""The policy of a queue: the deadlines of its jobs. The queue's workers store it, and every reaper follows it.

So an operator sets it in one place: with the workers that serve the queue. They store only what was set explicitly. For
everything else, and for a queue without workers, each process uses its own settings.
"""

from __future__ import annotations

from typing import NamedTuple

from relay.settings import Settings
from relay.store import shapes

MAX_LOOK_MS = 5000
_VERSION = str(shapes.POLICY)
_NOT_GIVEN = "-"
_SETTINGS = ("lease_s", "queue_timeout_s", "max_takeovers")


class QueuePolicy(NamedTuple):
    """`lease_ms`: a worker silent for this long is lost. `queue_timeout_ms`: a job without a worker fails then."""

    lease_ms: int
    queue_timeout_ms: int
    max_takeovers: int

    @classmethod
    def of(cls, settings: Settings) -> QueuePolicy:
        return cls(int(settings.lease_s * 1000), int(settings.queue_timeout_s * 1000), settings.max_takeovers)

    @property
    def lease_s(self) -> float:
        return self.lease_ms / 1000

    @property
    def look_ms(self) -> int:
        """How often an open row is checked: often enough to notice either deadline, or that no worker serves it."""
        return max(100, min(self.lease_ms, self.queue_timeout_ms, 2 * MAX_LOOK_MS) // 2)

    def with_stored(self, stored: bytes) -> QueuePolicy:
        """What a queue's workers have stored takes precedence, unless a later release wrote it in another version."""
        version, *numbers = stored.decode().split(" ")
        if version != _VERSION or len(numbers) != len(self):
            return self
        pairs = zip(numbers, self, strict=True)
        return QueuePolicy(*(own if number == _NOT_GIVEN else int(number) for number, own in pairs))


def encode_policy(settings: Settings) -> str:
    """The policy that a worker with these settings stores for its queue, replacing an earlier one."""
    given = [name in settings.model_fields_set for name in _SETTINGS]
    numbers = [
        str(number) if is_given else _NOT_GIVEN
        for number, is_given in zip(QueuePolicy.of(settings), given, strict=True)
    ]
    return " ".join([_VERSION, *numbers])
