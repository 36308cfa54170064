"""Snapshots: what a session holds, read as a whole and as of one moment. Every method raises StorageError.

What has ended does not change any more. What was under way may have gone on by the time it is read: as an attempt only
grows, the part of that moment is cut out of it. Only a new attempt or a new epoch voids that, and all is read again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from relay.errors import StorageError
from relay.log.connect import AnyRedis, call
from relay.log.keys import Keys
from relay.log.replies import Moment, Running
from relay.log.scripts import read

_TRIES = 5


class _Moved(Exception):
    """What belongs to the moment is not there any more."""


class Snapshots:
    """Of the sessions under one prefix. `moment` tells what one holds now."""

    def __init__(self, redis: AnyRedis, keys: Keys, moment: Callable[[str, int], Awaitable[Moment | None]]) -> None:
        self._redis = redis
        self._keys = keys
        self._moment = moment

    async def session(self, session: str, limit: int) -> dict[str, Any] | None:
        """The newest `limit` of each list, as its log says up to `head`; None if there is no such session."""
        for _ in range(_TRIES):
            moment = await self._moment(session, limit)
            if moment is None:
                return None
            try:
                return await self._at(session, limit, moment)
            except _Moved:
                continue
        raise StorageError("snapshot: the session began anew each time that it was read")

    async def generation(self, session: str, generation: str) -> dict[str, Any] | None:
        """One generation as in the snapshot, as of now; None if there is none."""
        return await self._generation(session, generation, None)

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

    async def _at(self, session: str, limit: int, moment: Moment) -> dict[str, Any]:
        """Raises _Moved."""
        generations = [
            await self._generation(session, name, moment.running.get(name)) for name in moment.generations
        ]  # one at a time: each may hold max_answer_bytes
        turns = await self.turns(session, moment.completed)
        epoch = await call(self._redis, "HGET", self._keys.session(session), "epoch")
        if epoch is None or epoch.decode() != moment.epoch:
            raise _Moved
        return {
            "session": session,
            "epoch": moment.epoch,
            "head": moment.head,
            "messages": turns[-limit:],
            "generations": [found for found in generations if found is not None],
        }

    async def _generation(self, session: str, name: str, running: Running | None) -> dict[str, Any] | None:
        """As it is, or as it was when it was `running`; None if there is none. Raises _Moved."""
        fields, text, reasoning, data = await read(
            self._redis,
            ("HGETALL", self._keys.generation(session, name)),
            ("GET", self._keys.generation(session, name, "text")),
            ("GET", self._keys.generation(session, name, "reasoning")),
            ("LRANGE", self._keys.generation(session, name, "data"), "0", "-1"),
        )
        if not fields:
            return None
        stored = {key.decode(): value for key, value in zip(fields[::2], fields[1::2], strict=True)}
        text, reasoning = text or b"", reasoning or b""
        if running is not None:
            if int(stored["attempt"]) != running.attempt:
                raise _Moved
            stored = _then(stored, running)
            text, reasoning = text[: running.text_bytes], reasoning[: running.reasoning_bytes]
            data = data[: running.data]
        return _snapshot(name, stored, text, reasoning, data)


def _then(stored: dict[str, bytes], running: Running) -> dict[str, bytes]:
    """What was stored of an answer while it was under way."""
    stored = stored | {"state": running.state.encode(), "data": b"%d" % running.data}
    stored.pop("end", None)
    return stored


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
