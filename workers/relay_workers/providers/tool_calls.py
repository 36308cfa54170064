"""Tool calls whose arguments come in pieces: put together, and handed out whole. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from relay.protocol.words import MAX_DATA_BYTES
from relay_workers.providers.base import Part
from relay_workers.providers.reading import IgnoredFields, data_parts, decode

MAX_CALLS = 128  # open at a time
MAX_NAME_LENGTH = 256  # of a call's id and of its name


class ToolCall:
    """One call, with the first id and the first name that were said."""

    def __init__(self, call_id: str = "", name: str = "") -> None:
        self.id, self.name = call_id[:MAX_NAME_LENGTH], name[: MAX_NAME_LENGTH + 1]
        self._pieces: list[str] = []
        self._size = 0
        self._value: object = None  # arguments that came as a JSON value, not as its text

    def add(self, arguments: object) -> None:
        """A piece of the arguments' text, or all of them as a JSON value."""
        if not arguments:
            return
        self._size += len(arguments) if isinstance(arguments, str) else _encoded_size(arguments)
        if self._size > MAX_DATA_BYTES:
            self._pieces, self._value = [], None
        elif isinstance(arguments, str):
            self._pieces.append(arguments)
        else:
            self._value = arguments

    @property
    def is_readable(self) -> bool:
        return 0 < len(self.name) <= MAX_NAME_LENGTH and self._size <= MAX_DATA_BYTES

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are JSON."""
        return not isinstance(self._arguments(), str)

    def value(self) -> dict[str, Any]:
        """What clients are shown: `arguments` is the JSON value, or the text as it came if that is none."""
        return {"id": self.id or None, "name": self.name, "arguments": self._arguments()}

    def _arguments(self) -> object:
        text = "".join(self._pieces)
        # Through UTF-16, where halves of a surrogate pair are ordinary: two pieces may have one each.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
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
        self._current: dict[int | None, object] = {}  # index → the key of the call that its pieces belong to

    def add(self, index: int | None, call_id: object, name: object, arguments: object) -> bool:
        """Add a piece. False: there is no room for another call.

        Some servers send each call whole under the same index, or name no index at all: then a new id begins a call.
        """
        call_id, name = (said if isinstance(said, str) else "" for said in (call_id, name))
        key = self._current.get(index)
        call = self._open.get(key)
        if call is None or (call_id and call.id and call_id[:MAX_NAME_LENGTH] != call.id):
            key = (index, call_id[:MAX_NAME_LENGTH])
            call = self._open.get(key)
        if call is None:
            if len(self._open) >= MAX_CALLS:
                return False
            call = self._open[key] = ToolCall(call_id, name)
        self._current[index] = self._current[None] = key
        call.id, call.name = call.id or call_id[:MAX_NAME_LENGTH], call.name or name[: MAX_NAME_LENGTH + 1]
        call.add(arguments)
        return True

    @property
    def are_none(self) -> bool:
        return not self._open

    def take(self) -> list[ToolCall]:
        """All of them: nothing more will be added."""
        calls, self._open, self._current = list(self._open.values()), {}, {}
        return calls

    def take_whole(self) -> list[ToolCall]:
        """Those whose arguments are JSON: nothing more can be added to these."""
        whole = {key: call for key, call in self._open.items() if call.is_whole}
        self._open = {key: call for key, call in self._open.items() if key not in whole}
        self._current = {index: key for index, key in self._current.items() if key not in whole}
        return list(whole.values())


def _encoded_size(value: object) -> int:
    """In JSON; more than any bound if it has none."""
    try:
        return len(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return MAX_DATA_BYTES + 1


def tool_call_parts(call: ToolCall, ignored: IgnoredFields) -> list[Part]:
    """One data part; none if the call has no name, or is too big."""
    if call.is_readable:
        return data_parts("tool_call", call.value(), ignored)
    ignored.add("tool_call")
    return []
