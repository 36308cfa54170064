"""Answers without an end: which of them the contract allows."""

from __future__ import annotations

import pytest

from tests.soak.losses import SLACK_S, Losses

LATER_S = 100 + 20 + SLACK_S


def losses() -> Losses:
    made = Losses(lost_after_s=20)
    made.lost(100, {"g1": ["a", "b"], "g2": ["b"]})
    return made


def test_a_gateway_that_knew_of_an_answer_and_stayed_has_to_end_it() -> None:
    assert losses().excuse("g1") == losses().excuse("g2") == ""


def test_what_no_gateway_knew_is_gone() -> None:
    assert losses().excuse("g3") == "nobody remembers"


@pytest.mark.parametrize(("gone_s", "excused"), [(101, True), (LATER_S - 1, True), (LATER_S, False), (500, False)])
def test_whoever_is_gone_before_the_time_is_over_ends_nothing(gone_s: float, excused: bool) -> None:
    made = losses()
    made.gone("b", gone_s)
    assert bool(made.excuse("g2")) is excused
    assert not made.excuse("g1"), "the other one is there"


@pytest.mark.parametrize(("again_s", "excused"), [(116, True), (LATER_S - 1, True), (LATER_S + 1, False)])
def test_a_loss_that_follows_may_undo_an_end(again_s: float, excused: bool) -> None:
    made = losses()
    made.lost(again_s, {})
    assert bool(made.excuse("g1")) is excused


def test_an_answer_that_was_known_at_the_last_loss_has_to_be_ended_after_it() -> None:
    made = losses()
    made.lost(130, {"g1": ["a"]})
    assert (made.excuse("g1"), bool(made.excuse("g2"))) == ("", True)


def test_whoever_still_missed_it_when_redis_lost_everything_again_has_to_end_it() -> None:
    made = losses()
    made.gone("a", 105)
    made.lost(110, {})
    assert made.excuse("g1") == made.excuse("g2") == "", "b is there"
    made.gone("b", 120)
    assert made.excuse("g1")


def test_who_comes_to_a_gateway_that_never_knew_is_owed_nothing_by_it() -> None:
    made = losses()
    made.gone("b", 105)
    made.lost(110, {"g4": ["c"]})
    assert made.excuse("g2") == "all gateways gone, or lost again"


def test_what_was_asked_after_the_last_loss_is_judged_as_if_there_were_none() -> None:
    assert losses().any_since(99)
    assert not losses().any_since(101)
    assert not Losses(20).any_since(0)
