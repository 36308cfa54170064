"""What is stored, described by looking at it: every script is run once, and every key that there is then is read.

    python -m tests.store.stored     adds to shapes.json the shapes of versions that it does not have yet

Values are told by their form: `N` is a number, words in capitals are ids and texts, all else stands there as it is.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from relay.protocol.words import PRIORITIES
from relay.store import shapes
from relay.store.jobs import Job
from relay.store.queue.worker_registry import Offer
from tests.store.every_script import KEYS, SESSION, run_every_script
from tests.store.in_memory import Clock, redis_in_memory

Shape = Any  # of JSON: a word, a list of forms, or fields and theirs
GOLDEN = Path(__file__).with_name("shapes.json")

_KIND = {"g": "state", "t": "text", "r": "reasoning", "d": "data"}
_JSON = {str: "text", bool: "boolean", int: "N", float: "N", type(None): "null", list: "list"}
_OBJECTS = {"jobs": "job", "letters": "job", "offers": "offer"}
_FIELDS_ARE_IDS = {"requests", "jobs", "entries", "letters"}
_NOT_STORED = {"as_it_came"}


class Seen:
    """What there was of each shape, at whatever moment it was looked at."""

    def __init__(self, redis: Redis) -> None:
        self.shapes: dict[str, Shape] = {"job": _described(Job), "offer": _described(Offer)}
        self._redis: Any = redis  # its stubs allow for text where we have bytes
        self._epochs: set[str] = set()

    async def look(self) -> None:
        epoch = await self._redis.hget(KEYS.session(SESSION), "epoch")
        self._epochs |= {epoch.decode()} if epoch else set()
        for name in await self._redis.keys("*"):
            kind = _kind_of(name.decode())
            self._add(kind, await self._content(kind, name))

    def message(self, channel: str, payload: bytes) -> None:
        kind = "worker" if channel.startswith(KEYS.worker("")) else "events"
        self._add(kind, {"key": _general(channel), "type": "channel", "messages": [self._form(payload.decode())]})

    async def _content(self, kind: str, name: bytes) -> Shape:
        found = (await self._redis.type(name)).decode()
        return {"key": _general(name.decode()), "type": found, **await self._values_of(found, kind, name)}

    async def _values_of(self, found: str, kind: str, name: bytes) -> dict[str, Shape]:
        redis = self._redis
        if found == "hash":
            pairs = (await redis.hgetall(name)).items()
            return {"fields": dict(self._pair(kind, *pair) for pair in pairs)}
        if found == "stream":
            entries = await redis.xrange(name)
            fields: Shape = {}
            for _, entry in entries:
                fields = _merged(fields, dict(self._pair(kind, *pair) for pair in entry.items()))
            return {"ids": _all(self._form(i.decode()) for i, _ in entries), "fields": fields}
        if found == "zset":
            return {"members": self._values(kind, await redis.zrange(name, 0, -1))}
        if found == "list":
            return {"items": self._values(kind, await redis.lrange(name, 0, -1))}
        return {"value": self._values(kind, [await redis.get(name)])}

    def _pair(self, kind: str, field: bytes, value: bytes) -> tuple[str, Shape]:
        name = field.decode()
        if kind in _FIELDS_ARE_IDS or name.startswith("question "):
            name = self._form(name)
        if name == "v":
            return name, [value.decode()]
        return name, self._value(kind, value)

    def _values(self, kind: str, values: Iterable[bytes]) -> Shape:
        found: Shape = []
        for value in values:
            found = _merged(found, self._value(kind, value))
        return found

    def _value(self, kind: str, value: bytes) -> Shape:
        text = value.decode()
        if kind == "tickets":  # random
            return [f"{len(text)} characters of base64"]
        if kind == "policy":
            version, _, rest = text.partition(" ")
            return [f"{version} {self._form(rest)}"]
        if not text.startswith("{"):
            return [self._form(line) for line in text.splitlines() or [text]]
        if kind in _OBJECTS:
            return [f"{_OBJECTS[kind]}, as JSON"]
        decoded = json.loads(text)
        return {decoded["type"]: _members(decoded)} if "type" in decoded else _members(decoded)

    def _form(self, text: str) -> str:
        text, *body = text.split("{", 1)  # as in a generation's data: what stands before the event
        for epoch in self._epochs:
            text = text.replace(epoch, "EPOCH")
        return _general(text) + ("EVENT" if body else "")

    def _add(self, kind: str, shape: Shape) -> None:
        self.shapes[kind] = _merged(self.shapes[kind], shape) if kind in self.shapes else shape


async def stored(redis: Redis) -> dict[str, Shape]:
    """Every shape that this release stores or says, by its name in shapes.py."""
    seen = Seen(redis)
    async with redis.pubsub() as heard:
        await heard.psubscribe("*")
        await run_every_script(redis, seen.look)
        while (message := await heard.get_message(timeout=0)) is not None:
            if message["type"] == "pmessage" and not message["channel"].startswith(b"__"):  # fakeredis' own
                seen.message(message["channel"].decode(), message["data"])
    return {name: _short(shape) for name, shape in seen.shapes.items()}


def _kind_of(key: str) -> str:
    prefix, _, rest = key.removeprefix("t:").partition("}:")
    if not rest:
        return prefix
    name, _, generation = rest.partition(":")
    return _KIND[name] if generation else "priority" if name in PRIORITIES else name


def _general(text: str) -> str:
    text = re.sub(rf"\b({'|'.join(PRIORITIES)})\b", "PRIORITY", re.sub(r"^t:", "PREFIX:", text))
    return re.sub(r"\d+", "N", re.sub(r"([A-Z])\d+", r"\1", text))


def _members(decoded: dict[str, Any]) -> Shape:
    return {
        name: _members(value) if isinstance(value, dict) else _JSON[type(value)]
        for name, value in decoded.items()
        if name != "type"
    }


def _all(forms: Iterable[str]) -> list[str]:
    return sorted(set(forms))


def _merged(one: Shape, other: Shape) -> Shape:
    """Of two looks at the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(one.keys() | other.keys())
        return {name: _merged(one.get(name, other.get(name)), other.get(name, one.get(name))) for name in names}
    if isinstance(one, list) and isinstance(other, list):
        return _all(one + other)
    if one == [] or other == []:
        return one or other
    assert one == other, f"{one} and {other}: the same name for two shapes"
    return one


