"""Default options: what RELAY_OPTIONS asks of each provider where a submit says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from relay.errors import ClientError, SettingsError
from relay.protocol.options import NAMES, Options, check_options, unknown_options


def default_options(given: str, providers: Sequence[str]) -> Mapping[str, Options]:
    """`{"openai": {"temperature": 0.2}}` → the options of each provider that has some.

    Raises SettingsError for anything but that, for a provider that is not in the list, and for an option that a submit
    could not have.
    """
    found: dict[str, Options] = {}
    for name, members in _read(given).items():
        if name not in providers:
            offered = ", ".join(providers)
            raise SettingsError(f"RELAY_OPTIONS: {name} is not among the providers, {offered}; options stand below one")
        if (unknown := next(unknown_options(members), None)) is not None:
            raise SettingsError(f"RELAY_OPTIONS: {name}.{unknown} is no option; {', '.join(NAMES)} are")
        try:
            options = check_options(members, name)
        except ClientError as error:
            raise SettingsError(f"RELAY_OPTIONS: {error.message}") from None
        if options is not None:
            found[name] = options
    return found


def _read(given: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(given or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SettingsError('RELAY_OPTIONS: it must be JSON such as {"openai": {"temperature": 0.2}}')
    return found
