"""Every command helps, tells its version, and says what is wrong with an option in words."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from relay import __version__, settings
from relay.commands import main, queue, send, tail
from relay.errors import RelayError
from relay_workers import cli as worker_cli
from tests.logs_as_before import logs_as_before

RUN = CliRunner()
WIDE = {"COLUMNS": "500", "TERMINAL_WIDTH": "500"}
NO_REDIS = {"RELAY_REDIS_URL": "redis://127.0.0.1:1/0"}


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    if isinstance(command, TyperGroup):
        for name, below in command.commands.items():
            yield from _commands(below, (*path, name))


APPS = {"relay": main.app, "relay-worker": worker_cli.app}
COMMANDS = [
    pytest.param(app, path, command, id=" ".join((name, *path)))
    for name, app in APPS.items()
    for path, command in _commands(typer.main.get_command(app))
]


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """A command sends them to a stderr that is gone with it."""
    with logs_as_before():
        yield


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for several in settings.variables().values():
        for variable in several:
            monkeypatch.delenv(variable, raising=False)
    for variable in ("PORT", "RELAY_TEST_SEED"):
        monkeypatch.delenv(variable, raising=False)


def test_these_are_all_commands() -> None:
    assert [parameters.id for parameters in COMMANDS] == [
        "relay", "relay dev", "relay gateway", "relay send", "relay tail", "relay bench", "relay revoke", "relay token",
        "relay version", "relay queue", "relay queue list", "relay queue retry", "relay queue drop", "relay-worker",
    ]  # fmt: skip


@pytest.mark.parametrize(("app", "path", "command"), COMMANDS)
def test_every_command_helps_and_tells_its_version(app: typer.Typer, path: tuple[str, ...], command: Any) -> None:
    short, long = (RUN.invoke(app, [*path, flag], env=WIDE) for flag in ("-h", "--help"))
    assert (short.exit_code, long.exit_code) == (0, 0)
    assert short.output == long.output
    assert "Usage: " in short.output
    version = RUN.invoke(app, [*path, "--version"])
    assert (version.exit_code, version.output) == (0, f"{__version__}\n")


@pytest.mark.parametrize(("app", "path", "command"), COMMANDS)
def test_help_shows_every_default(app: typer.Typer, path: tuple[str, ...], command: Any) -> None:
    """Of a switch, not to give it is the default."""
    said = re.sub(r"\s+", " ", RUN.invoke(app, [*path, "-h"], env=WIDE).output)
    assert all(option.opts[0] in said for option in command.params if option.param_type_name == "option")
    silent = []
    for option in command.params:
        if option.param_type_name == "option" and not option.is_flag:
            told = re.search(rf"│ {option.opts[0]} [^│]*default", said)
            if told is None:
                silent.append(option.opts[0])
    assert silent == []


def test_defaults_are_those_of_the_settings() -> None:
    said = RUN.invoke(main.app, ["gateway", "-h"], env=WIDE).output
    for shown in (
        "[RELAY_HOST, default 127.0.0.1]", "[RELAY_PORT or PORT, default 8080]", "[RELAY_PROCESSES, default 1]",
        "[RELAY_REDIS_URL, default redis://127.0.0.1:6379/0]",
    ):  # fmt: skip
        assert shown in said
    assert "[RELAY_REDIS_URL, default an embedded server]" in RUN.invoke(main.app, ["dev", "-h"], env=WIDE).output


@pytest.mark.parametrize(
    ("app", "arguments", "sentence"),
    [
        (main.app, ["gateway", "--port", "abc"], "Invalid value for '--port': it must be a whole number (got 'abc')"),
        (main.app, ["dev", "--tokens-per-second", "x"], "'--tokens-per-second': it must be a number (got 'x')"),
        (main.app, ["bench", "--sessions", "0"], "Invalid value for '--sessions': it must be at least 1 (got '0')"),
        (main.app, ["bench", "--ramp-s", "-1"], "Invalid value for '--ramp-s': it must be at least 0 (got '-1')"),
        (main.app, ["queue", "list", "q", "--limit", "10001"], "'--limit': it must be at most 10000 (got '10001')"),
        (main.app, ["tail", "s", "--from", "x"], "Invalid value for '--from': 'x' is not one of 'start', 'live'."),
        (
            main.app,
            ["send", "s", "q", "--options", "x"],
            """'--options': it must be JSON, such as {"temperature": 0.2}""",
        ),
        (main.app, ["send", "s", "q", "--options", '{"a":NaN}'], "'--options': it must be JSON"),
        (worker_cli.app, ["--concurrency", "1.5"], "'--concurrency': it must be a whole number (got '1.5')"),
    ],
)
def test_a_mistake_in_an_option_is_told_in_words(app: typer.Typer, arguments: list[str], sentence: str) -> None:
    result = RUN.invoke(app, arguments, env=WIDE)
    assert result.exit_code == 2
    assert sentence in result.output


@pytest.mark.parametrize(("flags", "options"), [([], None), (["--options", '{"seed": 7}'], {"seed": 7})])
def test_options_of_a_submit_are_given_as_json(monkeypatch: pytest.MonkeyPatch, flags: list[str], options: Any) -> None:
    asked: list[Any] = []

    class Asked:
        def __init__(self, url: str, submit: dict[str, Any], **_: Any) -> None:
            asked.append(submit)

        async def ask(self) -> int:
            return 0

    monkeypatch.setattr(send, "SendCommand", Asked)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert RUN.invoke(main.app, ["send", "s", "q", *flags]).exit_code == 0
    assert asked == [{"session": "s", "content": "q", "queue": "default", "model": None, "options": options}]


@pytest.mark.parametrize("command", [["send", "s", "q"], ["tail", "s"]])
def test_a_token_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    tokens: list[str] = []

    class Asked:
        def __init__(self, *_: Any, token: str, **__: Any) -> None:
            tokens.append(token)

        async def ask(self) -> int:
            return 0

        run = ask

    monkeypatch.setattr(send, "SendCommand", Asked)
    monkeypatch.setattr(tail, "Tail", Asked)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    environment = {"RELAY_TOKEN": "a-token"}
    assert RUN.invoke(main.app, command, env=environment).exit_code == 0
    assert tokens == ["a-token"]
    assert RUN.invoke(main.app, [*command, "--token", "a-token"], env=environment).exit_code == 2


def test_a_person_reads_of_an_unknown_setting_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_print", lambda *_: None)
    environment = {**NO_REDIS, "RELAY_PROT": "s3cret"}
    result = RUN.invoke(main.app, ["queue"], env=environment)
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first == "relay: unknown setting RELAY_PROT; did you mean RELAY_PORT?"
    assert second.startswith("relay: Redis cannot be used")


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (main.app, ["gateway", "--host", "256.0.0.1"]),
        (main.app, ["dev", "--provider", "parrot"]),
        (worker_cli.app, ["--provider", "parrot"]),
    ],
)
def test_a_log_tells_of_an_unknown_setting_and_never_its_value(app: typer.Typer, arguments: list[str]) -> None:
    """These end at once, for another mistake."""
    result = RUN.invoke(app, arguments, env={**NO_REDIS, "RELAY_PROT": "s3cret", "RELAY_CRASH_AT": "nowhere"})
    assert result.exit_code == 2
    assert '"unknown_setting"' in result.stderr
    assert '"unknown setting RELAY_PROT; did you mean RELAY_PORT?"' in result.stderr
    assert len(result.stderr.splitlines()) == 2
    assert "s3cret" not in result.output


@pytest.mark.parametrize("command", [["gateway"], ["gateway", "--processes", "2"], ["dev"]])
def test_no_relay_listens_for_others_by_accident(command: list[str]) -> None:
    result = RUN.invoke(main.app, [*command, "--host", "0.0.0.0", "--port", "0"], env=NO_REDIS)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("relay: --host 0.0.0.0 can be reached from elsewhere, and without RELAY_AUTH_SECRET")


@pytest.mark.parametrize(
    ("flags", "environment"),
    [(["--open-to-everybody"], {}), ([], {"RELAY_OPEN_TO_EVERYBODY": "true"}), ([], {"RELAY_AUTH_SECRET": "x" * 32})],
)
@pytest.mark.parametrize("command", [["gateway", "--processes", "2"], ["dev"]])
def test_it_does_with_a_key_or_where_that_is_meant(
    monkeypatch: pytest.MonkeyPatch, command: list[str], flags: list[str], environment: dict[str, str]
) -> None:
    def next_step(*_: Any, **named: Any) -> None:
        raise RelayError("the next step")

    monkeypatch.setattr("relay.store.requirements.require_usable_redis", next_step)
    monkeypatch.setattr("relay.commands.dev.run", next_step)
    result = RUN.invoke(main.app, [*command, "--host", "0.0.0.0", *flags], env=environment)
    *warnings, line = result.stderr.splitlines()
    assert line == "relay: the next step"
    assert ["open_to_everybody" in warning for warning in warnings] == [True] * ("RELAY_AUTH_SECRET" not in environment)


def test_auth_settings_that_cannot_be_used_end_a_gateway_before_anything_else() -> None:
    result = RUN.invoke(main.app, ["gateway"], env={**NO_REDIS, "RELAY_AUTH_SECRET": "hunter2"})
    assert (result.exit_code, "hunter2" in result.output) == (2, False)
    assert "relay: RELAY_AUTH_SECRET is too short" in result.stderr


def test_a_setting_of_another_case_counts_as_one_for_relay_dev(monkeypatch: pytest.MonkeyPatch) -> None:
    from relay.commands import dev

    asked: list[bool] = []
    monkeypatch.setattr(dev, "run", lambda _, own_redis: asked.append(own_redis))
    for environment in ({}, {"relay_redis_url": "redis://127.0.0.1:1/0"}):
        assert RUN.invoke(main.app, ["dev"], env=environment).exit_code == 0
    assert RUN.invoke(main.app, ["dev", "--redis", "redis://127.0.0.1:1/0"]).exit_code == 0
    assert asked == [True, False, False]
