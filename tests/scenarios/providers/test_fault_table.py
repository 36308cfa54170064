"""Each provider fault at each moment, with each provider: how it ends, what is shown, and who is asked how often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from tests.fakes.script import Api, Script
from tests.scenarios.fault_table import Table
from tests.scenarios.provider_faults import COURSES, FAULTS, PLACES, STREAMED, TEXT, TOKENS, Fault, Moment
from tests.scenarios.world import World

AT_ONCE = 12
OTHERS = [f"other {number} é " for number in range(12)]
OTHER_TEXT = "".join(OTHERS)
BY_NAME = {fault.name: fault for fault in FAULTS}


async def alone(table: Table, fault: Fault, moment: Moment) -> None:
    """One cell of the table with one provider."""
    cell, (api,) = getattr(fault, moment), table.providers
    question = f"{fault.name}, {moment}"
    table.questions.add(question, api, fault.make(api, moment, TOKENS))
    shown = TEXT if not cell.code else "" if moment == "agent" else "".join(TOKENS[: PLACES[moment]])
    end = await table.ask(question, shown, cell.code, queue=fault.worker, silent=fault.silent)
    error = end.get("error") or {"code": "", "retryable": False}
    assert (error["code"], error["retryable"], end["attempt"]) == (cell.code, cell.retryable, 1)
    assert (end["provider"], end["reason"] == "complete") == (api, not cell.code)
    if fault.worker != "lost":
        assert len(table.calls(question)) == cell.calls


async def with_another(table: Table, fault: Fault, moment: Moment) -> None:
    """The same cell where a second provider is left, which is well."""
    cell, course, (first, second) = getattr(fault, moment), COURSES[fault.name][moment], table.providers
    question = f"{fault.name}, {moment}"
    table.questions.add(question, first, fault.make(first, moment, TOKENS))
    table.questions.add(question, second, Script(tokens=OTHERS))
    code = cell.code if course.asked == "1" else ""
    here = TEXT if not code else "" if moment == "agent" else "".join(TOKENS[: PLACES[moment]])
    text = OTHER_TEXT if course.asked == "12" else here
    end = await table.ask(question, text, code, queue=fault.worker, silent=fault.silent)
    assert (end["attempt"], end["provider"]) == (course.attempt, table.providers[int(course.asked[-1]) - 1])
    asked = course.asked if fault.worker != "lost" else course.asked[1:]
    assert table.asked(question) == asked


async def all_of(cells: dict[str, Awaitable[None]]) -> None:
    """Some at a time; fails naming each cell that does not hold."""
    room = asyncio.Semaphore(AT_ONCE)

    async def held(cell: Awaitable[None]) -> None:
        async with room:
            await cell

    outcomes = await asyncio.gather(*(held(cell) for cell in cells.values()), return_exceptions=True)
    wrong = [f"{name}: {found!r}" for name, found in zip(cells, outcomes, strict=True) if found is not None]
    assert not wrong, f"{len(wrong)} of {len(cells)} cells:\n" + "\n".join(wrong)


def cells_of(table: Table, play: Any, *, wishes: bool) -> dict[str, Awaitable[None]]:
    moments: tuple[Moment, ...] = ("agent",) if table.providers[0] == "agent" else STREAMED
    return {
        f"{table.providers}: {fault.name}, {moment}": play(table, fault, moment)
        for fault in FAULTS
        for moment in moments
        if fault.wishes == wishes and getattr(fault, moment) is not None
    }


KINDS = ("steady", "impatient", "lost")
FEW: list[tuple[str, Moment]] = [
    ("503", "before"), ("401", "before"), ("refused", "before"), ("clean close", "before"), ("clean close", "middle"),
    ("429", "middle"), ("reset", "middle"), ("cut body", "last"), ("garbage", "last"), ("error event", "behind"),
]  # fmt: skip


async def test_some_cells_with_one_provider(relay: World) -> None:
    table = await Table.of(relay, "openai")
    await all_of({f"{name}, {moment}": alone(table, BY_NAME[name], moment) for name, moment in FEW})


async def test_some_cells_with_two_providers(relay: World) -> None:
    table = await Table.of(relay, "anthropic", "openai")
    await all_of({f"{name}, {moment}": with_another(table, BY_NAME[name], moment) for name, moment in FEW})


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["openai", "anthropic", "agent"])
async def test_every_fault_at_every_moment_with_one_provider(relay: World, provider: Api) -> None:
    table = await Table.of(relay, provider, kinds=KINDS)
    await all_of(cells_of(table, alone, wishes=False))
    await all_of(cells_of(table, alone, wishes=True))
    made = sum([sum((await table.counted(kind)).values()) for kind in ("steady", "impatient")])
    assert made == len(relay.fake.calls), "each call is counted once"
    assert await table.counted("lost") == {"provider_timeout": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    "providers", [("openai", "anthropic"), ("anthropic", "openai"), ("agent", "openai"), ("openai", "agent")]
)
async def test_every_fault_at_every_moment_with_another_provider_left(relay: World, providers: tuple[Api, Api]) -> None:
    table = await Table.of(relay, *providers, kinds=KINDS)
    await all_of(cells_of(table, with_another, wishes=False))
    await all_of(cells_of(table, with_another, wishes=True))
    made = sum([sum((await table.counted(kind)).values()) for kind in KINDS])
    assert made == len(relay.fake.calls) + 1, "each call is counted once, and that one which nobody took"
    assert await table.counted("lost") == {"provider_timeout": 1, "complete": 1}


Row = tuple[tuple[str, Moment], tuple[str, Moment], str, int, str, bool, int]
BOTH: list[Row] = [
    # of the first, of the second, who is asked in turn, attempt, code, retryable, tokens shown of the second
    (("503", "before"), ("503", "before"), "121212", 1, "provider_error", True, 0),
    (("400", "before"), ("503", "before"), "1222", 1, "provider_error", True, 0),
    (("503", "before"), ("400", "before"), "1211", 1, "provider_error", True, 0),
    (("400", "before"), ("401", "before"), "12", 1, "provider_error", False, 0),
    (("503", "before"), ("refused", "before"), "12", 1, "provider_refused", False, 0),
    (("503", "before"), ("reset", "middle"), "12", 1, "truncated", True, 5),
    (("reset", "middle"), ("503", "before"), "1222", 2, "provider_error", True, 0),
    (("reset", "middle"), ("cut body", "middle"), "12", 2, "truncated", True, 5),
    (("cut body", "last"), ("error event", "last"), "12", 2, "provider_error", True, 12),
    (("garbage", "middle"), ("refused", "middle"), "12", 2, "provider_refused", False, 5),
]


async def test_where_both_providers_fail_the_last_failure_is_told_and_its_text_is_shown(relay: World) -> None:
    table = await Table.of(relay, "openai", "anthropic")

    async def play(row: Row) -> None:
        (first, when), (second, then), asked, attempt, code, retryable, shown = row
        question = f"{first}, {when}, {second}, {then}"
        table.questions.add(question, "openai", BY_NAME[first].make("openai", when, TOKENS))
        table.questions.add(question, "anthropic", BY_NAME[second].make("anthropic", then, OTHERS))
        end = await table.ask(question, "".join(OTHERS[:shown]), code)
        assert (end["error"]["code"], end["error"]["retryable"], end["attempt"]) == (code, retryable, attempt)
        assert table.asked(question) == asked

    await all_of({f"{row[:2]}": play(row) for row in BOTH})


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["middle", "last"])
async def test_where_no_new_attempt_is_wished_for_what_was_shown_stays_and_a_retry_is_offered(
    relay: World, moment: Moment
) -> None:
    table = await Table.of(relay, "openai", "anthropic", RELAY_FAILOVER="end")
    fault = BY_NAME["cut body"]
    table.questions.add("q", "openai", fault.make("openai", moment, TOKENS))
    end = await table.ask("q", "".join(TOKENS[: PLACES[moment]]), "truncated")
    assert (end["error"]["code"], end["error"]["retryable"], end["attempt"]) == ("truncated", True, 1)
    assert table.asked("q") == "1"


@pytest.mark.slow
async def test_a_model_that_refuses_in_its_own_words_has_answered(relay: World) -> None:
    table = await Table.of(relay, "openai", "anthropic")
    table.questions.add("q", "openai", Script(tokens=TOKENS, refusal=["No, ", "I will not."]))
    end = await table.ask("q", TEXT + "No, I will not.", "")
    assert (end["finish"], end["provider"], table.asked("q")) == ("filter", "openai", "1")
