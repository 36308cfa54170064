"""Sight: a log that is out of sight is told once, and a process that was busy itself accuses nobody."""

from __future__ import annotations

import asyncio
import time

import pytest

from relay import timeouts
from relay.follow import visibility
from relay.follow.visibility import Visibility
from tests.scenarios.processes import until


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(visibility, "DEGRADED_AFTER_S", 0.05)
    return []


def sight_of(told: list[str]) -> Visibility:
    return Visibility(lambda: told.append("degraded"), lambda: told.append("restored"))


async def out_of_sight() -> None:
    """Until another one, looked for later and in vain, has been told."""
    others: list[str] = []
    sight_of(others).check_began()
    await until(lambda: others == ["degraded"], "the other one is out of sight")


async def test_what_is_looked_for_in_vain_is_told_once_and_when_it_is_back(told: list[str]) -> None:
    seen = sight_of(told)
    seen.check_began()
    seen.check_began()
    await until(lambda: told == ["degraded"], "degraded")
    seen.check_began()
    seen.lost()
    seen.restored()
    seen.restored()
    assert told == ["degraded", "restored"]


async def test_what_is_seen_in_time_is_not_told(told: list[str]) -> None:
    seen = sight_of(told)
    seen.check_began()
    seen.restored()
    await out_of_sight()
    assert told == []


async def test_a_process_that_was_busy_itself_looks_a_little_longer(told: list[str]) -> None:
    seen = sight_of(told)
    seen.check_began()
    time.sleep(0.2)  # noqa: ASYNC251
    await asyncio.sleep(0)
    assert told == []
    seen.restored()
    await out_of_sight()
    assert told == []


async def test_while_others_are_answered_nobody_is_told(told: list[str]) -> None:
    seen = Visibility(lambda: told.append("degraded"), lambda: told.append("restored"), timeouts.now)
    seen.check_began()
    await out_of_sight()
    await out_of_sight()
    assert told == []
    seen.check_began()  # the look before has failed
    await until(lambda: told == ["degraded"], "degraded")
