"""What a shaker has counted."""

from __future__ import annotations

import random
import time
from collections import Counter

from tests.fakes.script import Body, Script, prompt_of
from tests.scenarios.checker import COUNTS, Verdict

WRONG = {
    **COUNTS,
    "hung": "viewers that never came to the end of what had ended",
    "deleted": "viewers that came after an answered DELETE and were shown what was deleted",
    "log": "answers in the log that are not, byte for byte, what one call of the provider said",
    "order": "frames that left a sink out of order",
    "asked": "questions that the provider was asked again, although no call had failed",
    "stop": "stops that were answered and not kept",
    "alarm": "`degraded` while Redis was seen all the time",
    "bug": "errors that were logged, and failures of viewers themselves",
}
_EVIDENCE = 12
_WORDS = ["one ", "zwei ", "три ", "四", "🙂 ", "e\u0301 ", '"6"\n', "sieben, "]


class Tally:
    """`wrong`: by the names in WRONG, with the first few in words."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.done: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.evidence: list[str] = []
        self._began_at = time.monotonic()

    def judged(self, verdict: Verdict, who: str) -> None:
        self.done["verdicts"] += 1
        self.wrong += verdict.counts
        if verdict.counts:
            self._note(f"{who}, {verdict.generation}: {'; '.join(verdict.notes[:4])}")

    def count(self, what: str, note: str) -> None:
        assert what in WRONG
        self.wrong[what] += 1
        self._note(f"{what}: {note}")

    def table(self) -> str:
        lines = [f"seed {self.seed}, {time.monotonic() - self._began_at:.0f} s"]
        lines += [f"  {what:<72}{many:>8}" for what, many in self.done.most_common()]
        lines += ["wrong"]
        lines += [f"  {what:<72}{self.wrong[name] or 'none':>8}" for name, what in WRONG.items()]
        return "\n".join([*lines, *self.evidence])

    def _note(self, note: str) -> None:
        if len(self.evidence) < _EVIDENCE:
            self.evidence.append(f"{time.monotonic() - self._began_at:.1f} s: {note}")


class Model:
    """Says something else at every call, so that two calls cannot be mistaken for one."""

    def __init__(self, chance: random.Random) -> None:
        self.said: dict[str, list[str]] = {}  # question → text of each call
        self._chance = chance

    def __call__(self, body: Body) -> Script:
        question, chance = prompt_of(body), self._chance
        texts = self.said.setdefault(question, [])
        tokens = [f"{question}/{len(texts)} ", *chance.choices(_WORDS, k=chance.randint(20, 400))]
        texts.append("".join(tokens))
        return Script(tokens=tokens, tokens_per_second=chance.choice([100, 300, 600]))
