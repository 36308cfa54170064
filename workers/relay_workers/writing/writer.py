"""One generation's hand on the log: each write is one call there, under the fence that this worker holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, assert_never

from relay.protocol import events
from relay.store.session.replies import Outcome, Rebuilt
from relay.store.session.session_log import SessionLog
from relay_workers.writing.batching import Batch
from relay_workers.writing.delivery import Control, Finale, Rebuild, Write

MAX_EPOCHS = 16


class Place(NamedTuple):
    """Where the log stood when it last acknowledged something of this generation; the epochs so far, newest last."""

    epochs: tuple[str, ...]
    seq: int

    def moved(self, epoch: str, seq: int) -> Place:
        known = epoch in self.epochs
        return Place(self.epochs if known else (*self.epochs, epoch)[-MAX_EPOCHS:], seq)


Restore = Callable[[int, Place], Awaitable[Rebuilt | Outcome]]


class Writer:
    """`fence` and `place` follow from what the log answers. Raises StorageError; does not try twice."""

    def __init__(
        self,
        session_log: SessionLog,
        session: str,
        generation: str,
        fence: int,
        place: Place,
        restore: Restore,
        lease_ms: int,
    ) -> None:
        self.fence = fence
        self._place = place
        self._log = session_log
        self._session, self._generation = session, generation
        self._restore = restore
        self._lease_ms = lease_ms

    async def write(self, write: Write, n: int, stored: int) -> Outcome | Rebuilt:
        """`n`: its number, one more than the last that was acknowledged; `stored`: the attempt's tokens until then."""
        outcome: Outcome | Rebuilt
        match write:
            case Batch():
                outcome = await self._batch(write, n)
            case Control():
                outcome = await self._append(n, write.kind, write.body, index=write.attempt, text=write.text)
            case Finale():
                outcome = await self._end(write, n - 1, stored)
            case Rebuild():
                outcome = await self._restore(self.fence, self._place)
            case _:
                assert_never(write)
        match outcome:
            case Rebuilt():
                self.fence, self._place = outcome.fence, self._place.moved(outcome.epoch, outcome.head)
            case Outcome(epoch=epoch, seq=seq) if epoch:
                self._place = self._place.moved(epoch, seq)
            case Outcome():
                pass  # nothing is written
        return outcome

    async def _batch(self, batch: Batch, n: int) -> Outcome:
        if batch.kind == "data":
            return await self._append(n, "data", batch.text.encode(), index=batch.index, count=1)
        event = events.Tokens if batch.kind == "tokens" else events.Reasoning
        count, text = len(batch.texts), batch.text
        return await self._append(
            n,
            batch.kind,
            events.encode(event(self._generation, batch.attempt, batch.index, count, text)),
            index=batch.index,
            count=count,
            text=text,
            text_bytes=batch.after.text_bytes,
            crc32=batch.after.crc32,
        )

    async def _append(self, n: int, kind: str, body: bytes, **fields: Any) -> Outcome:
        session, generation = self._session, self._generation
        return await self._log.append(session, generation, self.fence, n, self._lease_ms, kind, body, **fields)

    async def _end(self, finale: Finale, done: int, stored: int) -> Outcome:
        return await self._log.end(
            self._session,
            self._generation,
            self.fence,
            finale.reason,
            finale.members,
            stored,
            finale.message_id,
            done,
        )
