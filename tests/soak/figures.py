"""What a soak has counted, and the table that it ends with."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import NamedTuple

# What is counted when it did not hold, and the promise that it would break.
PROMISES = {
    "lost": "P1: frames that left a gap",
    "doubled": "P1: frames that came twice",
    "mismatch": "P1: text that its checksum does not prove",
    "differs": "P1: viewers that show different ends or texts",
    "question": "P1: answers that are not shown under their question, once",
    "missing_end": "P2: accepted answers without an end",
    "second_end": "P2: second ends",
    "after_end": "P2: events after an end",
    "left_open": "P2: jobs left in the queue",
    "stop_lost": "P3: stops that were answered and not kept",
    "stream_open": "P3: provider streams left open",
    "second_generation": "P4: submits that made two generations",
    "mixed": "P4: texts that are not one call's",
    "calls": "P4: provider calls beyond one for each claim or failed call",
    "no_ttl": "P8: keys without a TTL",
    "bug": "tracebacks and errors in logs",
}
_EVIDENCE = 10


class Fault(NamedTuple):
    at_s: float
    kind: str
    whom: str


class Tally:
    """Faults and answers by kind; `broken` by promise, with the first few in words."""

    def __init__(self) -> None:
        self.began_at = time.monotonic()
        self.faults: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.calls: Counter[int] = Counter()  # provider calls of an answer → answers
        self.reconnects = 0
        self.frames = 0
        self.slow = 0  # answers that took more than a minute
        self.broken: Counter[str] = Counter()
        self.evidence: list[str] = []
        self.memory: list[tuple[str, float, float]] = []  # what, MiB at the beginning, at the end
        self._recent: deque[Fault] = deque(maxlen=40)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_at

    def fault(self, kind: str, whom: str) -> None:
        self.faults[kind] += 1
        self._recent.append(Fault(self.elapsed_s(), kind, whom))

    def breaks(self, promise: str, what: str, times: int = 1) -> None:
        """A promise that was not kept; `what` happened where, in words."""
        assert promise in PROMISES
        self.broken[promise] += times
        if len(self.evidence) < _EVIDENCE:
            before = ", ".join(f"{fault.kind} {fault.whom} at {fault.at_s:.1f}" for fault in list(self._recent)[-12:])
            self.evidence.append(f"{promise} at {self.elapsed_s():.1f} s: {what}\n    faults before it: {before}")

    def table(self) -> str:
        answers = sum(self.answers.values())
        lines = [
            f"{self.elapsed_s():.0f} s, {answers} answers, {self.frames} frames, {self.reconnects} reconnects, "
            f"{self.slow} answers took more than a minute",
            "",
        ]
        lines += _rows("faults injected", self.faults.most_common())
        lines += _rows("answers", self.answers.most_common())
        lines += _rows("provider calls of an answer", [(str(calls), n) for calls, n in sorted(self.calls.items())])
        lines += ["memory, MiB"] + [f"  {what:<56}{before:>7.0f} →{after:>7.0f}" for what, before, after in self.memory]
        lines += ["", "promises (how often broken)"]
        lines += [f"  {what:<64}{self.broken[name] or 'kept':>8}" for name, what in PROMISES.items()]
        return "\n".join([*lines, *(["", *self.evidence] if self.evidence else [])])


def _rows(title: str, rows: list[tuple[str, int]]) -> list[str]:
    return [title, *(f"  {name:<64}{number:>8}" for name, number in rows), ""]
