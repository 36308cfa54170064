"""Where the browser client's rules run: Node, where there is one, and Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import sync_playwright

from tests.scenarios.browser import QUIET, chromium_path

CLIENT = (files("relay") / "static" / "relay-client.js").read_text()
DRIVE = Path(__file__).with_name("drive.js").read_text()
MANUAL = Path(__file__).with_name("manual.js").read_text()
# One line in (arguments of `drive` after the class), one line out.
_NODE = """
import { createInterface } from "node:readline";
const [client, { drive }] = await Promise.all([import("./relay-client.mjs"), import("./drive.mjs")]);
for await (const line of createInterface({ input: process.stdin }))
  console.log(JSON.stringify(drive(client.SessionView, ...JSON.parse(line))));
"""
_CHROMIUM = """async ([client, drive]) => {
  const load = (source) => import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const [{ SessionView }, made] = await Promise.all([load(client), load(drive)]);
  window.drive = (session, steps) => JSON.stringify(made.drive(SessionView, session, steps));
}"""

Step = tuple[str, Any]


class Javascript(Protocol):
    def drive(self, session: str, steps: list[Step]) -> list[tuple[Any, dict[str, Any]]]:
        """What each step returned, and the state after it."""


class Node:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def drive(self, session: str, steps: list[Step]) -> list[tuple[Any, dict[str, Any]]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([session, steps]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "Node has ended; its words are above"
        answer: list[tuple[Any, dict[str, Any]]] = json.loads(line)
        return answer


class Chromium:
    def __init__(self, page: Any) -> None:
        self._page = page

    def drive(self, session: str, steps: list[Step]) -> list[tuple[Any, dict[str, Any]]]:
        text = self._page.evaluate(
            "([session, steps]) => drive(session, JSON.parse(steps))", [session, json.dumps(steps)]
        )
        answer: list[tuple[Any, dict[str, Any]]] = json.loads(text)
        return answer


def run(directory: Path, script: str, node: str | None = None, timeout_s: float = 60) -> list[Any]:
    """The lines, as JSON, of a module that may import the client; its process ends by itself, and without a complaint.

    `node`: another one than that on PATH.
    """
    for name, source in (("relay-client", CLIENT), ("manual", MANUAL), ("script", script)):
        (directory / f"{name}.mjs").write_text(source)
    done = subprocess.run(
        [node or node_path(), "script.mjs"],
        cwd=directory, capture_output=True, text=True, encoding="utf-8", timeout=timeout_s, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


def node_path() -> str:
    path = shutil.which("node")
    if path is None:
        pytest.skip("there is no node on PATH")
    return path


def npm_packages() -> Path:
    """`node_modules` of tests/npm; skips the test where that was not installed, except in CI."""
    folder = Path(__file__).parents[1] / "npm"
    path, wanted = folder / "node_modules", json.loads((folder / "package.json").read_text())["dependencies"]
    if not all((path / name).exists() for name in wanted):
        if os.environ.get("CI"):
            pytest.fail("tests/npm is not installed; `tasks.py test --all` does it where there is npm")
        pytest.skip("tests/npm is not installed; `tasks.py test --all` does it")
    return path


@contextmanager
def node(directory: Path) -> Iterator[Javascript]:
    path = node_path()
    for name, source in (("relay-client", CLIENT), ("drive", DRIVE), ("main", _NODE)):
        (directory / f"{name}.mjs").write_text(source)
    with subprocess.Popen(
        [path, "main.mjs"], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        yield Node(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


@contextmanager
def chromium() -> Iterator[Javascript]:
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        page = browser.new_page()
        page.evaluate(_CHROMIUM, [CLIENT, DRIVE])
        yield Chromium(page)
        browser.close()
