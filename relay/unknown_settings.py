"""Variables that look like settings of the relay but are not, mostly typing mistakes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

PREFIX = "RELAY_"
MAX_TOLD = 10
MAX_NAME = 64  # characters of a name that are shown, and compared

_CLOSE = 0.7  # difflib's ratio, of the names without their prefix


def unknown_settings(variables: Iterable[str], known: Iterable[str]) -> list[str]:
    """A sentence for each unknown variable, by name; at most MAX_TOLD, then one for the rest. Never a value.

    Names are compared in capitals, as settings are read. Of two spellings of one, `known` has the better one first.
    """
    valid = list(dict.fromkeys(name.upper() for name in known))
    unknown = sorted({name for name in variables if name.upper().startswith(PREFIX) and name.upper() not in valid})
    sentences = [_sentence(name, valid) for name in unknown[:MAX_TOLD]]
    more = len(unknown) - len(sentences)
    return [*sentences, f"{more} more unknown settings that begin with {PREFIX}"] if more else sentences


def _sentence(name: str, valid: list[str]) -> str:
    written = ascii(name[:MAX_NAME])[1:-1] + ("…" if len(name) > MAX_NAME else "")
    stems = {known.removeprefix(PREFIX): known for known in reversed(valid)}
    close = get_close_matches(name[:MAX_NAME].upper().removeprefix(PREFIX), stems, n=1, cutoff=_CLOSE)
    hint = f"; did you mean {stems[close[0]]}?" if close else ""
    return f"unknown setting {written}{hint}"
