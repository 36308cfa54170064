"""When a provider is passed over, and when it is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay_workers.asking.breaker import MAX_OPEN_S, Breaker
from tests.examples import tries


def test_it_opens_at_the_last_of_so_many_failures_in_a_row() -> None:
    breaker = Breaker(3, 15)
    for _ in range(2):
        breaker.failed(0)
    assert breaker.state(0) == "closed"
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(1)
    assert breaker.admits(1)
    breaker.failed(1)
    assert (breaker.state(1), breaker.admits(1), breaker.opened) == ("open", False, 1)


def test_half_open_it_admits_one_call_and_then_waits_for_what_that_finds() -> None:
    breaker = Breaker(1, 15)
    breaker.failed(0)
    assert breaker.state(14.9) == "open"
    assert (breaker.state(15), breaker.admits(15)) == ("half_open", True)
    breaker.begin(15)
    assert not breaker.admits(16)
    breaker.succeeded()
    assert (breaker.state(17), breaker.admits(17)) == ("closed", True)


def test_a_failure_half_open_opens_it_for_as_long_again() -> None:
    breaker = Breaker(5, 15)
    for _ in range(5):
        breaker.failed(0)
    breaker.begin(20)
    breaker.failed(21)
    assert (breaker.state(35.9), breaker.state(36), breaker.admits(36)) == ("open", "half_open", True)
    assert breaker.opened == 1, "it has not been closed in between"


def test_a_trial_that_says_nothing_because_it_was_stopped_gives_way_to_another() -> None:
    breaker = Breaker(1, 15)
    breaker.failed(0)
    breaker.begin(15)
    assert not breaker.admits(29)
    assert breaker.admits(30)


def test_a_provider_that_wants_to_be_left_alone_is_at_once_and_not_for_hours() -> None:
    breaker = Breaker(5, 15)
    breaker.failed(0, retry_after_s=2)
    assert (breaker.state(1.9), breaker.state(2)) == ("open", "half_open")
    breaker.failed(2, retry_after_s=86_400)
    assert (breaker.state(2 + MAX_OPEN_S - 1), breaker.state(2 + MAX_OPEN_S)) == ("open", "half_open")


STEPS = st.lists(st.tuples(st.sampled_from(["begin", "failed", "wish", "succeeded"]), st.floats(0, 30)), max_size=60)


@given(STEPS, st.integers(1, 5))
@tries(200)
def test_whatever_happens_a_provider_is_tried_again_and_one_answer_closes_it(
    steps: list[tuple[str, float]], failures: int
) -> None:
    breaker, now_s = Breaker(failures, 15), 0.0
    for what, after_s in steps:
        now_s += after_s
        match what:
            case "begin":
                breaker.begin(now_s)
            case "failed":
                breaker.failed(now_s)
            case "wish":
                breaker.failed(now_s, after_s * 10)
            case "succeeded":
                breaker.succeeded()
                assert breaker.state(now_s) == "closed"
        assert breaker.admits(now_s) <= (breaker.state(now_s) != "open")
    assert breaker.admits(now_s + MAX_OPEN_S + 15)
