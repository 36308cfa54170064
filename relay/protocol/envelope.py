"""Finds `id` and `session` of a message that cannot be read, or is too large, so that its refusal can name them. Pure.

Without its id, a client could not tell which command was refused, and would wait for a reply for ever. So, whatever a
decoder fails at (half a surrogate pair, invalid UTF-8, endless nesting, a missing tail), we walk the outermost map and
find what is beside the fault. Only these two values are decoded.

Neither walk raises. Each is bounded: a message may be megabytes of brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

Envelope = dict[str, Any]

MAX_STEPS = 100_000  # names and nested parts; beyond them nothing more is found
_NAMES = ("id", "session")

# JSON. No repetition backtracks, so each walk is linear: repetitions of one character are possessive (`++`, `*+`),
# longer ones are in an atomic group, because Python before 3.11.5 gets possessive ones of those wrong (gh-106052).
_STRING = r'"(?>(?:[^"\\]|\\.)*)"'
_PLAIN = rf'(?>(?:[^"{{}}\[\]]++|{_STRING})*)'
_BEGIN = re.compile(r"[\ufeff\s]*+\{")
_KEY = re.compile(rf'[\s,]*+({_STRING}|[^\s",:{{}}\[\]]++)\s*+:\s*+', re.DOTALL)  # an unquoted name hides no other
_VALUE = re.compile(rf"({_STRING})|[\[{{]|[^,{{}}\[\]]*+", re.DOTALL)
_FLAT = re.compile(rf"(?>(?:{_PLAIN}[\[{{]{_PLAIN}[\]}}])*){_PLAIN}", re.DOTALL)  # up to a bracket that nests deeper
_BRACKETS = re.compile(r"[\[{]++|[\]}]++")
_decode_json = msgspec.json.Decoder(str).decode


def of_json(message: str | bytes) -> Envelope:
    """If a name comes twice, the last one counts, as in the decoder."""
    text = message if isinstance(message, str) else message.decode(errors="replace")
    found: Envelope = {}
    for name, literal in _strings(text):
        try:
            found[name] = _decode_json(literal)
        except (msgspec.DecodeError, UnicodeError):  # the fault is here
            found.pop(name, None)
    return found


def _strings(text: str) -> Iterator[tuple[str, str]]:
    """The wanted names of the outermost map whose values are strings: (name, value still encoded)."""
    begin = _BEGIN.match(text)
    position, steps = (begin.end(), 0) if begin is not None else (len(text), 0)
    while steps < MAX_STEPS and (key := _KEY.match(text, position)) is not None:
        value = _VALUE.match(text, key.end())
        if value is None:
            return
        steps, position = steps + 1, value.end()
        if value[0] in ("{", "["):
            steps, position = _past(text, position, steps)
        elif value[1] and key[1][1:-1] in _NAMES:
            yield key[1][1:-1], value[1]


def _past(text: str, position: int, steps: int) -> tuple[int, int]:
    """Skip a map or list whose first bracket has been read: (steps so far, position after its end)."""
    depth = 1
    while steps < MAX_STEPS:
        flat = _FLAT.match(text, position)
        brackets = _BRACKETS.match(text, flat.end() if flat is not None else position)
        if brackets is None:
            break
        steps, position = steps + 1, brackets.end()
        if brackets[0][0] in "{[":
            depth += len(brackets[0])
        elif (depth := depth - len(brackets[0])) <= 0:
            return steps, position + depth  # one bracket too many belongs to the outermost map
    return MAX_STEPS, len(text)


# MessagePack, by the first byte of a part. _FIXED: its whole length. _SIZED: how many bytes its length takes, and how
# many more bytes it has. _COUNTED: how many bytes its count takes, and how many parts it holds for each.
_FIXED = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2, 0xC3), 1), 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2,
    0xD1: 3, 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18,
}  # fmt: skip
_SIZED = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1), 0xD9: (1, 0), 0xDA: (2, 0),
    0xDB: (4, 0),
}  # fmt: skip
_COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
_MAPS = (*range(0x80, 0x90), 0xDE, 0xDF)
_LONGEST_NAME = 12  # `session` with the longest head that a string may have
_decode_msgpack = msgspec.msgpack.Decoder(str).decode


def of_msgpack(message: bytes) -> Envelope:
    """If a name comes twice, the last one counts, as in the decoder."""
    found: Envelope = {}
    for raw_name, raw in _pairs(message):
        try:
            name = _decode_msgpack(raw_name) if len(raw_name) <= _LONGEST_NAME else ""
        except (msgspec.MsgspecError, UnicodeError):
            continue
        if name in _NAMES:
            try:
                found[name] = _decode_msgpack(raw)
            except (msgspec.MsgspecError, UnicodeError):  # the fault is here, or it is not a string
                found.pop(name, None)
    return found


def _pairs(message: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of the outermost map, still encoded, as far as they are complete."""
    if not message or message[0] not in _MAPS:
        return
    position, parts = _part(message, 0)
    steps = 0
    for _ in range(parts // 2):
        steps, middle = _past_part(message, position, steps)
        steps, end = _past_part(message, middle, steps)
        if end > len(message) or steps >= MAX_STEPS:
            return
        yield message[position:middle], message[middle:end]
        position = end


def _past_part(message: bytes, position: int, steps: int) -> tuple[int, int]:
    """Skip one part and all that it holds: (steps so far, position after it; beyond the message's end if it is cut)."""
    waiting = 1
    while waiting and steps < MAX_STEPS:
        if position >= len(message):
            return steps, len(message) + 1
        position, parts = _part(message, position)
        waiting, steps = waiting - 1 + parts, steps + 1
    return steps, position


def _part(message: bytes, position: int) -> tuple[int, int]:
    """(position after a part's own bytes, how many parts follow that it holds)."""
    kind = message[position]
    if kind < 0x80 or kind >= 0xE0:
        return position + 1, 0
    if kind < 0xA0:
        return position + 1, (kind & 0x0F) * (2 if kind < 0x90 else 1)
    if kind < 0xC0:
        return position + 1 + (kind & 0x1F), 0
    if kind in _FIXED:
        return position + _FIXED[kind], 0
    width, per = _SIZED.get(kind) or _COUNTED[kind]
    number = int.from_bytes(message[position + 1 : position + 1 + width])
    if kind in _COUNTED:
        return position + 1 + width, number * per
    return position + 1 + width + per + number, 0
