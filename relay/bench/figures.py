"""What a run counts and measures, and how the figures are shown."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

_FINENESS = 1.01  # buckets are this much apart: a percentile is right within 1 %
_SHORTEST_MS = 0.01
_PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


class Distribution:
    """Durations, in buckets: a long run needs no more memory than a short one."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._longest_ms = 0.0

    def add(self, seconds: float) -> None:
        ms = max(seconds * 1000, _SHORTEST_MS)
        self._buckets[math.ceil(math.log(ms, _FINENESS))] += 1
        self._longest_ms = max(self._longest_ms, ms)

    def ms(self) -> dict[str, float]:
        """Percentiles in milliseconds; empty if nothing was measured."""
        total = self._buckets.total()
        return {name: round(self._at(part * total), 2) for name, part in _PERCENTILES.items()} if total else {}

    def _at(self, wanted: float) -> float:
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return float(min(_FINENESS**bucket, self._longest_ms))
        return self._longest_ms


class Tally:
    """Everything that the clients of one run saw.

    `wrong` counts what must never happen: events `lost`, `doubled` or `reordered` on the way to one viewer, and
    `wrong_text`, an answer on one viewer's screen that does not match the checksum of its `end`.
    """

    def __init__(self) -> None:
        self.asked = self.complete = 0
        self.failures: Counter[str] = Counter()  # answers, by why they did not complete
        self.errors: Counter[str] = Counter()  # error frames, by code
        self.wrong = Counter(lost=0, doubled=0, reordered=0, wrong_text=0)
        self.reconnects = self.frames = self.tokens = self.degraded = 0
        self.accepted, self.first_token, self.gap, self.total = (Distribution() for _ in range(4))

    @property
    def good(self) -> bool:
        """Nothing failed, and every screen showed exactly what the model wrote."""
        return not self.failures.total() and not self.wrong.total()

    def report(self, elapsed_s: float) -> dict[str, Any]:
        """The figures as `--json` prints them; `frames` and `tokens` are sums over all viewers."""
        failed = self.failures.total()
        return {
            "good": self.good,
            "elapsed_s": round(elapsed_s, 3),
            "answers": {
                "asked": self.asked,
                "complete": self.complete,
                "failed": failed,
                "unfinished": self.asked - self.complete - failed,
            },
            "failures": dict(self.failures),
            "errors": dict(self.errors),
            "exactness": dict(self.wrong),
            "reconnects": self.reconnects,
            "degraded": self.degraded,
            "frames": self.frames,
            "frames_per_s": round(self.frames / elapsed_s, 1),
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / elapsed_s, 1),
            "ms": {
                "accepted": self.accepted.ms(),
                "first_token": self.first_token.ms(),
                "gap": self.gap.ms(),
                "total": self.total.ms(),
            },
        }


_ROWS = {
    "accepted": "submit → accepted",
    "first_token": "submit → first token",
    "gap": "between frames",
    "total": "submit → end",
}


def table(report: dict[str, Any]) -> str:
    """The report as a table for a person."""
    lines = [f"{'milliseconds':24}" + "".join(f"{name:>10}" for name in _PERCENTILES)]
    for name, title in _ROWS.items():
        measured = report["ms"][name]
        lines.append(f"{title:24}" + "".join(f"{_number(measured.get(column)):>10}" for column in _PERCENTILES))
    answers, wrong = report["answers"], report["exactness"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(report["failures"].items()))
    lines += [
        "",
        f"answers      {answers['complete']} of {answers['asked']} complete, {answers['failed']} failed"
        + (f" ({reasons})" if reasons else "")
        + (f", {answers['unfinished']} unfinished" if answers["unfinished"] else ""),
        f"exactness    {wrong['lost']} events lost, {wrong['doubled']} doubled, {wrong['reordered']} reordered; "
        f"{wrong['wrong_text']} answers with a wrong text",
        f"frames       {report['frames']:,} ({report['frames_per_s']:,.0f} a second)",
        f"tokens       {report['tokens']:,} shown ({report['tokens_per_s']:,.0f} a second)",
        f"reconnects   {report['reconnects']}",
        f"degraded     {report['degraded']} times that a viewer was told so",
    ]
    return "\n".join(lines)


def _number(ms: float | None) -> str:
    if ms is None:
        return "–"
    return f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"
