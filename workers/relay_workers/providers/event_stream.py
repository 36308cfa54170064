"""Server-sent events: bytes in, events out. Pure; how the bytes were split makes no difference.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation, for what we use: an event's
type and its data. `id` and `retry` are read and ignored. Data stays bytes, since only its reader knows what it is.

Beyond the standard, two things that model servers write where an event belongs come as events of the type STRAY: a line
`error: …` (llama.cpp), and a bare JSON object, on one line or on several. The standard ignores both, and an error would
be lost.
"""

from __future__ import annotations

import msgspec

MAX_EVENT_BYTES = (
    16 * 1024 * 1024
)  # of one event, or of one line: a background response's last event holds all its text

STRAY = "\x00stray"  # no type that a line could give

_OVERHEAD_BYTES = 48  # what each piece takes beside its content: a million empty lines are not empty

_BOM = b"\xef\xbb\xbf"


class ServerEvent(msgspec.Struct, frozen=True, gc=False):
    """`type`: "message" unless the event named one."""

    type: str
    data: bytes


class EventTooBig(ValueError):
    """More than MAX_EVENT_BYTES without the end of an event."""


class EventStreamParser:
    """`feed` it everything in order, then `close` it if the stream came to its end."""

    __slots__ = (
        "_after_cr", "_at_start", "_data", "_data_bytes", "_line", "_line_bytes", "_object", "_object_bytes", "_type",
    )  # fmt: skip

    def __init__(self) -> None:
        self._line: list[bytes] = []  # pieces of the line that has not ended
        self._data: list[bytes] = []  # lines of the event that has not ended
        self._object: list[bytes] = []  # lines of a bare object that has not ended
        self._line_bytes = self._data_bytes = self._object_bytes = 0
        self._type = ""
        self._after_cr = False  # a line feed that comes first belongs to the line end before it
        self._at_start = True

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that this chunk completes. Raises EventTooBig."""
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in chunk:
            if chunk:
                self._keep(chunk)
            return []
        if self._line:
            chunk = b"".join((*self._line, chunk))
            self._line, self._line_bytes = [], 0
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        events = self._events(lines)
        if rest:
            self._keep(rest)
        return events

    def close(self) -> list[ServerEvent]:
        """The event that the stream's end completes. The standard drops it; many servers leave the last lines out."""
        return self.feed(b"\n\n") if self._line or self._data or self._object else []

    def _keep(self, piece: bytes) -> None:
        self._line.append(piece)
        self._line_bytes += len(piece) + _OVERHEAD_BYTES
        self._check_size()

    def _add(self, value: bytes) -> None:
        self._data.append(value)
        self._data_bytes += len(value) + _OVERHEAD_BYTES
        self._check_size()

    def _check_size(self) -> None:
        if self._line_bytes + self._data_bytes + self._object_bytes > MAX_EVENT_BYTES:
            raise EventTooBig(f"more than {MAX_EVENT_BYTES} bytes without the end of an event")

    def _events(self, lines: list[bytes]) -> list[ServerEvent]:
        events: list[ServerEvent] = []
        for line in lines:
            if not line:
                if self._data:
                    data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    events.append(ServerEvent(self._type or "message", data))
                    self._data, self._data_bytes = [], 0
                if self._object:
                    self._end_object(events)
                self._type = ""
            elif line.startswith(b"data:"):
                self._add(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line.startswith(b"event: "):
                self._type = line[7:].decode(errors="replace")
            else:
                self._field(line, events)
        return events

    def _field(self, line: bytes, events: list[ServerEvent]) -> None:
        """Any line but `data:` and the empty one."""
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._type = value.decode(errors="replace")
        elif name == b"data":  # without a colon
            self._add(b"")
        elif name == b"error":
            events.append(ServerEvent(STRAY, value))
        elif self._object or line.lstrip().startswith(b"{"):
            self._object.append(line)
            self._object_bytes += len(line) + _OVERHEAD_BYTES
            self._check_size()
            if line.startswith(b"}") or (len(self._object) == 1 and line.rstrip().endswith(b"}")):
                self._end_object(events)

    def _end_object(self, events: list[ServerEvent]) -> None:
        events.append(ServerEvent(STRAY, b"\n".join(self._object)))
        self._object, self._object_bytes = [], 0
