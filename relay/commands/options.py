"""What the commands of `relay` and `relay-worker` share: -h, --version, options for settings, messages for mistakes."""

from __future__ import annotations

import os
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperCommand, TyperGroup

from relay import __version__, crashpoints, logging, settings
from relay.settings import Settings
from relay.unknown_settings import unknown_settings
from relay.validation_messages import shown, validation_message

HELP = {"help_option_names": ["-h", "--help"]}  # context settings; commands have those of their group


def option(name: str, help_: str, *declarations: str, default: str = "", also: str = "") -> Any:
    """The flag of a setting. `default`: in words, if the setting's own says nothing; `also`: another variable."""
    variable = settings.variables()[name][0]
    shown_default = default or str(Settings.model_fields[name].default)
    return typer.Option(None, *declarations, help=f"{help_}  [{variable}{also}, default {shown_default}]")


REDIS = option("redis_url", "Redis or Valkey", "--redis")
PROVIDER = option(
    "provider",
    f"Whom to ask: {', '.join(settings.PROVIDERS)}; several with commas",
    default="the first whose key or URL is set, otherwise demo",
)
APP = option("app", "Your own model, as module:function or file.py:function", "--app", default="none")
OPEN_TO_EVERYBODY = option(
    "open_to_everybody", "Without auth, listen where others can reach it", "--open-to-everybody", default="off"
)
PACE = option("tokens_per_second", "Pace of the demo provider, in tokens per second")


def load(*, by_a_person: bool = False, listens: bool = False, **flags: Any) -> Settings:
    """Load the settings, configure logs, and warn of each unknown variable. Raises SettingsError.

    `by_a_person`: warn in sentences, not in logs. `listens`: PORT counts, too, and nobody may be let in by accident.
    """
    loaded = (settings.load_for_gateway if listens else settings.load)(**flags)
    logging.configure(loaded.log_level)
    known = [crashpoints.VARIABLE, *(variable for several in settings.variables().values() for variable in several)]
    for sentence in unknown_settings(os.environ, known):
        if by_a_person:
            typer.echo(f"relay: {sentence}", err=True)
        else:
            logging.get_logger("settings").warning("unknown_setting", detail=sentence)
    if listens:
        from relay.auth.factory import check_before_listening  # here, so that other commands need not wait for it

        check_before_listening(loaded)
    return loaded


class _RelayCommand:
    """A mixin for typer's commands."""

    params: list[Any]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.params.append(_VERSION)

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """Typer passes on pydantic's message; in our words, it reads like that of a wrong setting."""
        try:
            return super().make_context(*arguments, **named)  # type: ignore[misc]
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                item = error.__cause__.errors()[0]
                quoted = "" if item["type"] == "value_error" else f" (got {shown(item['input'])})"
                error.message = validation_message(item) + quoted
            raise


class Command(_RelayCommand, TyperCommand):
    """One command."""


class Group(_RelayCommand, TyperGroup):
    """Commands under one name."""


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


def _version_option() -> Any:
    """Typer's public way to make an option is from a function."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def _(
        version: bool = typer.Option(
            False, "--version", callback=_show_version, is_eager=True, expose_value=False, help="Show the version."
        ),
    ) -> None: ...

    return typer.main.get_command(app).params[0]


_VERSION = _version_option()
