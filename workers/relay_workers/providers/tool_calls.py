"""Tool calls whose arguments come in pieces: put together, and handed out whole. Pure."""

from __future__ import annotations

from typing import Any

from relay.protocol.words import MAX_DATA_BYTES
from relay_workers.providers.base import Part
from relay_workers.providers.reading import IgnoredFields, data_parts, decode

MAX_CALLS = 128  # open at a time


class ToolCall:
    """One call, with the first id and the first name that were said."""

    def __init__(self, call_id: str = "", name: str = "") -> None:
        self.id = call_id
        self.name = name
        self._pieces: list[str] = []
        self._size = 0
        self._value: object = None  # arguments that came as a JSON value, not as its text

    def add(self, arguments: object) -> None:
        if isinstance(arguments, str):
            self._size += len(arguments)
            if self._size <= MAX_DATA_BYTES:
                self._pieces.append(arguments)
        elif arguments is not None:
            self._value = arguments

    @property
    def is_readable(self) -> bool:
        return bool(self.name) and self._size <= MAX_DATA_BYTES

    def value(self) -> dict[str, Any]:
        """What clients are shown: `arguments` is the JSON value, or the text as it came if that is none."""
        return {"id": self.id or None, "name": self.name, "arguments": self._arguments()}

    def _arguments(self) -> object:
        text = "".join(self._pieces)
        if not text.strip():
            return {} if self._value is None else self._value
        try:
            return decode(text.encode())
        except (ValueError, RecursionError):
            return text


class ToolCalls:
    """The calls of one answer that are still open, in order, by whatever key their pieces name."""

    def __init__(self) -> None:
        self._open: dict[object, ToolCall] = {}
        self._last: object = None

    def add(self, key: object, call_id: object, name: object, arguments: object) -> bool:
        """Add a piece. False: there is no room for another call.

        Some servers send each call whole under the same index, or name no index at all: then a new id begins a call.
        """
        call_id, name = (said if isinstance(said, str) else "" for said in (call_id, name))
        if key is None:
            key = call_id or self._last
        call = self._open.get(key)
        if call is not None and call_id and call.id and call_id != call.id:
            key, call = (key, call_id), self._open.get((key, call_id))
        if call is None:
            if len(self._open) >= MAX_CALLS:
                return False
            call = self._open[key] = ToolCall()
        self._last = key
        call.id, call.name = call.id or call_id, call.name or name
        call.add(arguments)
        return True

    @property
    def are_none(self) -> bool:
        return not self._open

    def take(self) -> list[ToolCall]:
        """All of them: nothing more will be added to these."""
        calls, self._open, self._last = list(self._open.values()), {}, None
        return calls


def tool_call_parts(call: ToolCall, ignored: IgnoredFields) -> list[Part]:
    """One data part; none if the call has no name, or is too big."""
    if call.is_readable:
        return data_parts("tool_call", call.value(), ignored)
    ignored.add("tool_call")
    return []
