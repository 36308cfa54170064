"""What msgspec says of a value that does not fit, as a refusal that a client reads. Pure."""

from __future__ import annotations

import msgspec

from relay.errors import ClientError

MAX_SAID = 200  # characters: msgspec quotes a word that is not in its set, however long that is


def refusal(error: msgspec.ValidationError, where: str = "") -> ClientError:
    """msgspec says "Expected `str`, got `int` - at `$.field`"; we put the field first, below `where`."""
    what, at, member = str(error).rpartition(" - at `$")
    said = what if at else str(error)
    place = f"{where}{member.rstrip('`')}".lstrip(".") if at else where
    cut = said if len(said) <= MAX_SAID else said[:MAX_SAID] + "…"
    return ClientError("bad_message", f"{place}: {cut}" if place else cut)
