"""Snapshots: what a session holds as of one moment. Every method raises StorageError.

Ended generations do not change any more. A running one may have grown by the time it is read: as an attempt only grows,
it is cut back to that moment. A generation that was lost at that moment and has come back since is left out. Only a new
attempt, a new epoch or another loss voids this; then everything is read again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from relay.errors import StorageError
from relay.redis.connections import AnyRedis, call
from relay.store.keys import Keys
from relay.store.scripts import read_atomically
from relay.store.session.replies import Moment, Running

_TRIES = 5


class _Moved(Exception):
    """The state of that moment cannot be read any more."""


class Snapshots:
    """Of the sessions under one prefix. `moment` returns what a session holds now."""

    def __init__(
        self, redis: AnyRedis, keys: Keys, moment: Callable[[str, int, str | None], Awaitable[Moment | None]]
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._moment = moment

    async def session(self, session: str, limit: int, sub: str | None = None) -> dict[str, Any] | None:
        """The newest `limit` of each list, as of its `head`; None if there is no such session, or none of `sub`.

        Within an epoch the owner of what a session holds does not change.
        """
        for _ in range(_TRIES):
            moment = await self._moment(session, limit, sub)
            if moment is None:
                return None
            try:
                return await self._at(session, limit, moment)
            except _Moved:
                continue
        raise StorageError("snapshot: the session changed each time it was read")

    async def generation(self, session: str, generation: str, sub: str | None = None) -> dict[str, Any] | None:
        """One generation as in the snapshot, as of now; None if there is none, or the session is not that of `sub`."""
        stored = await self._stored(session, generation)
        if stored is None or (sub is not None and stored.sub != sub.encode()):
            return None
        return _snapshot(generation, stored)

    async def turns(self, session: str, completed: list[str], head: int | None = None) -> list[dict[str, Any]]:
        """The user's turn and the answer of each of these completed generations, in this order.

        `head`: leave out those whose `end` comes after it.
        """
        turns: list[dict[str, Any]] = []
        for name in completed:
            key = self._keys.generation(session, name)
            (message_id, content, answer_id, last), text = await read_atomically(
                self._redis,
                ("HMGET", key, "message_id", "content", "answer_id", "last"),
                ("GET", self._keys.generation(session, name, "text")),
            )
            if message_id is None or (head is not None and not _ended_by(last, head)):
                continue  # forgotten meanwhile; or lost, and coming back
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
        generations = [await self._as_of(session, name, moment) for name in moment.generations]
        turns = await self.turns(session, moment.completed, moment.head)
        epoch, head = await call(self._redis, "HMGET", self._keys.session(session), "epoch", "seq")
        if epoch is None or epoch.decode() != moment.epoch or int(head) < moment.head:
            raise _Moved
        return {
            "session": session,
            "epoch": moment.epoch,
            "head": moment.head,
            "messages": turns[-limit:],
            "generations": [found for found in generations if found is not None],
        }

    async def _as_of(self, session: str, name: str, moment: Moment) -> dict[str, Any] | None:
        """One generation as of that moment; None if it did not exist then, or is forgotten. Raises _Moved."""
        stored = await self._stored(session, name)  # one at a time: each may hold max_answer_bytes
        if stored is None:
            return None
        if (running := moment.running.get(name)) is not None:
            return _snapshot(name, stored.cut(running))
        return _snapshot(name, stored) if _ended_by(stored.fields.get("last"), moment.head) else None

    async def _stored(self, session: str, name: str) -> _Stored | None:
        fields, text, reasoning, data, sub = await read_atomically(
            self._redis,
            ("HGETALL", self._keys.generation(session, name)),
            ("GET", self._keys.generation(session, name, "text")),
            ("GET", self._keys.generation(session, name, "reasoning")),
            ("LRANGE", self._keys.generation(session, name, "data"), "0", "-1"),
            ("HGET", self._keys.session(session), "sub"),
        )
        if not fields:
            return None
        named = {key.decode(): value for key, value in zip(fields[::2], fields[1::2], strict=True)}
        return _Stored(named, text or b"", reasoning or b"", data, sub)


class _Stored(NamedTuple):
    """What Redis holds of one generation. `sub`: the session's owner; None: nobody, or the session is lost."""

    fields: dict[str, bytes]
    text: bytes
    reasoning: bytes
    data: list[bytes]
    sub: bytes | None

    def cut(self, running: Running) -> _Stored:
        """What it held when it was as far as `running`. Raises _Moved."""
        if int(self.fields["attempt"]) != running.attempt or len(self.text) < running.text_bytes:
            raise _Moved
        fields = self.fields | {"state": running.state.encode(), "data": b"%d" % running.data}
        fields.pop("end", None)
        text, reasoning = self.text[: running.text_bytes], self.reasoning[: running.reasoning_bytes]
        return _Stored(fields, text, reasoning, self.data[: running.data], self.sub)


def _ended_by(last: bytes | None, head: int) -> bool:
    return last is not None and int(last) <= head


def _question(fields: dict[str, bytes]) -> dict[str, str] | None:
    """None if Redis has lost it, and the answer with it."""
    if "message_id" not in fields:
        return None
    return {"message_id": fields["message_id"].decode(), "content": fields["content"].decode()}


def _data(stored: _Stored) -> list[dict[str, Any]] | None:
    """In order; `text_bytes`: of the text before each. None: an earlier release wrote it, and some is missing."""
    count = int(stored.fields.get("data", 0))
    if count != len(stored.data):
        return None if count else []
    return [_one_of_data(*one.split(b" ", 1)) for one in stored.data]


def _one_of_data(text_bytes: bytes, body: bytes) -> dict[str, Any]:
    event = msgspec.json.decode(body)
    return {"name": event["name"], "value": event["value"], "at": event.get("at"), "text_bytes": int(text_bytes)}


def _snapshot(name: str, stored: _Stored) -> dict[str, Any]:
    fields = stored.fields
    end = msgspec.json.decode(fields["end"]) if "end" in fields else {}
    end.pop("type", None)
    metadata = msgspec.json.decode(fields["metadata"]) if "metadata" in fields else None
    return {
        "generation": name,
        "attempt": int(fields["attempt"]),
        "state": fields["state"].decode(),
        "message": _question(fields),
        "text": stored.text.decode(),
        "reasoning": stored.reasoning.decode(),
        "data": _data(stored),
        "metadata": metadata,
        **({"retry_of": fields["retry_of"].decode()} if "retry_of" in fields else {}),
        **end,
    }
