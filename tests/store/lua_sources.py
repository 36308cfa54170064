"""The Lua scripts as a server gets them, and where each line of them comes from."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import NamedTuple

import relay
from relay.store.scripts import Script

FOLDER = Path(relay.__file__).parent


class Origin(NamedTuple):
    """A line of a source; of what Python puts in front (names of keys, say) there is no file."""

    file: str
    line: int


@cache
def scripts() -> list[Script]:
    """Every one that a module of relay holds, by name."""
    found = {
        value.name: value
        for module in pkgutil.walk_packages(relay.__path__, "relay.")
        if not module.name.endswith("__main__")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, Script)
    }
    return [script for _, script in sorted(found.items())]


@cache
def lua_files() -> dict[str, Path]:
    """Every Lua file of relay, by its script's name; a prelude by its slot's: `session prelude`."""
    return {_name(file): file for file in sorted(FOLDER.rglob("*.lua"))}


@cache
def preludes() -> dict[str, Path]:
    """Those that scripts begin with."""
    return {name: file for name, file in lua_files().items() if any(_precedes(file, script) for script in scripts())}


def origins(script: Script) -> list[Origin]:
    """Of each line of its source, in order."""
    files = [file for name, file in lua_files().items() if name == script.name or name in preludes()]
    ours = {file: script.source.find(file.read_text()) for file in files}
    placed = [Origin("", line) for line in range(1, script.source.count("\n") + 2)]
    for file, at in ours.items():
        if at < 0:
            continue
        first = script.source.count("\n", 0, at)
        name = str(file.relative_to(FOLDER.parent))
        for line in range(file.read_text().count("\n")):
            placed[first + line] = Origin(name, line + 1)
    return placed


def _name(file: Path) -> str:
    return f"{file.parent.parent.name} prelude" if file.stem == "prelude" else file.stem


def _precedes(file: Path, script: Script) -> bool:
    return file != lua_files()[script.name] and file.read_text() in script.source
