"""Apply each mutant to a copy of the working tree and run the tests that are about it; all of them have to fail.

    python3 tasks.py mutants [--only WORD,…]

First the same tests run on an unchanged copy, where all of them have to pass: what is red there proves nothing.
Exits with 1 if a mutant survived a test.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
TEST_S = 60.0  # for each test, on a busy machine
_LEFT_OUT = shutil.ignore_patterns(
    ".venv*", ".git", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "node_modules"
)
_RESULT = re.compile(r"^(PASSED|FAILED|ERROR) (\S+?)(?:\[.*)?(?: - .*)?$", re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutants with one of these words, with commas, in their name")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if any(word in mutant.name for word in options.only.split(","))]
    if not chosen:
        print(f"no mutant is named like {options.only!r}")
        return 2
    with tempfile.TemporaryDirectory() as directory:
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        red = run(unchanged(Path(directory) / "0"), tests)
        if red:
            print("these tests fail without any mutant: " + ", ".join(sorted(red)))
            return 1
        print(f"{len(tests)} tests pass on the unchanged code; each has to fail where its rule is taken out\n")
        survived = [
            mutant.name for number, mutant in enumerate(chosen, 1) if not bitten(mutant, Path(directory), number)
        ]
    print(f"\n{len(chosen) - len(survived)} of {len(chosen)} mutants were noticed by all that is about them")
    return 1 if survived else 0


def bitten(mutant: Mutant, directory: Path, number: int) -> bool:
    """Whether every test that is about it fails; says which do."""
    began_at = time.monotonic()
    tree = unchanged(directory / str(number))
    mutate(tree / mutant.file, mutant)
    red = run(tree, mutant.tests)
    shutil.rmtree(tree)
    scenarios = sum(test in red for test in mutant.scenarios)
    print(f"{mutant.name:<52}{len(red)} red, {scenarios} of them scenarios{time.monotonic() - began_at:>7.0f} s")
    for test in mutant.tests:
        print(f"    {'red     ' if test in red else 'SURVIVED'}  {test.removeprefix('tests/')}", flush=True)
    return len(red) == len(mutant.tests)


def unchanged(tree: Path) -> Path:
    """A copy of the working tree."""
    shutil.copytree(ROOT, tree, ignore=_LEFT_OUT)
    return tree


def mutate(path: Path, mutant: Mutant) -> None:
    text = path.read_text()
    for change in mutant.changes:
        assert text.count(change.source) == 1, f"{mutant.name}: {mutant.file} does not hold {change.source!r} once"
        text = text.replace(change.source, change.replacement)
    path.write_text(text)


def run(tree: Path, tests: list[str]) -> set[str]:
    """The tests that fail in this tree; one that never ends is red too."""
    command = [sys.executable, "-m", "pytest", "-rA", "--tb=no", "--show-capture=no", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "workers")])}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TEST_S * len(tests), check=False
        )
    except subprocess.TimeoutExpired:
        return set(tests)
    results = _RESULT.findall(done.stdout)
    missing = set(tests) - {name for _, name in results}
    assert not missing, f"no result of {missing}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return {name for result, name in results if result != "PASSED"} & set(tests)


if __name__ == "__main__":
    sys.exit(main())
