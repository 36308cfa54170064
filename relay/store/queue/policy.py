"""The policy of a queue: by which deadlines its jobs are judged. Its workers say it, every reaper keeps to it.

So an operator sets it in one place, with the workers that serve the queue. What they were not told themselves they do
not say: there each process's own setting counts, as it does for a queue without workers.
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
    """`lease_ms`: a worker unheard of for this long is lost. `queue_timeout_ms`: a job without a worker has failed."""

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
        """How often an open row is looked at: often enough to notice either deadline, or that no worker serves it."""
        return max(100, min(self.lease_ms, self.queue_timeout_ms, 2 * MAX_LOOK_MS) // 2)

    def with_stored(self, stored: bytes) -> QueuePolicy:
        """What a queue's workers have said comes first; what a later release has said is not understood."""
        version, *numbers = stored.decode().split(" ")
        if version != _VERSION or len(numbers) != len(self):
            return self
        pairs = zip(numbers, self, strict=True)
        return QueuePolicy(*(own if number == _NOT_GIVEN else int(number) for number, own in pairs))


def encode_policy(settings: Settings) -> str:
    """What a worker with these settings says of its queue, in place of what others have said before."""
    given = [name in settings.model_fields_set for name in _SETTINGS]
    numbers = [
        str(number) if told else _NOT_GIVEN for number, told in zip(QueuePolicy.of(settings), given, strict=True)
    ]
    return " ".join([_VERSION, *numbers])
