"""A lineup of one provider, for tests that are about something else."""

from __future__ import annotations

from relay_workers.asking.breaker import Breaker
from relay_workers.asking.provider_pool import Lineup, Seat
from relay_workers.providers.base import Provider


def alone(provider: Provider) -> Lineup:
    return Lineup([Seat(provider, Breaker(5, 15))])
