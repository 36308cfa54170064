"""Steps of Redis' clock: only what it has skipped for sure, and only so many are remembered."""

from __future__ import annotations

from relay.redis.clock_steps import MAX_STEPS, ClockSteps

NOW_MS = 1_700_000_000_000


def test_a_clock_that_goes_as_ours_does_not_step_however_seldom_it_is_asked() -> None:
    steps = ClockSteps()
    assert not steps.note(10.0, 10.1, NOW_MS, 3)
    assert not steps.note(11.0, 11.1, NOW_MS + 1000, 3)
    assert not steps.note(500.0, 500.1, NOW_MS + 490_000, 3)
    assert steps.skipped_ms(0) == 0


def test_what_is_skipped_counts_for_what_began_before_it() -> None:
    steps = ClockSteps()
    steps.note(10.0, 10.0, NOW_MS, 3)
    assert steps.note(11.0, 11.0, NOW_MS + 91_000, 3)
    assert (steps.skipped_ms(NOW_MS), steps.skipped_ms(NOW_MS + 90_999)) == (90_000, 90_000)
    assert steps.skipped_ms(NOW_MS + 91_000) == 0
    assert not steps.note(12.0, 12.0, NOW_MS + 92_000, 3)
    assert steps.note(13.0, 13.0, NOW_MS + 103_000, 3)
    assert (steps.skipped_ms(NOW_MS), steps.skipped_ms(NOW_MS + 95_000)) == (100_000, 10_000)


def test_a_reply_that_took_long_is_no_step_nor_is_the_next_one() -> None:
    steps = ClockSteps()
    steps.note(10.0, 60.0, NOW_MS, 3)  # told at once, and heard of late
    assert not steps.note(60.0, 60.0, NOW_MS + 50_000, 3)
    assert not steps.note(61.0, 111.0, NOW_MS + 101_000, 3)  # told late


def test_a_little_is_no_step_and_back_is_none_either() -> None:
    steps = ClockSteps()
    steps.note(10.0, 10.0, NOW_MS, 0.1)
    assert not steps.note(10.0, 10.0, NOW_MS + 1000, 0.1)
    assert not steps.note(10.0, 10.0, NOW_MS - 50_000, 0.1)
    assert not steps.note(10.0, 10.0, NOW_MS - 47_000, 3)
    assert steps.note(10.0, 10.0, NOW_MS - 43_999, 3)


def test_only_so_many_are_remembered() -> None:
    steps = ClockSteps()
    for number in range(MAX_STEPS + 6):
        steps.note(10.0, 10.0, NOW_MS + number * 5000, 3)
    assert steps.skipped_ms(0) == MAX_STEPS * 5000
