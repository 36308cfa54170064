"""Snapshots: what a session holds, read as a whole. What is read together does not change any more, or is one
answer's state at one moment. Every method raises StorageError.
"""

from __future__ import annotations

from typing import Any

import msgspec

from relay.log.connect import AnyRedis, call
from relay.log.keys import Keys
from relay.log.scripts import read


class Snapshots:
    """Of the sessions under one prefix."""

    def __init__(self, redis: AnyRedis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def generation(self, session: str, generation: str) -> dict[str, Any] | None:
        """One generation as in the snapshot; None if there is none."""
        found = await self.generations(session, [generation])
        return found[0] if found else None

    async def generations(self, session: str, wanted: list[str]) -> list[dict[str, Any]]:
        """These generations as in the snapshot; those that do not exist are left out."""
        found = []
        for name in wanted:  # one at a time: each may hold max_answer_bytes of text
            fields, text, reasoning, data = await read(
                self._redis,
                ("HGETALL", self._keys.generation(session, name)),
                ("GET", self._keys.generation(session, name, "text")),
                ("GET", self._keys.generation(session, name, "reasoning")),
                ("LRANGE", self._keys.generation(session, name, "data"), "0", "-1"),
            )
            if fields:
                stored = {key.decode(): value for key, value in zip(fields[::2], fields[1::2], strict=True)}
                found.append(_snapshot(name, stored, text or b"", reasoning or b"", data))
        return found

    async def turns(self, session: str, completed: list[str]) -> list[dict[str, Any]]:
        """The user's turn and the answer of each of these completed generations, in their order."""
        turns: list[dict[str, Any]] = []
        for name in completed:
            key = self._keys.generation(session, name)
            (message_id, content, answer_id), text = await read(
                self._redis,
                ("HMGET", key, "message_id", "content", "answer_id"),
                ("GET", self._keys.generation(session, name, "text")),
            )
            if message_id is None:
                continue  # forgotten meanwhile
            turns += [
                {"message_id": message_id.decode(), "role": "user", "content": content.decode(), "generation": name},
                {
                    "message_id": answer_id.decode() if answer_id else None,
                    "role": "assistant",
                    "content": (text or b"").decode(),
                    "generation": name,
                },
            ]
        return turns

    async def newest(self, session: str, name: str, limit: int) -> list[str]:
        """The newest `limit` ids of `generations` (in order of submit) or `transcript` (in order of completion)."""
        key = self._keys.session(session, name)
        verb = "LRANGE" if name == "transcript" else "ZRANGE"
        found = await call(self._redis, verb, key, -limit, -1)
        return [item.decode() for item in found]


def _question(stored: dict[str, bytes]) -> dict[str, str] | None:
    """None where Redis has lost it, and the answer with it."""
    if "message_id" not in stored:
        return None
    return {"message_id": stored["message_id"].decode(), "content": stored["content"].decode()}


def _data(stored: dict[str, bytes], data: list[bytes]) -> list[dict[str, Any]] | None:
    """In order; `text_bytes`: of the text before each. None: not all of it is here, as an earlier release wrote it."""
    count = int(stored.get("data", 0))
    if count != len(data):
        return None if count else []
    return [_one_of_data(*one.split(b" ", 1)) for one in data]


def _one_of_data(text_bytes: bytes, body: bytes) -> dict[str, Any]:
    event = msgspec.json.decode(body)
    return {"name": event["name"], "value": event["value"], "at": event.get("at"), "text_bytes": int(text_bytes)}


def _snapshot(name: str, stored: dict[str, bytes], text: bytes, reasoning: bytes, data: list[bytes]) -> dict[str, Any]:
    end = msgspec.json.decode(stored["end"]) if "end" in stored else {}
    end.pop("type", None)
    metadata = msgspec.json.decode(stored["metadata"]) if "metadata" in stored else None
    return {
        "generation": name,
        "attempt": int(stored["attempt"]),
        "state": stored["state"].decode(),
        "message": _question(stored),
        "text": text.decode(),
        "reasoning": reasoning.decode(),
        "data": _data(stored, data),
        "metadata": metadata,
        **({"retry_of": stored["retry_of"].decode()} if "retry_of" in stored else {}),
        **end,
    }
