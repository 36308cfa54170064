"""Upstream: a call that goes on by itself at its provider, whoever reads it; another worker can go on with it."""

from __future__ import annotations

from typing import NamedTuple

from relay.store.session.replies import Claim
from relay_workers.asking.provider_pool import ProviderPool, ProviderSlot
from relay_workers.providers.base import Resumable


class BackgroundCall(NamedTuple):
    """A call that goes on by itself at its provider."""

    seat: ProviderSlot
    provider: Resumable
    handle: str

    @classmethod
    def of(cls, slot: ProviderSlot, mark: str) -> BackgroundCall | None:
        provider = slot.provider
        return cls(slot, provider, mark) if isinstance(provider, Resumable) else None

    def encoded(self, attempt: int) -> str:
        """As the log keeps it for the next worker; see `left_upstream`."""
        return f"{attempt} {self.seat.name} {self.handle}"


def resumable_call(providers: ProviderPool, claim: Claim) -> BackgroundCall | None:
    """The call that the worker before has left, if it is of this attempt and somebody here can go on with it."""
    attempt, _, rest = claim.progress.resume_handle.partition(" ")
    name, _, mark = rest.partition(" ")
    slot = next((slot for slot in providers.slots if slot.name == name), None)
    return BackgroundCall.of(slot, mark) if slot is not None and attempt == str(claim.attempt) else None
