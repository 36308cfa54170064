"""A lineup of one provider, for tests that are about something else."""

from __future__ import annotations

from workers.breaker import Breaker
from workers.lineup import Lineup, Seat
from workers.providers.base import Provider


def alone(provider: Provider) -> Lineup:
    return Lineup([Seat(provider, Breaker(5, 15))])
