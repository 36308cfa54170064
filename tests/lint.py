"""Linters of what is not Python: luacheck over the Lua scripts, as a server gets them, and eslint over our JavaScript.

    python3 tasks.py check     runs it after ruff and mypy

A linter that is not installed is left out, which is said; in CI that is a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.store.lua_sources import FOLDER, Origin, lua_files, origins, preludes, scripts

ROOT = Path(__file__).resolve().parents[1]
NPM = ROOT / "tests" / "npm"
# Beside Lua 5.1, what Redis gives a script; lines are as long as they are.
_LUACHECK = [
    "--std", "lua51", "--read-globals", "redis", "cjson", "KEYS", "ARGV", "--no-max-line-length", "--codes",
    "--no-color", "--formatter", "plain",
]  # fmt: skip
_FOUND = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+):(?P<column>\d+): (?P<what>.*)$")
_UNUSED = re.compile(r"\(W2\d\d\)")  # of a part that several share: only where none of them uses it


class Missing(Exception):
    """A linter that is not installed; says how it comes to be."""


class Finding(NamedTuple):
    origin: Origin
    what: str

    def __str__(self) -> str:
        return f"{self.origin.file}:{self.origin.line}: {self.what}"


def main() -> int:
    return max(_outcome("luacheck", lua), _outcome("eslint", javascript))


def lua() -> list[str]:
    """What luacheck finds in the scripts of relay. Raises Missing."""
    whole = {script.name: (script.source, origins(script)) for script in scripts()}
    for name, file in lua_files().items():
        if name not in preludes() and name not in whole:  # no Script of ours: it is sent as it is
            text = file.read_text()
            whole[name] = (
                text,
                [Origin(str(file.relative_to(FOLDER.parent)), line + 1) for line in range(text.count("\n") + 1)],
            )
    return [str(finding) for finding in found_by_luacheck(whole)]


def found_by_luacheck(whole: dict[str, tuple[str, list[Origin]]]) -> list[Finding]:
    """`whole`: sources by name, and where each of their lines comes from. Raises Missing."""
    command = shutil.which("luacheck")
    if command is None:
        raise Missing("Debian has it as lua-check")
    with tempfile.TemporaryDirectory() as folder:
        for name, (source, _) in whole.items():
            (Path(folder) / f"{name}.lua").write_text(source)
        files = [f"{name}.lua" for name in sorted(whole)]
        done = subprocess.run([command, *_LUACHECK, *files], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode > 2:  # 1: warnings, 2: errors; beyond that it could not do its work
        raise RuntimeError(f"luacheck failed: {done.stderr or done.stdout}")
    found: Counter[Finding] = Counter()
    for line in done.stdout.splitlines():
        if (match := _FOUND.match(line)) is not None:
            where = whole[match["file"].removesuffix(".lua")][1][int(match["line"]) - 1]
            found[Finding(where, match["what"])] += 1
    sharers = Counter(where for _, placed in whole.values() for where in placed)
    return sorted(
        finding
        for finding, times in found.items()
        if not _UNUSED.search(finding.what) or times == sharers[finding.origin]
    )


def javascript() -> list[str]:
    """What eslint finds. Raises Missing."""
    command = NPM / "node_modules" / ".bin" / "eslint"
    if not command.exists() or shutil.which("node") is None:
        raise Missing("`tasks.py test --all` installs it where there is npm")
    files = sorted(
        str(file.relative_to(ROOT)) for folder in ("relay", "tests") for file in (ROOT / folder).glob("*/*.js")
    )
    done = subprocess.run(
        [str(command), "--config", str(NPM / "eslint.config.mjs"), "--max-warnings", "0", *files],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode > 1:
        raise RuntimeError(f"eslint failed: {done.stderr or done.stdout}")
    return done.stdout.splitlines() if done.returncode else []


def _outcome(name: str, finds: Callable[[], list[str]]) -> int:
    try:
        found = finds()
    except Missing as missing:
        is_failure = bool(os.environ.get("CI"))
        print(f"{name} is not installed ({missing})" + ("" if is_failure else ": left out"))
        return int(is_failure)
    print("\n".join(found) if found else f"{name}: no finding")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
