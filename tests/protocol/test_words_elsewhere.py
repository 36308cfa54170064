"""The closed sets of words.py where Python cannot derive them: in Lua, in the browser client's types, on a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from relay.commands import terminal
from relay.protocol.events import EventType
from relay.protocol.words import PRIORITIES, Finish, Priority, Reason, Role, Start, State
from tests.store.lua_sources import lua_files

ROOT = Path(__file__).parents[2]
TYPES = re.sub(r"/\*\*.*?\*/", "", (ROOT / "relay" / "static" / "relay-client.d.ts").read_text(), flags=re.DOTALL)
SCRIPTS = {name: re.sub(r"--.*", "", path.read_text()) for name, path in lua_files().items()}


@pytest.mark.parametrize(
    ("field", "words"),
    [("priority", Priority), ("role", Role), ("from", Start), ("reason", Reason), ("finish", Finish)],
)
def test_the_browser_clients_types_have_the_same_words(field: str, words: Any) -> None:
    unions = re.findall(rf'\b{field}\??: ((?:"\w+" ?\|? ?)+)', TYPES)
    assert unions != []
    assert [set(re.findall(r'"(\w+)"', union)) for union in unions] == [set(get_args(words))] * len(unions)


def test_a_script_that_knows_no_priority_takes_one_that_workers_look_for() -> None:
    named = [name for script in SCRIPTS.values() for name in re.findall(r"priority or '(\w+)'", script)]
    assert len(named) == 2
    assert set(named) <= set(PRIORITIES)


def test_scripts_end_an_answer_for_the_reasons_that_there_are() -> None:
    named = {name for script in SCRIPTS.values() for name in re.findall(r"end_generation\([^,]+, '(\w+)'", script)}
    named |= set(re.findall(r"reason == '(\w+)'", SCRIPTS["generation"]))
    assert named == {"stopped", "failed", "complete"}
    assert named <= set(get_args(Reason))


def test_the_states_that_scripts_set_are_a_status_or_what_comes_after_one() -> None:
    named = {
        name
        for script in SCRIPTS.values()
        for name in re.findall(r"(?:'HSET'.*?|fields = \{ )'state', '(\w+)'", script)
    }
    assert named == {"queued", "retrying", "streaming", "ended"}
    assert named - {"streaming", "ended"} <= set(get_args(State))


def test_an_append_knows_what_each_event_of_a_worker_changes() -> None:
    """All but the two that other scripts write."""
    told = set(re.findall(r"\b(\w+) = '\w+'", SCRIPTS["append"].split("[kind]")[0].rpartition("({")[2]))
    told |= set(re.findall(r"elseif kind == '(\w+)'", SCRIPTS["append"]))
    assert told == set(get_args(EventType)) - {"message", "end"}


def test_a_terminal_has_words_for_every_state() -> None:
    assert set(get_args(State)) <= terminal._STATES.keys()
