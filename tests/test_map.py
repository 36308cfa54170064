"""The map of the tests: every module has a test file of its name, or a line that says where it is tested."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGES = {ROOT / "relay": TESTS, ROOT / "workers" / "relay_workers": TESTS / "workers"}
SCENARIOS = TESTS / "scenarios"


def elsewhere() -> dict[str, list[str]]:
    """Of each module in the table of README.md, the files in which it is tested."""
    rows = re.findall(r"^\| `(\S+\.py)` \| (.+) \|$", (TESTS / "README.md").read_text(), re.MULTILINE)
    return {module: re.findall(r"`([^`]+)`", tests) for module, tests in rows}


def without_a_test_of_their_name() -> set[str]:
    return {
        str(module.relative_to(ROOT))
        for package, tests in PACKAGES.items()
        for module in package.rglob("*.py")
        if module.name != "__init__.py"
        and not (tests / module.relative_to(package).with_name(f"test_{module.name}")).exists()
    }


def test_every_module_has_a_test_of_its_name_or_a_line() -> None:
    assert set(elsewhere()) == without_a_test_of_their_name()


def test_what_the_lines_name_is_there() -> None:
    assert [test for tests in elsewhere().values() for test in tests if not (TESTS / test).exists()] == []


def test_every_scenario_has_a_line_and_every_line_a_scenario() -> None:
    lines = re.findall(r"^\| `(\w+/test_\w+\.py)` \|", (SCENARIOS / "README.md").read_text(), re.MULTILINE)
    assert sorted(lines) == sorted(str(path.relative_to(SCENARIOS)) for path in SCENARIOS.rglob("test_*.py"))
