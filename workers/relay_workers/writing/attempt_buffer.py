"""What an attempt has said so far: every token in order, kept until its end is in the log. Pure.

Redis may lose what it has acknowledged; then whatever is missing there is said again from here, and the model need not
be asked twice. Bounded by `max_answer_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relay_workers.writing.batching import Kind


class Said:
    """Tokens of text and of reasoning, and data, in the order in which they came."""

    def __init__(self) -> None:
        self._runs: list[tuple[Kind, list[str]]] = []  # neighbours of one kind together

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, kind: Kind, text: str) -> None:
        if not self._runs or self._runs[-1][0] != kind:
            self._runs.append((kind, []))
        self._runs[-1][1].append(text)

    def split(self, stored: Mapping[Kind, int]) -> Iterator[tuple[Kind, list[str], list[str]]]:
        """Each run as (kind, what of it is among the first `stored` tokens of its kind, what is not)."""
        left = dict(stored)
        for kind, texts in self._runs:
            there = min(left[kind], len(texts))
            left[kind] -= there
            yield kind, texts[:there], texts[there:]

    def cut(self, stored: Mapping[Kind, int]) -> None:
        """Forget everything but the first `stored` tokens of each kind: the rest will never be written."""
        self._runs = [(kind, there) for kind, there, _ in self.split(stored) if there]
