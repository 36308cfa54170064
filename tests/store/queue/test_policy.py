"""What a queue's workers say of its deadlines, and what of it counts."""

from __future__ import annotations

import pytest

from relay import settings
from relay.store.queue.policy import QueuePolicy, encode_policy

OWN = QueuePolicy(10_000, 60_000, 3)


@pytest.mark.parametrize(
    ("given", "spoken", "counts"),
    [
        ({}, "1 - - -", OWN),
        ({"queue_timeout_s": 3600}, "1 - 3600000 -", OWN._replace(queue_timeout_ms=3_600_000)),
        ({"lease_s": 0.5, "max_takeovers": 7}, "1 500 - 7", QueuePolicy(500, 60_000, 7)),
        ({"lease_s": 10}, "1 10000 - -", OWN),
    ],
)
def test_a_worker_says_what_it_was_given_and_that_counts(
    given: dict[str, float], spoken: str, counts: QueuePolicy
) -> None:
    assert encode_policy(settings.load(**given)) == spoken
    assert OWN.with_stored(spoken.encode()) == counts


def test_the_environment_gives_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_QUEUE_TIMEOUT_S", "5")
    assert encode_policy(settings.load()) == "1 - 5000 -"


@pytest.mark.parametrize("stored", [b"", b"2 1 1 1 1", b"1 1", b"2 - - -"])
def test_what_is_not_understood_does_not_count(stored: bytes) -> None:
    assert OWN.with_stored(stored) == OWN
