"""A lineup of one provider, for tests that are about something else."""

from __future__ import annotations

from relay_workers.asking.breaker import Breaker
from relay_workers.asking.provider_pool import ProviderPool, ProviderSlot
from relay_workers.providers.base import Provider


def alone(provider: Provider) -> ProviderPool:
    return ProviderPool([ProviderSlot(provider, Breaker(5, 15))])
