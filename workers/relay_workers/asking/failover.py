"""Failover: whom to ask next when a provider has failed. Pure; `now_s` is an argument.

Before the answer has shown anything, the next provider is asked at once. When all have failed, those whose failure was
retryable are asked again after a pause. Once something was shown, another model's text means a new attempt; then the
next provider is asked only if the settings allow it. An attempt is one call: the text of two calls is never mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from relay_workers.asking.provider_pool import ProviderSlot
from relay_workers.providers.base import ProviderError


@dataclass(frozen=True, slots=True)
class FailoverRules:
    """`retries`: further calls to each provider, begun within `retry_within_s`; pauses double from `retry_s`.

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
    """The order in which one answer's candidates are asked, best first; there is at least one."""

    def __init__(self, candidates: Sequence[ProviderSlot], rules: FailoverRules, now_s: float) -> None:
        self._rules = rules
        self._began_s = now_s
        self._untried = list(candidates)
        self._retryable: list[ProviderSlot] = []  # failed in this round, but may succeed in the next
        self._rounds = 0
        self._retry_after_s = 0.0  # the shortest retry-after of those

    def first(self, now_s: float) -> ProviderSlot:
        return self._take(now_s)

    def after(self, slot: ProviderSlot, error: ProviderError, now_s: float, *, shown: bool) -> NextCall | None:
        """Whom to ask after `slot` has failed; None: the answer has failed."""
        if error.code == "provider_refused":
            return None  # a judgement on the question, not a failure: we do not look for a more lenient provider
        if shown:
            return NextCall(self._take(now_s)) if self._untried and self._rules.midway else None
        if error.retryable:
            retry_after_s = error.retry_after_s or 0.0
            self._retry_after_s = min(self._retry_after_s, retry_after_s) if self._retryable else retry_after_s
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
        """The first slot whose breaker admits a call; if there is none, the first of all."""
        slot = next((slot for slot in self._untried if slot.breaker.admits(now_s)), self._untried[0])
        self._untried.remove(slot)
        return slot
