"""What came out of a provider, and whether that is what a row says."""

from __future__ import annotations

from typing import Any

import msgspec

from relay.protocol.commands import MAX_NESTING
from relay.protocol.words import MAX_DATA_BYTES
from relay_workers.providers.base import (
    Data,
    Finished,
    Part,
    Prompt,
    Provider,
    ProviderError,
    Reasoning,
    ResumeHandle,
    Text,
    TextComplete,
    Turn,
)
from tests.workers.providers.dialect import Answer, Failure, Outcome, Row

HI = Prompt([Turn("user", "Hi")])

Came = tuple[list[Part], ProviderError | None]


async def outcome_of(provider: Provider) -> Came:
    """What a provider makes of a prompt."""
    parts: list[Part] = []
    try:
        async for part in provider.stream(HI):
            if not isinstance(part, TextComplete | ResumeHandle):
                parts.append(part)
    except ProviderError as error:
        return parts, error
    return parts, None


def check(row: Row, came: Came, how: str = "") -> None:
    """Whether what came is what the row says; `how` its body was sent, for the message."""
    parts, error = came
    seen = _seen(parts, error)
    if error is not None:
        assert "SECRET" not in str(error), f"the error quotes the provider: {error}"
    for part in parts:
        if isinstance(part, Data):
            _check_data(part)
    wanted = [_of(outcome) for outcome in row.outcomes]
    if row.end == "reset":  # it may overtake what was sent before it
        wanted = [{**one, "text": seen["text"]} for one in wanted if one["text"].startswith(seen["text"])]
    said = [f"{row.source} {how}", f"came:   {seen}", *(f"wanted: {one}" for one in wanted)]
    assert seen in wanted, "\n".join(said)
    orders = [one.order for one in row.outcomes if isinstance(one, Answer) and one.order is not None]
    assert not orders or _order(parts) in orders, f"{row.source} {how}: {_order(parts)}, wanted: {orders}"


def _check_data(data: Data) -> None:
    """Every client, and every codec on the way, can take it."""
    encoded = msgspec.json.encode(data.value)
    assert len(encoded) <= MAX_DATA_BYTES
    assert _nesting(data.value) <= MAX_NESTING
    assert msgspec.json.decode(encoded) == data.value


def _nesting(value: Any) -> int:
    """How many lists and maps lie around the innermost one, itself included."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _seen(parts: list[Part], error: ProviderError | None) -> dict[str, Any]:
    """In the form of `_of`."""
    said: dict[str, Any] = {
        "text": _mended("".join(part.text for part in parts if isinstance(part, Text))),
        "reasoning": _mended("".join(part.text for part in parts if isinstance(part, Reasoning))),
        "data": [(part.name, _without_null(part.value)) for part in parts if isinstance(part, Data)],
    }
    if error is not None:
        names = ("code", "retryable", "status", "misconfigured")
        return {**said, **{name: getattr(error, name) for name in names}}
    assert parts, "neither a part nor an error"
    finished = parts[-1]
    assert isinstance(finished, Finished)
    assert not any(isinstance(part, Finished) for part in parts[:-1])
    return {**said, "finish": finished.finish, "usage": finished.usage}


def _of(outcome: Outcome) -> dict[str, Any]:
    data = outcome.data
    if isinstance(data, tuple | list):
        data = [(name, _Fields(_without_null(value))) for name, value in data]
    said = {"text": outcome.text, "reasoning": outcome.reasoning, "data": data}
    if isinstance(outcome, Failure):
        names = ("code", "retryable", "status", "misconfigured")
        return {**said, **{name: getattr(outcome, name) for name in names}}
    return {**said, "finish": outcome.finish, "usage": outcome.usage}


class _Fields:
    """Equal to a map with these fields; one that the table leaves open may be absent."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, dict) or other.keys() - self._fields.keys():
            return False
        return all(value == other.get(name) for name, value in self._fields.items())

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return repr(self._fields)


def _without_null(value: Any) -> Any:
    """A field without a value is absent or null; both mean the same."""
    return {name: kept for name, kept in value.items() if kept is not None} if isinstance(value, dict) else value


def _mended(text: str) -> str:
    """As it reaches a person: halves of a surrogate pair joined, or U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _order(parts: list[Part]) -> tuple[str, ...]:
    """Texts, joined where nothing stands between, and the names of data."""
    order: list[str] = []
    was_text = False
    for part in parts:
        if isinstance(part, Text) and part.text:
            if was_text:
                order[-1] += part.text
            else:
                order.append(part.text)
            was_text = True
        elif isinstance(part, Data):
            order.append(part.name)
            was_text = False
    return tuple(order)
