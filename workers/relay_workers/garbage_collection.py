"""Python's garbage collector in a worker process.

It looks through all objects whenever their number has grown by a quarter. A model's SDK alone has 50,000, and a running
answer about 1,000: with 200 answers that took a fifth of the CPU, and 200 ms at a time, in which no token moves.
"""

from __future__ import annotations

import gc

_YOUNG = 10_000  # new objects until they are looked through; CPython's 700 is for programs that have less in flight


def tune() -> None:
    """Call it once all modules are imported: what is there now stays, and is never looked through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
