"""Failover: whom to ask next when a provider has failed. Pure; `now_s` is an argument.

Before the answer has shown anything the next provider is asked at once, and when all have failed, those that another
try may help are asked again after a pause. Once something was shown, what another model says would be a new attempt:
then the next provider is asked only if that is wished for. An attempt is one call: text of two is never mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from relay_workers.asking.provider_pool import ProviderSlot
from relay_workers.providers.base import ProviderError


@dataclass(frozen=True, slots=True)
class FailoverRules:
    """`retries`: calls beyond the first to each provider, begun within `patience_s`; pauses double from `retry_s`.

    `midway`: whether an answer that has shown something begins again at the next provider.
    """

    retries: int = 2
    retry_s: float = 0.25
    retry_within_s: float = 30.0
    midway: bool = True


class NextCall(NamedTuple):
    seat: ProviderSlot
    pause_s: float = 0.0


class FailoverPlan:
    """One answer's way along its candidates, best first; there is at least one."""

    def __init__(self, candidates: Sequence[ProviderSlot], rules: FailoverRules, now_s: float) -> None:
        self._rules = rules
        self._began_s = now_s
        self._untried = list(candidates)
        self._retryable: list[ProviderSlot] = []  # have failed in this round, and may succeed in another
        self._rounds = 0
        self._retry_after_s = 0.0  # the shortest time for which one of those wants to be left alone

    def first(self, now_s: float) -> ProviderSlot:
        return self._take(now_s)

    def after(self, slot: ProviderSlot, error: ProviderError, now_s: float, *, shown: bool) -> NextCall | None:
        """Whom to ask after `seat` has failed; None: the answer has failed."""
        if error.code == "provider_refused":
            return None  # a judgement on what was asked, not a failure: to look for a laxer judge is not ours
        if shown:
            return NextCall(self._take(now_s)) if self._untried and self._rules.midway else None
        if error.retryable:
            wish_s = error.retry_after_s or 0.0
            self._retry_after_s = min(self._retry_after_s, wish_s) if self._retryable else wish_s
            self._retryable.append(slot)
        return NextCall(self._take(now_s)) if self._untried else self._next_round(now_s)

    def _next_round(self, now_s: float) -> NextCall | None:
        pause_s = max(self._rules.retry_s * 2**self._rounds, self._retry_after_s)
        in_time = now_s + pause_s - self._began_s < self._rules.retry_within_s
        if not self._retryable or self._rounds >= self._rules.retries or not in_time:
            return None
        self._rounds += 1
        self._untried, self._retryable = self._retryable, []
        return NextCall(self._take(now_s + pause_s), pause_s)

    def _take(self, now_s: float) -> ProviderSlot:
        """The first whose breaker admits a call; if there is none, the first."""
        slot = next((slot for slot in self._untried if slot.breaker.admits(now_s)), self._untried[0])
        self._untried.remove(slot)
        return slot
