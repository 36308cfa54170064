"""Whom a refusal is for: `id` and `session` of a message that cannot be read, or is too large to be. Pure.

Without its id nobody could tell which command was refused, and whoever sent it would wait for a reply for ever. So,
whatever a decoder stumbles over (half a surrogate pair, bytes that are no UTF-8, nesting without end, a tail that is
missing), the outermost map is walked, and what stands beside the fault is found. Only these two values are decoded.

Neither walk raises. Each is bounded: a message may have megabytes of nothing but brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

Envelope = dict[str, Any]

MAX_STEPS = 100_000  # names and nested parts; of a message of more than that nothing further is found
_NAMES = ("id", "session")

# JSON. No repetition is tried a second time, so each walk is linear: of one character at a time it is possessive (`++`,
# `*+`), of more it stands in an atomic group, as Python before 3.11.5 takes possessive ones of those wrong (gh-106052).
_STRING = r'"(?>(?:[^"\\]|\\.)*)"'
_PLAIN = rf'(?>(?:[^"{{}}\[\]]++|{_STRING})*)'
_BEGIN = re.compile(r"[\ufeff\s]*+\{")
_KEY = re.compile(rf'[\s,]*+({_STRING}|[^\s",:{{}}\[\]]++)\s*+:\s*+', re.DOTALL)  # one without quotes costs no other
_VALUE = re.compile(rf"({_STRING})|[\[{{]|[^,{{}}\[\]]*+", re.DOTALL)
_FLAT = re.compile(rf"(?>(?:{_PLAIN}[\[{{]{_PLAIN}[\]}}])*){_PLAIN}", re.DOTALL)  # up to a bracket that nests further
_BRACKETS = re.compile(r"[\[{]++|[\]}]++")
_decode_json = msgspec.json.Decoder(str).decode


def of_json(message: str | bytes) -> Envelope:
    """Of a doubled name the last one counts, as for the decoder."""
    text = message if isinstance(message, str) else message.decode(errors="replace")
    found: Envelope = {}
    for name, literal in _strings(text):
        try:
            found[name] = _decode_json(literal)
        except (msgspec.DecodeError, UnicodeError):  # the fault is here
            found.pop(name, None)
    return found


def _strings(text: str) -> Iterator[tuple[str, str]]:
    """Name and value, still encoded, of what of the outermost map is a string and of use here."""
    begin = _BEGIN.match(text)
    place, steps = (begin.end(), 0) if begin is not None else (len(text), 0)
    while steps < MAX_STEPS and (key := _KEY.match(text, place)) is not None:
        value = _VALUE.match(text, key.end())
        if value is None:
            return
        steps, place = steps + 1, value.end()
        if value[0] in ("{", "["):
            steps, place = _past(text, place, steps)
        elif value[1] and key[1][1:-1] in _NAMES:
            yield key[1][1:-1], value[1]


def _past(text: str, place: int, steps: int) -> tuple[int, int]:
    """The steps taken by then, and the place, behind the end of a map or list whose first bracket has been read."""
    depth = 1
    while steps < MAX_STEPS:
        flat = _FLAT.match(text, place)
        brackets = _BRACKETS.match(text, flat.end() if flat is not None else place)
        if brackets is None:
            break
        steps, place = steps + 1, brackets.end()
        if brackets[0][0] in "{[":
            depth += len(brackets[0])
        elif (depth := depth - len(brackets[0])) <= 0:
            return steps, place + depth  # one bracket too many was the outermost map's
    return MAX_STEPS, len(text)


# MessagePack, by the first byte of each part: its whole length; or the bytes of its length, and the bytes beside that;
# or the bytes of its count, and the parts that it holds for each.
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
    """Of a doubled name the last one counts, as for the decoder."""
    found: Envelope = {}
    for raw_name, raw in _pairs(message):
        try:
            name = _decode_msgpack(raw_name) if len(raw_name) <= _LONGEST_NAME else ""
        except (msgspec.MsgspecError, UnicodeError):
            continue
        if name in _NAMES:
            try:
                found[name] = _decode_msgpack(raw)
            except (msgspec.MsgspecError, UnicodeError):  # the fault is here, or it is no string
                found.pop(name, None)
    return found


def _pairs(message: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and value, still encoded, of the outermost map, as far as they are whole."""
    if not message or message[0] not in _MAPS:
        return
    place, parts = _part(message, 0)
    steps = 0
    for _ in range(parts // 2):
        steps, middle = _past_part(message, place, steps)
        steps, end = _past_part(message, middle, steps)
        if end > len(message) or steps >= MAX_STEPS:
            return
        yield message[place:middle], message[middle:end]
        place = end


def _past_part(message: bytes, place: int, steps: int) -> tuple[int, int]:
    """The steps taken by then, and the place, behind one part and all that it holds; beyond the end if it is cut."""
    waiting = 1
    while waiting and steps < MAX_STEPS:
        if place >= len(message):
            return steps, len(message) + 1
        place, parts = _part(message, place)
        waiting, steps = waiting - 1 + parts, steps + 1
    return steps, place


def _part(message: bytes, place: int) -> tuple[int, int]:
    """The place behind a part's own bytes, and how many parts follow that it holds."""
    kind = message[place]
    if kind < 0x80 or kind >= 0xE0:
        return place + 1, 0
    if kind < 0xA0:
        return place + 1, (kind & 0x0F) * (2 if kind < 0x90 else 1)
    if kind < 0xC0:
        return place + 1 + (kind & 0x1F), 0
    if kind in _FIXED:
        return place + _FIXED[kind], 0
    width, per = _SIZED.get(kind) or _COUNTED[kind]
    number = int.from_bytes(message[place + 1 : place + 1 + width])
    if kind in _COUNTED:
        return place + 1 + width, number * per
    return place + 1 + width + per + number, 0
