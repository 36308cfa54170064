"""Whom to ask next, for each kind of failure, before and after something was shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_workers.asking.breaker import Breaker
from relay_workers.asking.failover import FailoverPlan, FailoverRules, NextCall
from relay_workers.asking.provider_pool import ProviderSlot
from relay_workers.providers.base import ProviderError, ProviderErrorCode
from relay_workers.providers.demo import DemoProvider
from tests.examples import tries

RULES = FailoverRules(retries=2, retry_s=0.25, retry_within_s=30)


def seats(count: int) -> list[ProviderSlot]:
    return [ProviderSlot(DemoProvider(), Breaker(1, 15)) for _ in range(count)]


def error(
    code: ProviderErrorCode = "provider_error",
    *,
    retryable: bool = True,
    status: int | None = None,
    wish_s: float | None = None,
) -> ProviderError:
    return ProviderError(code, "", retryable=retryable, status=status, retry_after_s=wish_s)


@pytest.mark.parametrize(
    "failure",
    [
        error(status=503),
        error("provider_rate_limited", status=429),
        error("provider_timeout"),
        error("truncated"),
        error(retryable=False, status=401),
        error(retryable=False, status=400),
    ],
    ids=lambda failure: f"{failure.code} {failure.status}",
)
def test_before_the_first_token_the_next_one_is_asked_at_once(failure: ProviderError) -> None:
    first, second = candidates = seats(2)
    course = FailoverPlan(candidates, RULES, 0)
    assert course.first(0) is first
    assert course.after(first, failure, 1, shown=False) == NextCall(second)


def test_a_refusal_is_an_answer_and_nobody_else_is_asked() -> None:
    candidates = seats(2)
    course = FailoverPlan(candidates, RULES, 0)
    refused = error("provider_refused", retryable=False)
    assert course.after(course.first(0), refused, 1, shown=False) is None


@pytest.mark.parametrize("midway", [True, False])
def test_after_the_first_token_the_next_one_is_asked_where_that_is_wished_for(midway: bool) -> None:
    first, second = candidates = seats(2)
    course = FailoverPlan(candidates, FailoverRules(midway=midway), 0)
    course.first(0)
    assert course.after(first, error(), 1, shown=True) == (NextCall(second) if midway else None)


def test_after_the_first_token_nobody_is_asked_twice() -> None:
    (only,) = seats(1)
    course = FailoverPlan([only], RULES, 0)
    course.first(0)
    assert course.after(only, error(), 1, shown=True) is None


def test_one_alone_is_asked_again_after_pauses_that_double_and_then_no_more() -> None:
    (only,) = seats(1)
    course = FailoverPlan([only], RULES, 0)
    course.first(0)
    assert course.after(only, error(), 1, shown=False) == NextCall(only, 0.25)
    assert course.after(only, error(), 2, shown=False) == NextCall(only, 0.5)
    assert course.after(only, error(), 3, shown=False) is None


def test_what_no_retry_helps_is_not_tried_again() -> None:
    (only,) = seats(1)
    course = FailoverPlan([only], RULES, 0)
    course.first(0)
    assert course.after(only, error(retryable=False, status=401), 0, shown=False) is None


def test_another_round_asks_those_again_that_may_have_recovered() -> None:
    broken, busy = candidates = seats(2)
    course = FailoverPlan(candidates, RULES, 0)
    course.first(0)
    assert course.after(broken, error(retryable=False, status=401), 0, shown=False) == NextCall(busy)
    assert course.after(busy, error(), 0, shown=False) == NextCall(busy, 0.25)


def test_a_provider_that_names_its_time_is_left_alone_for_it() -> None:
    (only,) = seats(1)
    course = FailoverPlan([only], RULES, 0)
    course.first(0)
    assert course.after(only, error(wish_s=7), 0, shown=False) == NextCall(only, 7)


def test_of_several_the_shortest_wish_counts() -> None:
    first, second = candidates = seats(2)
    course = FailoverPlan(candidates, RULES, 0)
    course.first(0)
    course.after(first, error(wish_s=20), 0, shown=False)
    assert course.after(second, error(wish_s=3), 0, shown=False) == NextCall(first, 3)


@pytest.mark.parametrize(("now_s", "wish_s"), [(29.9, None), (0, 31), (45, None)])
def test_nobody_is_asked_again_who_could_not_answer_in_time(now_s: float, wish_s: float | None) -> None:
    (only,) = seats(1)
    course = FailoverPlan([only], RULES, 0)
    course.first(0)
    assert course.after(only, error(wish_s=wish_s), now_s, shown=False) is None


def test_one_whose_breaker_is_open_comes_last_but_it_comes() -> None:
    sick, well = candidates = seats(2)
    sick.breaker.failed(0)
    course = FailoverPlan(candidates, RULES, 1)
    assert course.first(1) is well
    assert course.after(well, error(), 2, shown=False) == NextCall(sick)


def test_where_all_breakers_are_open_the_first_is_asked_all_the_same() -> None:
    candidates = seats(2)
    for seat in candidates:
        seat.breaker.failed(0)
    assert FailoverPlan(candidates, RULES, 1).first(1) is candidates[0]


FAULTS = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.floats(0, 12), st.none() | st.floats(0, 60)), min_size=25, max_size=25
)


@given(st.integers(1, 4), FAULTS, st.booleans(), st.integers(0, 4))
@tries(200)
def test_whatever_fails_it_comes_to_an_end_and_nobody_is_asked_too_often(
    count: int, faults: list[tuple[bool, bool, float, float | None]], midway: bool, retries: int
) -> None:
    candidates = seats(count)
    course, now_s = FailoverPlan(candidates, FailoverRules(retries=retries, midway=midway), 0), 0.0
    asked = [course.first(0)]
    shown = False
    for retryable, shows, took_s, wish_s in faults:
        now_s += took_s
        shown = shown or shows
        step = course.after(asked[-1], error(retryable=retryable, wish_s=wish_s), now_s, shown=shown)
        if step is None:
            break
        assert step.seat in candidates
        assert not (shown and step.seat in asked and retries == 0)
        now_s += step.pause_s
        asked.append(step.seat)
    else:
        raise AssertionError("it never ends")
    assert all(asked.count(seat) <= 1 + retries for seat in candidates)
