"""The task runner: who asks for help is helped, and nothing is installed or run for it."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[1] / "tasks.py"
TASKS = ["run", "test", "check", "bench", "mutants", "soak", "shaker"]


class Began(Exception):
    """Something was installed or run."""


def _runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tasks", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The runner of a machine without .venv, on which nothing may begin."""
    module = _runner()
    monkeypatch.setattr(module, "VENV", tmp_path)
    monkeypatch.setattr(module, "BIN", tmp_path / "bin")

    def begin(*command: str) -> int:
        raise Began(" ".join(command))

    for name in ("call", "become", "install_system_packages"):
        monkeypatch.setattr(module, name, begin)
    monkeypatch.setattr(module, "set_up", lambda packages, name: None)
    return module


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", TASKS)
def test_help_helps_and_begins_nothing(
    tasks: ModuleType, capsys: pytest.CaptureFixture[str], name: str, flag: str
) -> None:
    assert tasks.main([name, flag]) == 0
    assert f"python3 tasks.py {name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("run", "relay dev --help"),
        ("test", "-m pytest --help"),
        ("bench", "-m tests.bench --help"),
        ("soak", "-m tests.soak --help"),
    ],
)
def test_the_command_behind_a_task_helps_too_where_it_is_installed(
    tasks: ModuleType, tmp_path: Path, name: str, command: str
) -> None:
    (tmp_path / "bin").mkdir()
    for mark in ("bin/relay", ".installed-test"):
        (tmp_path / mark).touch()
    with pytest.raises(Began) as began:
        tasks.main([name, "--help"])
    assert str(began.value).endswith(command)


def test_without_a_task_or_with_help_alone_all_are_listed(
    tasks: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code in (([], 2), (["--help"], 0), (["-h"], 0), (["chekc"], 2)):
        assert tasks.main(arguments) == code
        said = capsys.readouterr().out
        assert all(f"python3 tasks.py {name} " in said for name in TASKS)


def test_check_refuses_arguments_that_it_would_not_heed(tasks: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tasks.main(["check", "relay"]) == 2
    assert capsys.readouterr().out == "tasks.py check takes no arguments: relay\n"
    with pytest.raises(Began):
        tasks.main(["check"])


def test_it_is_set_up_again_when_a_pin_or_a_bound_has_changed_and_only_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = _runner()
    ran: list[list[str]] = []
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", tmp_path / "constraints.txt")  # it is there: no venv has to be made
    monkeypatch.setattr(module.subprocess, "run", lambda command, **_: ran.append(command))
    (tmp_path / ".venv").mkdir()
    for file in ("pyproject.toml", "constraints.txt"):
        (tmp_path / file).write_text("")
    for changed in ("pyproject.toml", "constraints.txt"):
        (tmp_path / changed).write_text("something else")
        ran.clear()
        module.set_up(["-e", "."], "run")
        module.set_up(["-e", "."], "run")
        assert [command[-2:] for command in ran] == [["--upgrade", "pip"], ["-e", "."]]
        assert all(command[command.index("-c") + 1] == str(tmp_path / "constraints.txt") for command in ran)


def test_foreign_servers_are_installed_once_and_again_after_a_failure_or_another_pin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = _runner()
    codes = [1, 0, 0]
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, codes[len(ran) - 1])

    folder = tmp_path / "tests" / "scenarios" / "foreign"
    folder.mkdir(parents=True)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(module.venv, "create", lambda target, clear: target.mkdir(exist_ok=clear))
    for pins, runs in (("a==1", 1), ("a==1", 2), ("a==1", 2), ("a==2", 3), ("a==2", 3)):
        (folder / "requirements.txt").write_text(pins)
        module.install_foreign_servers()
        assert len(ran) == runs
    assert all(command[command.index("--python") + 1] == str(tmp_path / ".venv-foreign") for command in ran)


@pytest.mark.parametrize(("ci", "first"), [("true", ""), ("", "-m ruff check .")])
def test_in_ci_check_begins_with_what_its_linters_are_installed_by(
    tasks: ModuleType, monkeypatch: pytest.MonkeyPatch, ci: str, first: str
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(Began) as began:
        tasks.main(["check"])
    assert str(began.value).endswith(first)
    assert bool(str(began.value)) == (not ci)
