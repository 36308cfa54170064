"""Both clients go by the same numbers, and the documentation says which."""

from __future__ import annotations

import ast
import json
import re
from importlib.resources import files
from pathlib import Path

import msgspec

from relay.client.constants import SHARED

STATIC = files("relay") / "static"
CONSTANTS = json.loads((STATIC / "client-constants.json").read_text())
DOCS = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def of_the_browser_client() -> dict[str, float]:
    """Its constants by the names of the shared ones; milliseconds as seconds."""
    found = {}
    for name, number in re.findall(r"^const ([A-Z_]+) = ([\d_.]+);", (STATIC / "relay-client.js").read_text(), re.M):
        in_ms = name.endswith("_MS")
        found[(f"{name[:-3]}_S" if in_ms else name).lower()] = ast.literal_eval(number) / (1000 if in_ms else 1)
    return found


def test_the_browser_client_holds_the_shared_numbers() -> None:
    theirs = of_the_browser_client()
    assert {name: theirs.get(name) for name in CONSTANTS} == CONSTANTS


def test_the_python_client_reads_all_of_them() -> None:
    assert msgspec.to_builtins(SHARED) == CONSTANTS
    sources = "".join(file.read_text() for file in (files("relay") / "client").iterdir() if file.name.endswith(".py"))
    assert [name for name in CONSTANTS if f"SHARED.{name}" not in sources] == []


def test_the_documentation_says_what_they_are() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", DOCS, re.M))
    assert {name: float(value) for name, value in rows.items()} == CONSTANTS
