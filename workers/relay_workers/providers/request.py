"""A request to a model API, and which parts of it could be left out or put differently if the server refuses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from relay.protocol.options import Options

# Names as the APIs have them. The last two are not parameters: turns of `roles` in any order, and `system` turns.
Parameter = Literal[
    "max_tokens", "max_completion_tokens", "stream_options", "temperature", "top_p", "stop", "seed",
    "reasoning_effort", "reasoning.effort", "reasoning.summary", "stop_sequences", "output_config", "thinking",
    "roles", "system",
]  # fmt: skip

# A limit is never left out, since it may be there for its costs: it only has two names.
OTHER_NAME: Mapping[Parameter, Parameter] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}


class Request(msgspec.Struct, frozen=True):
    """`arguments`: the SDK's. `optional`: what the server may refuse without refusing the question.

    `ignored`: options of the submit that are not in it.
    """

    arguments: dict[str, Any]
    optional: frozenset[Parameter]
    ignored: tuple[str, ...] = ()


def ignored_options(
    options: Options | None, sent: Mapping[str, Parameter], optional: frozenset[Parameter]
) -> list[str]:
    """The options that a request leaves out. `sent`: option → the API's own parameter, where it has one."""
    asked = msgspec.structs.asdict(options or Options())
    return [name for name, value in asked.items() if value is not None and sent.get(name) not in optional]
