"""Upstream: a call that goes on by itself at its provider, whoever reads it; another worker can go on with it."""

from __future__ import annotations

from typing import NamedTuple

from relay.store.session.replies import Claim
from relay_workers.asking.provider_pool import Lineup, Seat
from relay_workers.providers.base import Resumable


class Upstream(NamedTuple):
    """A call that goes on by itself at its provider."""

    seat: Seat
    provider: Resumable
    mark: str

    @classmethod
    def of(cls, seat: Seat, mark: str) -> Upstream | None:
        provider = seat.provider
        return cls(seat, provider, mark) if isinstance(provider, Resumable) else None

    def told(self, attempt: int) -> str:
        """As the log keeps it for the next worker; see `left_upstream`."""
        return f"{attempt} {self.seat.name} {self.mark}"


def left_upstream(lineup: Lineup, claim: Claim) -> Upstream | None:
    """The call that the worker before has left, if it is of this attempt and somebody here can go on with it."""
    attempt, _, rest = claim.left.mark.partition(" ")
    name, _, mark = rest.partition(" ")
    seat = next((seat for seat in lineup.seats if seat.name == name), None)
    return Upstream.of(seat, mark) if seat is not None and attempt == str(claim.attempt) else None
