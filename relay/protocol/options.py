"""Options of a submit: how the model is to write, where its API can be told. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

import msgspec

from relay.errors import ClientError
from relay.protocol.refusals import refusal

MAX_TEMPERATURE = 2.0
MAX_STOPS = 4
MAX_STOP_LENGTH = 64  # characters of each
MAX_SEED = 2**53 - 1  # of either sign; JavaScript's largest safe integer

Effort = Literal["low", "medium", "high"]
_StopSequence = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STOP_LENGTH)]


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """None: nothing is asked for, and the provider's own value counts."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    stop: Annotated[list[_StopSequence], msgspec.Meta(min_length=1, max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    effort: Effort | None = None


NAMES = Options.__struct_fields__


def check_options(given: Any, where: str) -> Options | None:
    """The options in a JSON value; None if none of them is given. Unknown members are ignored.

    Two ways to say the same give the same: a single stop sequence is a list of one, `7.0` is the seed 7, null is
    absent. Raises ClientError `bad_message` that names the member below `where`.
    """
    if not isinstance(given, dict):
        raise ClientError("bad_message", f"{where} must be an object.")
    members = {name: value for name in NAMES if (value := given.get(name)) is not None}
    if isinstance(members.get("stop"), str):
        members["stop"] = [members["stop"]]
    if isinstance(members.get("seed"), float) and members["seed"].is_integer():
        members["seed"] = int(members["seed"])
    try:
        return msgspec.convert(members, Options) if members else None
    except msgspec.ValidationError as error:
        if members.get("effort", "low") not in get_args(Effort):
            raise ClientError("bad_message", f"{where}.effort must be {', '.join(get_args(Effort))}.") from None
        raise refusal(error, where) from None


def known_options(given: Any) -> Options | None:
    """What this release can make of options that a later one has taken: each member by itself, or left out."""
    found: dict[str, Any] = {}
    for name in NAMES if isinstance(given, dict) else ():
        try:
            if (one := check_options({name: given.get(name)}, "options")) is not None:
                found |= msgspec.to_builtins(one)
        except ClientError:
            pass  # a value that only the later release knows
    return msgspec.convert(found, Options) if found else None


def unknown_options(given: Any) -> Iterator[str]:
    """The names of members that `check_options` ignores."""
    if isinstance(given, dict):
        yield from (name for name, value in given.items() if value is not None and name not in NAMES)


def with_defaults(options: Options | None, defaults: Options | None) -> Options | None:
    """`options`, and from `defaults` whatever those do not say."""
    if options is None or defaults is None:
        return options or defaults
    return msgspec.structs.replace(defaults, **msgspec.to_builtins(options))
