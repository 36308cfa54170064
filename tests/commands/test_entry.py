"""From the console script to the command's own handlers, a Ctrl-C leaves without a word. In this very process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from relay.commands import entry, main
from relay.commands.errors import report_errors
from relay_workers import cli as worker_cli

COMMANDS = pytest.mark.parametrize(
    ("command", "module"), [(entry.relay, main), (entry.worker, worker_cli)], ids=["relay", "relay-worker"]
)


class _Left(BaseException):
    """In place of the end of this process."""


@pytest.fixture(autouse=True)
def interrupts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def leave(code: int) -> None:
        assert code == 130
        raise _Left

    monkeypatch.setattr(os, "_exit", leave)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@COMMANDS
def test_until_a_command_has_begun_a_ctrl_c_leaves(
    monkeypatch: pytest.MonkeyPatch, command: Callable[[], None], module: SimpleNamespace
) -> None:
    monkeypatch.setattr(module, "app", lambda: signal.raise_signal(signal.SIGINT))  # click is not there yet
    with pytest.raises(BaseException) as ended:  # a KeyboardInterrupt would end the tests
        command()
    assert ended.type is _Left


@COMMANDS
def test_a_command_that_has_begun_takes_it_itself(
    monkeypatch: pytest.MonkeyPatch, command: Callable[[], None], module: SimpleNamespace
) -> None:
    monkeypatch.setattr(module, "app", report_errors("relay")(lambda: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        command()


@COMMANDS
def test_where_it_was_ignored_it_stays_so(
    monkeypatch: pytest.MonkeyPatch, command: Callable[[], None], module: SimpleNamespace
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setattr(module, "app", report_errors("relay")(lambda: signal.raise_signal(signal.SIGINT)))
    command()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
