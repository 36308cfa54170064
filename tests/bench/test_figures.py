"""The figures of `relay bench`: percentiles that are right within their fineness, and a verdict that hides nothing."""

from __future__ import annotations

import random

import pytest

from relay.bench.figures import Distribution, Tally, table


def test_percentiles_are_right_within_one_percent_and_the_longest_exactly() -> None:
    distribution = Distribution()
    durations = [number / 1000 for number in range(1, 1001)]
    random.Random(7).shuffle(durations)
    for duration in durations:
        distribution.add(duration)
    measured = distribution.ms()
    assert measured == {
        "p50": pytest.approx(500, rel=0.011),
        "p95": pytest.approx(950, rel=0.011),
        "p99": pytest.approx(990, rel=0.011),
        "max": 1000,
    }


def test_a_million_durations_need_no_more_memory_than_their_buckets() -> None:
    distribution = Distribution()
    chance = random.Random(7)
    for _ in range(100_000):
        distribution.add(chance.uniform(0, 600))
    assert len(distribution._buckets) < 2000


def test_without_any_duration_there_are_no_percentiles() -> None:
    assert Distribution().ms() == {}
    assert "–" in table(Tally().report(1.0))


def test_a_duration_of_nothing_is_one() -> None:
    distribution = Distribution()
    distribution.add(0.0)
    assert distribution.ms()["max"] == 0.01


@pytest.mark.parametrize("wrong", ["lost", "doubled", "reordered", "wrong_text"])
def test_a_run_is_good_only_if_nothing_went_wrong(wrong: str) -> None:
    tally = Tally()
    assert tally.good
    tally.wrong[wrong] += 1
    assert not tally.good
    assert tally.report(1.0)["good"] is False


def test_what_has_neither_completed_nor_failed_is_unfinished() -> None:
    tally = Tally()
    tally.asked, tally.complete = 5, 2
    tally.failures["provider_error"] += 1
    report = tally.report(2.0)
    assert report["answers"] == {"asked": 5, "complete": 2, "failed": 1, "unfinished": 2}
    assert "2 of 5 complete, 1 failed (1 provider_error), 2 unfinished" in table(report)
