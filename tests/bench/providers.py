"""What reading models costs: per chunk, and per answer in a worker that has one core."""

from __future__ import annotations

from tests.bench.answers_per_core import answers_per_core
from tests.bench.chunk_cost import chunk_cost


def providers() -> None:
    chunk_cost()
    answers_per_core()
