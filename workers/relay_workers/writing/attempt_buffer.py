"""The attempt buffer: every token of an attempt in order, kept until its end is in the log. Pure.

Redis may lose what it has acknowledged. Then whatever is missing there is written again from here, and the model need
not be asked twice. Bounded by `max_answer_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.store.session.replies import AttemptProgress, RebuildResult
from relay_workers.writing.batching import Kind


class AttemptBuffer:
    """Tokens of text and of reasoning, and data, in the order in which they came.

    `progress`: what the log has of the attempt; a resumed call reads it once more from its beginning.
    `count`: how many of each kind were added; `stored`: how many the log has acknowledged. `diverged`: the text added
    differs from the log's.
    """

    def __init__(self, progress: AttemptProgress | None = None) -> None:
        self.count: dict[Kind, int] = {"tokens": 0, "reasoning": 0, "data": 0}
        self.stored: dict[Kind, int] = _stored(progress)
        self.diverged = False
        self._unproven = progress  # until the text read again turns out to be the same
        self._runs: list[tuple[Kind, list[str]]] = []  # neighbours of one kind together

    def __bool__(self) -> bool:
        return bool(self._runs)

    @property
    def behind(self) -> bool:
        """Whether less was added than the log has, or something different."""
        return self.diverged or any(self.count[kind] < self.stored[kind] for kind in self.count)

    def add(self, kind: Kind, text: str) -> None:
        runs = self._runs
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(text)
        self.count[kind] += 1

    def compare(self, crc32: int) -> None:
        """Once all the text in the log has been read again: is it the same? `crc32`: of the text added so far."""
        if self._unproven is not None and self.count["tokens"] >= self._unproven.tokens:
            self.diverged = crc32 != self._unproven.crc32
            self._unproven = None

    def rebuilt(self, there: RebuildResult | None) -> None:
        """After a rebuild the log has this much of the attempt; None: nothing."""
        self.stored = _stored(there)
        if self._unproven is not None:  # the log may have less of it now
            crc32 = there.crc32 if there is not None else 0
            self._unproven = self._unproven._replace(tokens=self.stored["tokens"], crc32=crc32)

    def split(self) -> Iterator[tuple[Kind, list[str], list[str]]]:
        """Each run as (kind, the texts that are stored, the texts that are not)."""
        remaining = dict(self.stored)
        for kind, texts in self._runs:
            there = min(remaining[kind], len(texts))
            remaining[kind] -= there
            yield kind, texts[:there], texts[there:]

    def cut(self) -> None:
        """Forget everything that is not stored: it will never be written."""
        self._runs = [(kind, stored) for kind, stored, _ in self.split() if stored]


def _stored(found: AttemptProgress | RebuildResult | None) -> dict[Kind, int]:
    if found is None:
        return {"tokens": 0, "reasoning": 0, "data": 0}
    return {"tokens": found.tokens, "reasoning": found.reasoning, "data": found.data}