def _described(struct: type[msgspec.Struct]) -> Shape:
    """Its fields: each with its type, and with what it is where it is absent."""
    fields: Shape = {}
    for field in msgspec.structs.fields(struct):
        if field.encode_name not in _NOT_STORED:
            told = _type(msgspec.inspect.type_info(field.type))
            fields[field.encode_name] = told if field.required else _with(told, f"= {json.dumps(field.default)}")
    return fields


def _type(info: msgspec.inspect.Type) -> Shape:
    match info:
        case msgspec.inspect.UnionType():
            one, *others = (_type(one) for one in info.types)
            return _with(one, f"or {' or '.join(others)}")
        case msgspec.inspect.ListType():
            return {"list of": _type(info.item_type)}
        case msgspec.inspect.LiteralType():
            return [json.dumps(value) for value in info.values]  # there may be more words one day
        case msgspec.inspect.StructType():
            return _described(info.cls)
        case _:
            return type(info).__name__.removesuffix("Type").lower()


def _with(shape: Shape, more: str) -> Shape:
    if isinstance(shape, dict):
        return {**shape, "": f"{shape.get('', '')} {more}".strip()}
    return [*shape, more] if isinstance(shape, list) else f"{shape} {more}"


def _short(shape: Shape) -> Shape:
    """For the file: one form is no list."""
    if isinstance(shape, dict):
        return {name: _short(one) for name, one in shape.items()}
    return shape[0] if isinstance(shape, list) and len(shape) == 1 else shape


def read_golden() -> dict[str, dict[str, Shape]]:
    found: dict[str, dict[str, Shape]] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    return found


def main() -> None:
    async def look() -> dict[str, Shape]:
        async with redis_in_memory() as redis:
            return await stored(redis)

    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        clock.install(patch)
        found = asyncio.run(look())
    golden = read_golden()
    for name, version in shapes.VERSIONS.items():
        golden.setdefault(name, {}).setdefault(str(version), found[name])
    GOLDEN.write_text(json.dumps(golden, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
