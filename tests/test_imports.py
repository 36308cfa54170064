"""Imports point down only: cli → gateway | client | workers → log → protocol. The protocol knows no I/O, no clock."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
# From the top down; what stands on one level may not import each other, except within a package.
LEVELS = [
    {
        "relay.bench",
        "relay.cli",
        "relay.dev",
        "relay.entry",
        "relay.queue_command",
        "relay.send",
        "relay.tail",
        "workers.cli",
    },
    {"relay.gateway", "relay.client", "workers"},
    {"relay.log"},
    {"relay.protocol"},
]
FORBIDDEN = {"asyncio", "anyio", "redis", "hiredis", "socket", "ssl", "time", "datetime", "threading", "os", "random"}


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, as dotted names; `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def place(module: str) -> tuple[int, str] | None:
    """Level and part of a module; None if it belongs to no level (settings, errors, logging …)."""
    for level, parts in enumerate(LEVELS):
        for part in parts:
            if module == part or module.startswith(part + "."):
                return level, part
    return None


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("relay/**/*.py"), *ROOT.glob("workers/**/*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


def test_imports_point_down_only() -> None:
    wrong = []
    for module, path in modules().items():
        mine = place(module)
        for name in imported(path):
            theirs = place(name)
            if theirs is None or theirs == mine:
                continue
            if mine is None or theirs[0] < mine[0] or (theirs[0] == mine[0] and mine[0] > 0):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_the_protocol_is_pure() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules().items()
        for name in imported(path)
        if module.startswith("relay.protocol") and name.split(".")[0] in FORBIDDEN
    ]
    assert wrong == []


def test_there_is_something_to_look_at() -> None:
    assert {place(module) for module in modules()} >= {(1, "workers"), (2, "relay.log"), (3, "relay.protocol")}
