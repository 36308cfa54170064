"""Imports point down only: commands → gateway | client | workers → follow → store → redis → protocol.

The protocol knows no I/O and no clock.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
# From the top down; what stands on one level may not import each other, except within a part. A module belongs to the
# longest name that it begins with.
LEVELS = [
    {"relay.commands", "relay_workers.cli"},
    {"relay.bench"},
    {"relay.gateway", "relay.client", "relay_workers"},
    {"relay.auth"},
    {"relay.follow", "relay_workers.asking"},
    {"relay_workers.writing"},
    {"relay_workers.lease"},
    {"relay_workers.providers"},
    {"relay.store.factory"},
    {"relay.store.queue"},
    {"relay.store.session"},
    {"relay.store"},
    {"relay.redis.pubsub"},
    {"relay.redis"},
    {"relay.protocol"},
]
PUBLIC = {"relay_workers.app": "relay_workers.providers"}  # a part's public face, elsewhere for its users' sake
FORBIDDEN = {"asyncio", "anyio", "redis", "hiredis", "socket", "ssl", "time", "datetime", "threading", "os", "random"}


# Who makes the parts out of the settings. The parts get what concerns them, such as CallLimits, and never all of them.
MAKERS = {
    "relay.auth.factory", "relay.commands.options", "relay.commands.dev", "relay.commands.revoke",
    "relay.commands.token", "relay.gateway.child", "relay.gateway.gateway", "relay.gateway.server",
    "relay.gateway.supervisor", "relay.store.queue.policy", "relay.store.factory",
    "relay_workers.asking.provider_pool", "relay_workers.cli", "relay_workers.limits", "relay_workers.providers",
    "relay_workers.worker",
}  # fmt: skip


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
    for face, part in PUBLIC.items():
        if module == face or module.startswith(face + "."):
            module = part
    found = [
        (len(part), level, part)
        for level, parts in enumerate(LEVELS)
        for part in parts
        if module == part or module.startswith(part + ".")
    ]
    return max(found)[1:] if found else None


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for root, package in ((ROOT, "relay"), (ROOT / "workers", "relay_workers"))
        for path in root.glob(f"{package}/**/*.py")
    }


def test_imports_point_down_only() -> None:
    wrong = []
    for module, path in modules().items():
        mine = place(module)
        for name in imported(path):
            theirs = place(name)
            if theirs is None or theirs == mine or module.startswith(name + "."):  # the last: its own folder
                continue
            if mine is None or theirs[0] < mine[0] or (theirs[0] == mine[0] and mine[0] > 0):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_only_commands_know_the_workers() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules().items()
        for name in imported(path)
        if module.startswith("relay.") and not module.startswith("relay.commands.") and name.startswith("relay_workers")
    ]
    assert wrong == []


def test_the_protocol_is_pure() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules().items()
        for name in imported(path)
        if module.startswith("relay.protocol") and name.split(".")[0] in FORBIDDEN
    ]
    assert wrong == []


def test_every_level_has_modules() -> None:
    assert {found for module in modules() if (found := place(module))} == {
        (level, part) for level, parts in enumerate(LEVELS) for part in parts
    }


def test_parts_know_no_settings() -> None:
    knowing = {
        module.removesuffix(".__init__") for module, path in modules().items() if "relay.settings" in imported(path)
    }
    assert knowing == MAKERS
