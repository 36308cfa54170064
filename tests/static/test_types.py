"""The types of the browser client: a strict compiler accepts them and a page that uses them; they are what is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from tests.static.javascript import CLIENT, npm_packages

SOURCES = Path(__file__).with_name("types")
DECLARED = (files("relay") / "static" / "relay-client.d.ts").read_text()


def compiled(folder: Path, declared: str = DECLARED, client: str = CLIENT) -> list[str]:
    """What tsc says of our samples; nothing if they are right."""
    command = npm_packages() / ".bin" / "tsc"
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    (folder / "relay-client.d.ts").write_text(declared)
    (folder / "actual.js").write_text(client)
    done = subprocess.run(
        [command, "--project", folder, "--pretty", "false"], capture_output=True, text=True, check=False, timeout=120
    )
    lines = done.stdout.splitlines()
    assert (done.returncode == 0) == (not lines), done
    return lines


@pytest.mark.slow
def test_a_strict_compiler_accepts_the_types_and_a_page_that_uses_all_of_them(tmp_path: Path) -> None:
    assert compiled(tmp_path) == []


@pytest.mark.slow
def test_what_the_client_does_not_keep_of_its_types_is_found(tmp_path: Path) -> None:
    declared = DECLARED.replace("readonly trouble:", "readonly problem:").replace("crc32(bytes", "crc(bytes")
    client = CLIENT.replace("  close() {\n    this.#end", "  shut() {\n    this.#end")
    found = "\n".join(line for line in compiled(tmp_path, declared, client) if "members.ts" in line)
    assert [name for name in ("problem", "trouble", "crc32", "crc", "close", "shut") if f'"{name}"' not in found] == []


def test_the_sample_uses_every_export() -> None:
    sample = (SOURCES / "sample.ts").read_text()
    exports = re.findall(r"^export (?:function|class|interface|type) (\w+)", DECLARED, re.MULTILINE)
    assert len(exports) > 10
    body = sample.partition('from "./relay-client.js";')[2]
    assert [name for name in exports if not re.search(rf"\b{name}\b", body)] == []
