"""The table of mutants is about the code as it is: each change finds its place, and each test that it names exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]

every_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


@every_mutant
def test_what_a_mutant_changes_stands_exactly_once_in_its_file(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert [text.count(change.source) for change in mutant.changes] == [1] * len(mutant.changes)
    assert all(change.source != change.replacement for change in mutant.changes)


@every_mutant
def test_a_mutant_is_expected_to_fail_tests_that_exist(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_mutants_have_names_of_their_own() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
