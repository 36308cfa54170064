"""What an attempt has said so far: every token in order, kept until its end is in the log. Pure.

Redis may lose what it has acknowledged; then whatever is missing there is said again from here, and the model need not
be asked twice. Bounded by `max_answer_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.store.session.replies import AttemptProgress, RebuildResult
from relay_workers.writing.batching import Kind


class AttemptBuffer:
    """Tokens of text and of reasoning, and data, in the order in which they came.

    `left`: what stands in the log of the attempt; who goes on with it says it once more from its beginning.
    `count`: how many of each kind were said; `stored`: how many the log has acknowledged. `diverged`: another text
    was said than the log has.
    """

    def __init__(self, left: AttemptProgress | None = None) -> None:
        self.count: dict[Kind, int] = {"tokens": 0, "reasoning": 0, "data": 0}
        self.stored: dict[Kind, int] = _stored(left)
        self.diverged = False
        self._left = left  # until what we say turns out to be the same text
        self._runs: list[tuple[Kind, list[str]]] = []  # neighbours of one kind together

    def __bool__(self) -> bool:
        return bool(self._runs)

    @property
    def behind(self) -> bool:
        """Whether less has been said than stands in the log, or something else."""
        return self.diverged or any(self.count[kind] < self.stored[kind] for kind in self.count)

    def add(self, kind: Kind, text: str) -> None:
        if not self._runs or self._runs[-1][0] != kind:
            self._runs.append((kind, []))
        self._runs[-1][1].append(text)
        self.count[kind] += 1

    def compare(self, crc32: int) -> None:
        """Once all the text that is there has been said again: is it the same? `crc32`: of what was said."""
        if self._left is not None and self.count["tokens"] >= self._left.tokens:
            self.diverged = crc32 != self._left.crc32
            self._left = None

    def rebuilt(self, there: RebuildResult | None) -> None:
        """Now the log has this much of the attempt; None: nothing."""
        self.stored = _stored(there)
        if self._left is not None:  # less of it may be there by now
            crc32 = there.crc32 if there is not None else 0
            self._left = self._left._replace(tokens=self.stored["tokens"], crc32=crc32)

    def split(self) -> Iterator[tuple[Kind, list[str], list[str]]]:
        """Each run as (kind, what of it is stored, what is not)."""
        left = dict(self.stored)
        for kind, texts in self._runs:
            there = min(left[kind], len(texts))
            left[kind] -= there
            yield kind, texts[:there], texts[there:]

    def cut(self) -> None:
        """Forget everything that is not stored: it will never be written."""
        self._runs = [(kind, there) for kind, there, _ in self.split() if there]


def _stored(found: AttemptProgress | RebuildResult | None) -> dict[Kind, int]:
    if found is None:
        return {"tokens": 0, "reasoning": 0, "data": 0}
    return {"tokens": found.tokens, "reasoning": found.reasoning, "data": found.data}
