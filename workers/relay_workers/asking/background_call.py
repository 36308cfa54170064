"""A background call goes on at its provider whoever reads it; another worker can resume it."""

from __future__ import annotations

from typing import NamedTuple

from relay.store.session.replies import Claim
from relay_workers.asking.provider_pool import ProviderPool, ProviderSlot
from relay_workers.providers.base import Resumable


class BackgroundCall(NamedTuple):
    """One such call: its provider, and the handle by which to resume it."""

    seat: ProviderSlot
    provider: Resumable
    handle: str

    @classmethod
    def of(cls, slot: ProviderSlot, handle: str) -> BackgroundCall | None:
        provider = slot.provider
        return cls(slot, provider, handle) if isinstance(provider, Resumable) else None

    def encoded(self, attempt: int) -> str:
        """As the session stores it for the next worker; see `resumable_call`."""
        return f"{attempt} {self.seat.name} {self.handle}"


def resumable_call(providers: ProviderPool, claim: Claim) -> BackgroundCall | None:
    """The previous worker's call, if it belongs to this attempt and a provider here can resume it."""
    attempt, _, rest = claim.progress.resume_handle.partition(" ")
    name, _, handle = rest.partition(" ")
    slot = next((slot for slot in providers.slots if slot.name == name), None)
    return BackgroundCall.of(slot, handle) if slot is not None and attempt == str(claim.attempt) else None
