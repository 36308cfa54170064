"""The order of turns that a model API takes: nothing that was said is lost, nothing blank is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_workers.providers.base import Turn
from relay_workers.providers.turns import OPENING, alternating, in_order, system_as_user, without_blank, without_system

ROLES = {"s": "system", "u": "user", "a": "assistant"}


def turns(*said: str) -> list[Turn]:
    """`u:Hello` is a user turn."""
    return [Turn(ROLES[one[0]], one[2:]) for one in said]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["u:1", "a:", "u:2"], ["u:1", "u:2"]),
        (["u:1", "a: \n\t\u2003", "u:2"], ["u:1", "u:2"]),
        (["s: ", "u:", "a:1", "u:2"], ["a:1", "u:2"]),
        (["u:1", "a:x", "u:"], ["u:1", "a:x", "u:"]),  # the question is sent, whatever it holds
        (["u: "], ["u: "]),
        (["u: ", "s: "], ["u: "]),
        (["u: ", "s:Be brief."], ["u: ", "s:Be brief."]),
        (["a: ", "u:\u200b"], ["u:\u200b"]),
        ([], []),
    ],
)
def test_blank_turns_are_left_out_but_never_the_question(given: list[str], kept: list[str]) -> None:
    assert without_blank(turns(*given)) == turns(*kept)


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["u:1"], ["u:1"]),
        (["u:1", "u:2"], ["u:1\n\n2"]),
        (["s:A", "u:1", "s:B", "a:x", "a:y", "u:2"], ["s:A\n\nB", "u:1", "a:x\n\ny", "u:2"]),
        (["a:x", "u:1"], [f"u:{OPENING}", "a:x", "u:1"]),
        (["s:A", "a:x", "u:1"], ["s:A", f"u:{OPENING}", "a:x", "u:1"]),
        (["s:A"], ["s:A"]),
        ([], []),
    ],
)
def test_in_order_one_system_turn_comes_first_and_roles_alternate(given: list[str], ordered: list[str]) -> None:
    assert in_order(turns(*given)) == turns(*ordered)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (["s:A", "u:1", "s:B", "a:x", "u:2"], ["u:A\n\nB\n\n1", "a:x", "u:2"]),
        (["s:A", "a:x", "u:2"], ["u:A", "a:x", "u:2"]),
        (["a:x", "u:2"], [f"u:{OPENING}", "a:x", "u:2"]),
        (["u:1", "u:2"], ["u:1\n\n2"]),
    ],
)
def test_without_a_system_role_the_first_user_turn_begins_with_it(given: list[str], sent: list[str]) -> None:
    assert system_as_user(turns(*given)) == turns(*sent)


_TURNS = st.lists(st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), st.text(min_size=1)), max_size=8)


@given(_TURNS)
def test_whatever_the_turns_their_order_is_right_and_nothing_is_lost(context: list[Turn]) -> None:
    for ordered in (in_order(context), system_as_user(context), alternating(without_system(context)[1])):
        spoken = [turn.role for turn in ordered if turn.role != "system"]
        assert spoken == ["user", "assistant"] * (len(spoken) // 2) + ["user"] * (len(spoken) % 2)
        assert [turn.role for turn in ordered].count("system") <= 1
        assert "system" not in [turn.role for turn in ordered][1:]
    for turn in context:
        assert any(turn.content in kept.content for kept in in_order(context))
        assert any(turn.content in kept.content for kept in system_as_user(context))
    assert in_order(in_order(context)) == in_order(context)
