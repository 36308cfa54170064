"""Nothing that two releases share changes unnoticed: what is stored is what shapes.json says of its version."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.store import shapes
from relay.store.scripts import Script
from tests.store.in_memory import Clock
from tests.store.lua_sources import lua_files, preludes
from tests.store.stored import GOLDEN, Shape, read_golden, stored

LUA = {name: path.read_text() for name, path in lua_files().items()}
NOT_RUN = {*preludes(), "acl"}  # the shared parts; and one that stores nothing
WRITES_FIELDS = {"HSET": 2, "HSETNX": 2, "HINCRBY": 2}  # every so many of their words is a name

ASK_FOR = f"""
{{name}} is not what {GOLDEN.name} says of its version {{version}}. Another release of the relay reads and writes it at
the same time: read "Releases side by side" in docs/design.md. If it was only added to, raise its version in
relay/store/shapes.py and run `python -m tests.store.stored`, which writes the new shape down beside the old one.
"""


async def test_what_is_stored_has_the_shape_of_its_version(
    redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it: every script was run, and every field that one writes was seen."""
    run = scripts_run(monkeypatch)
    found, golden = await stored(redis), read_golden()
    assert run == LUA.keys() - NOT_RUN
    known = found["meta"]["fields"].keys() | found["state"]["fields"].keys()
    written = {(script, name) for script, source in LUA.items() for name in fields_written(source)}
    assert len(written) > 50, "the scripts are not read as they are written"
    assert {(script, name) for script, name in written if name not in known} == set()

    assert found.keys() == shapes.VERSIONS.keys() == golden.keys()
    for name, version in shapes.VERSIONS.items():
        assert found[name] == golden[name].get(str(version)), ASK_FOR.format(name=name, version=version)


def test_shapes_are_only_added_to() -> None:
    for name, versions in read_golden().items():
        numbers = sorted(map(int, versions))
        assert numbers == list(range(1, shapes.VERSIONS[name] + 1)), name
        for number in numbers[1:]:
            assert is_in(versions[str(number - 1)], versions[str(number)]), f"{name} {number} has lost something"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": "N"}, {"a": "N", "b": "N"}, True),
        ({"a": "N", "b": "N"}, {"a": "N"}, False),
        ({"a": "N"}, {"a": "GENERATION"}, False),
        ({"a": {"b": "N"}}, {"a": {"b": "N", "c": "N"}}, True),
        ("stop N", ["pause N", "stop N"], True),
        (["a", "b"], "a", False),
        ("N N", "N N N", False),
    ],
)
def test_what_counts_as_added(one: Shape, other: Shape, expected: bool) -> None:
    assert is_in(one, other) is expected


def scripts_run(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Those that are, from now on."""
    run: set[str] = set()
    call = Script.__call__

    async def noted(script: Script, *arguments: Any) -> Any:
        run.add(script.name)
        return await call(script, *arguments)

    monkeypatch.setattr(Script, "__call__", noted)
    return run


def is_in(one: Shape, other: Shape) -> bool:
    """Whether all of the one is still there in the other, and means the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(name in other and is_in(shape, other[name]) for name, shape in one.items())
    return set(_forms(one)) <= set(_forms(other))


def _forms(shape: Shape) -> list[str]:
    return [str(one) for one in shape] if isinstance(shape, list) else [str(shape)]


def fields_written(source: str) -> Iterator[str]:
    """The names of fields of hashes, as far as they stand in the script as they are."""
    for found in re.finditer(r"redis\.call\('(\w+)', ", source):
        if (step := WRITES_FIELDS.get(found[1])) is not None:
            names = words(source[found.end() :])[1::step]
            yield from (name[1:-1] for name in names if re.fullmatch(r"'\w+'", name))


def words(source: str) -> list[str]:
    """Of a call's arguments, up to the parenthesis that closes it."""
    found, depth = [""], 0
    for char in source:
        if char == ")" and depth == 0:
            break
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            found.append("")
        else:
            found[-1] += char
    return [word.strip() for word in found]
