"""The old import of an app: ours where nobody's own has the name, and told of once. Tried with another name than it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_workers import app
from relay_workers.providers import app_loading
from relay_workers.providers.old_import import OldImport, moved, serve_old_import

OLD = "workers_as_it_was"
USING = f"from {OLD}.app import Job, Text"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path, with the old name served; nothing of it is left behind."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    serve_old_import(OLD)
    yield tmp_path
    for name in list(sys.modules):
        if name.partition(".")[0] in (OLD, "uses_it", "uses_it_too") or name.startswith("served_chat@"):
            del sys.modules[name]


@pytest.fixture
def write(folder: Path) -> Callable[[str, str], None]:
    def write(name: str, text: str = "") -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        importlib.invalidate_caches()

    return write


Write = Callable[..., None]


@pytest.mark.parametrize(
    "line", [USING, f"import {OLD}.app as a; Job, Text = a.Job, a.Text", f"from {OLD} import app; Job = app.Job"]
)
def test_the_old_import_gives_the_same_module_and_one_line_that_names_the_place(
    folder: Path, write: Write, line: str
) -> None:
    write("uses_it.py", f"\n{line}")
    write("uses_it_too.py", line)
    with capture_logs() as logged:
        uses_it = importlib.import_module("uses_it")
        importlib.import_module("uses_it_too")
    assert uses_it.Job is app.Job
    assert sys.modules[f"{OLD}.app"] is app
    assert (app.__name__, app.__spec__.name if app.__spec__ else "") == (app.Job.__module__, app.Job.__module__)
    detail = f"{OLD}.app is {app.__name__} now; {folder / 'uses_it.py'}:2 imports the old name"
    assert logged == [{"event": "old_import", "log_level": "warning", "part": "app", "detail": detail}]


@pytest.mark.parametrize("init", [True, False], ids=["package", "namespace"])
def test_a_package_of_theirs_with_an_app_wins_wherever_it_is_on_the_path(
    folder: Path, write: Write, init: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path / "empty"), *sys.path[1:], str(tmp_path / "last")])
    write(f"last/{OLD}/app.py", "Job = Text = 'theirs'")
    if init:
        write(f"last/{OLD}/__init__.py")
    write("last/uses_it.py", USING)
    with capture_logs() as logged:
        assert importlib.import_module("uses_it").Job == "theirs"
    assert logged == []


def test_a_folder_of_theirs_keeps_what_it_has_and_gets_our_app(write: Write) -> None:
    write(f"{OLD}/chat.py", USING)
    write(f"{OLD}/further/deep.py", f"from {OLD} import chat")
    with capture_logs() as logged:
        assert importlib.import_module(f"{OLD}.chat").Job is app.Job
        assert importlib.import_module(f"{OLD}.further.deep").chat.Text is app.Text
    assert [line["event"] for line in logged] == ["old_import"]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{OLD}.nothing")


@pytest.mark.parametrize("file", [f"{OLD}/__init__.py", f"{OLD}.py"])
def test_a_package_or_module_of_theirs_has_only_what_it_says(write: Write, file: str) -> None:
    write(file, "theirs = 1")
    assert importlib.import_module(OLD).theirs == 1
    with pytest.raises(ModuleNotFoundError) as refused:
        importlib.import_module(f"{OLD}.app")
    assert moved(str(refused.value.name), OLD) == f", which is {app.__name__} now"
    assert moved("another", OLD) == ""


def test_nothing_else_is_served(folder: Path) -> None:
    for name in (f"{OLD}.worker", f"{OLD}.app.further", "another_that_is_nowhere"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_it_stands_last_and_once_and_not_at_all_under_the_real_name(folder: Path) -> None:
    before = list(sys.meta_path)
    serve_old_import(OLD)
    serve_old_import(app.__name__.rpartition(".")[0])
    assert sys.meta_path == before
    assert isinstance(before[-1], OldImport)


def test_an_app_that_is_loaded_finds_it(
    folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served: list[str] = []
    monkeypatch.setattr("relay_workers.providers.old_import.serve_old_import", lambda: served.append(os.getcwd()))
    write("served_chat.py", f"{USING}\n\nasync def generate(job: Job):\n    yield Text('x')\n")
    loaded = app_loading.load(f"{folder}/served_chat.py:generate")
    assert served == [os.getcwd()]
    assert loaded.function.__globals__["Job"] is app.Job
