"""How a command ends that cannot do what it was asked to."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import typer

from relay.commands.interrupts import begun
from relay.commands.terminal import escape_controls
from relay.errors import RelayError, TokenRefused

P = ParamSpec("P")
R = TypeVar("R")


def sentence(error: RelayError) -> str:
    """Its words; of a token, with the setting that it comes from."""
    if isinstance(error, TokenRefused):
        return f"{str(error).rstrip('.')}; set RELAY_TOKEN to one that it takes"
    return str(error)


def report_errors(program: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A RelayError ends in one line and its exit code (2: the user's mistake), not in a traceback."""

    def decorated(command: Callable[P, R]) -> Callable[P, R]:
        @wraps(command)
        def run(*arguments: P.args, **named: P.kwargs) -> R:
            begun()
            try:
                return command(*arguments, **named)
            except RelayError as error:
                typer.echo(escape_controls(f"{program}: {' '.join(str(error).split())}"), err=True)
                raise typer.Exit(error.exit_code) from None

        return run

    return decorated
