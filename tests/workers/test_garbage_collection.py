"""What a worker has imported is never looked through again, and what its answers leave behind still goes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from relay_workers import garbage_collection


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_there_at_the_start_is_left_alone() -> None:
    before = len(gc.get_objects())
    garbage_collection.tune()
    assert gc.get_freeze_count() > before / 2
    assert len(gc.get_objects()) < before / 2


def test_what_refers_to_itself_goes_without_being_asked_to() -> None:
    class Answer:
        def __init__(self) -> None:
            self.myself = self

    garbage_collection.tune()
    left = weakref.ref(Answer())
    kept = [[] for _ in range(gc.get_threshold()[0] + 1)]  # type: list[list[object]]
    assert left() is None
    del kept
