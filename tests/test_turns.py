"""Turns: first come, first served, a few per turn of the event loop."""

from __future__ import annotations

import asyncio

from relay.turns import PER_TURN, Turns


async def test_a_few_go_on_in_each_turn_of_the_loop_in_the_order_in_which_they_asked() -> None:
    turns = Turns()
    given: list[int] = []
    for number in range(30):
        turns.ask(lambda number=number: given.append(number))  # type: ignore[misc]
    while len(given) < 30:
        before = len(given)
        await asyncio.sleep(0)
        assert len(given) - before <= 4 == PER_TURN, "others have theirs in between"
        assert (turns.asked, turns.given) == (30, len(given))
    assert given == [*range(30)]


async def test_who_asks_again_in_its_turn_comes_last() -> None:
    turns = Turns()
    given: list[str] = []
    turns.ask(lambda: turns.ask(lambda: given.append("again")))
    for _ in range(5):
        turns.ask(lambda: given.append("first"))
    for _ in range(4):
        await asyncio.sleep(0)
    assert given == ["first"] * 5 + ["again"]


async def test_one_that_fails_costs_nobody_a_turn() -> None:
    turns = Turns()
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    given: list[int] = []
    for number in range(9):
        turns.ask(lambda number=number: given.append(60 // (number - 1)))  # type: ignore[misc]
    for _ in range(6):
        await asyncio.sleep(0)
    assert given == [-60, 60, 30, 20, 15, 12, 10, 8]
    assert [type(failure) for failure in failures] == [ZeroDivisionError]
