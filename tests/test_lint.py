"""The linters find what is wrong, name the file that it stands in, and are never left out silently."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests import lint
from tests.lint import Finding, Missing
from tests.store.lua_sources import FOLDER, Origin, lua_files, origins, preludes, scripts


def test_each_line_of_a_script_is_that_line_of_its_file() -> None:
    for script in scripts():
        lines = script.source.split("\n")
        for text, origin in zip(lines, origins(script), strict=True):
            if origin.file:
                assert text == (FOLDER.parent / origin.file).read_text().split("\n")[origin.line - 1]
        assert origins(script)[len(lines) - 2].file.endswith(f"/{script.name}.lua")


def test_each_lua_file_is_a_script_or_shared_by_some() -> None:
    sent_as_it_is = {"acl"}
    assert lua_files().keys() == {script.name for script in scripts()} | preludes().keys() | sent_as_it_is


def test_what_is_wrong_in_a_script_is_found_at_its_line() -> None:
    if shutil.which("luacheck") is None:
        if os.environ.get("CI"):
            pytest.fail("luacheck is not installed")
        pytest.skip("luacheck is not installed (Debian: lua-check)")
    shared = [Origin("shared.lua", 1), Origin("shared.lua", 2)]
    prelude = "local function used() return 1 end\nlocal function unused() return 2 end\n"
    found = lint.found_by_luacheck(
        {
            "a": (prelude + "counter = used()\n", [*shared, Origin("a.lua", 1), Origin("a.lua", 2)]),
            "b": (prelude + "return redis.call('GET', KEYS[1])\n", [*shared, Origin("b.lua", 1), Origin("b.lua", 2)]),
        }
    )
    assert [(finding.origin, finding.what[:6]) for finding in found] == [
        (Origin("a.lua", 1), "(W111)"),  # a global of its own: the next script would find it
        (Origin("shared.lua", 2), "(W211)"),  # nobody uses it
    ]
    assert str(Finding(Origin("a.lua", 1), "wrong")) == "a.lua:1: wrong"


@pytest.mark.parametrize(("environment", "code"), [({}, 0), ({"CI": "true"}, 1)])
def test_a_linter_that_is_missing_is_said_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    environment: dict[str, str], code: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(lint, "NPM", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for linter in (lint.lua, lint.javascript):
        with pytest.raises(Missing):
            linter()
    assert lint.main() == code
    assert [line.split(" (")[0] for line in capsys.readouterr().out.splitlines()] == [
        "luacheck is not installed", "eslint is not installed",
    ]  # fmt: skip
