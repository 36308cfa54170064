"""What one row of a dialect table is: the bytes that a server sends, and what must come of them.

A server that breaks its API's contract is read as a person who waits for the answer would read it: text is never lost,
half an answer never passes for a whole one, and a failure's code and `retryable` lead to the right retry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

End = Literal["clean", "cut", "reset"]  # `cut`: the connection closes amid the body

SECRET = "sk-SECRET-0123456789"  # in the sentence of every error here; no ProviderError may quote it


class _Anything:
    """Equal to every value: the table leaves it open."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "…"


ANY: Any = _Anything()


@dataclass(frozen=True)
class OneOf:
    """Equal to each of these values."""

    values: tuple[object, ...]

    def __eq__(self, other: object) -> bool:
        return any(value == other for value in self.values)

    def __hash__(self) -> int:
        return 0


def one_of(*values: object) -> Any:
    return OneOf(values)


def usage(input_tokens: int, output_tokens: int) -> dict[str, int]:
    return {"input_tokens": input_tokens, "output_tokens": output_tokens}


@dataclass(frozen=True)
class Answer:
    """A whole answer. `order`: text, joined, and the names of data events between it, where their place matters."""

    text: str
    finish: Any = "stop"
    usage: Any = None
    reasoning: Any = ""
    data: Any = ()
    order: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Failure:
    """A failure, after the text that was shown. `status` and `misconfigured` count only where a row names them."""

    code: Any = "provider_error"
    retryable: Any = True
    status: Any = ANY
    text: Any = ""
    reasoning: Any = ANY
    data: Any = ()
    misconfigured: Any = ANY


Outcome = Answer | Failure


@dataclass(frozen=True)
class Row:
    """`expected`: what must come out; if several are given, one of them.

    `source`: where this shape was seen or is documented. `settings`: of the provider's constructor.
    """

    name: str
    source: str
    body: bytes
    expected: Outcome | tuple[Outcome, ...]
    status: int = 200
    content_type: str = "text/event-stream"
    end: End = "clean"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return self.expected if isinstance(self.expected, tuple) else (self.expected,)


def sse(*events: str | bytes, eol: str = "\n", name: str = "") -> bytes:
    """Each of these texts as the data of one event."""
    head = f"event: {name}{eol}".encode() if name else b""
    return b"".join(head + b"data: " + _bytes(event) + (eol * 2).encode() for event in events)


def named(name: str, data: str, eol: str = "\n") -> bytes:
    """An event with this name."""
    return sse(data, eol=eol, name=name)


def compact(value: object) -> str:
    """As JavaScript, Go and Rust print it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def tool_call(name: str, arguments: object, call_id: Any = ANY) -> tuple[str, dict[str, Any]]:
    return "tool_call", {"id": call_id, "name": name, "arguments": arguments}


def citation(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "citation", fields
