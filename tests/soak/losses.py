"""What Redis has lost, when, and which gateways knew of which answers then: who may wait for an end in vain. Pure.

The contract: a gateway that followed an answer ends it within `lost_after_s` if nobody brings it back. If all that did
so are gone by then, or none had heard of it, only Redis knew, and what only Redis knew is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_STILL_MISSED = 0.7  # of `lost_after_s`: an end comes after four fifths
SLACK_S = 15.0  # for everybody to be shown it, on a busy machine and past further faults


class Losses:
    """Times are the caller's, in seconds; gateways and generations have names of their own."""

    def __init__(self, lost_after_s: float) -> None:
        self.lost_after_s = lost_after_s
        self._at_s: list[float] = []
        self._knew: dict[str, list[tuple[str, float]]] = {}  # generation → (gateway, loss)
        self._gone_s: dict[str, float] = {}

    @property
    def patience_s(self) -> float:
        """How long an answer may be missing until it is lost for good."""
        return self.lost_after_s + SLACK_S

    def lost(self, at_s: float, shown: Mapping[str, Iterable[str]]) -> None:
        """Redis has lost everything; `shown`: answers that ran, and the gateways that showed them then.

        Whoever knew of one at a loss shortly before misses it still, and has not ended it yet.
        """
        self._at_s.append(at_s)
        for knew in self._knew.values():
            recent = {gateway for gateway, lost_s in knew if at_s - lost_s < self.lost_after_s * _STILL_MISSED}
            knew.extend((gateway, at_s) for gateway in recent if self._gone_s.get(gateway, at_s) >= at_s)
        for generation, gateways in shown.items():
            self._knew.setdefault(generation, []).extend((gateway, at_s) for gateway in gateways)

    def gone(self, gateway: str, at_s: float) -> None:
        """It was told to go, or killed."""
        self._gone_s[gateway] = at_s

    def any_since(self, at_s: float) -> bool:
        return bool(self._at_s) and self._at_s[-1] >= at_s

    def excuse(self, generation: str) -> str:
        """Why nobody had to end it; "": somebody had to."""
        knew = self._knew.get(generation, [])
        if not knew:
            return "nobody remembers"
        if any(self._had_to_end(gateway, at_s) for gateway, at_s in knew):
            return ""
        return "all gateways gone, or lost again"

    def _had_to_end(self, gateway: str, lost_s: float) -> bool:
        """Whether it was there long enough after this loss, with no other one in between that may have undone it."""
        until_s = lost_s + self.patience_s
        stayed = self._gone_s.get(gateway, float("inf")) >= until_s
        return stayed and not any(lost_s < other_s < until_s for other_s in self._at_s)
