"""The tables of `relay queue`."""

from __future__ import annotations

import pytest

from relay.commands.queue import age, table


def test_a_table_is_aligned_numbers_to_the_right_and_what_nobody_knows_a_dash() -> None:
    rows = [
        {"queue": "default", "waiting": 3, "age_s": 125.0, "lost_workers": None},
        {"queue": "b", "waiting": 120, "age_s": None, "lost_workers": None},
    ]
    assert table(rows, ("queue", "waiting", "age_s", "lost_workers")).split("\n") == [
        "QUEUE    WAITING    AGE  LOST WORKERS",
        "default        3  2 min  -",
        "b            120      -  -",
    ]


def test_without_rows_there_is_still_a_head() -> None:
    assert table([], ("queue", "oldest_waiting_s")) == "QUEUE  OLDEST WAITING"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_an_age_has_the_largest_unit_that_still_counts(seconds: float, shown: str) -> None:
    assert age(seconds) == shown
