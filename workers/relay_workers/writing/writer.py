"""The writes of one generation: each is one call to the session log, under the fence that this worker holds."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NamedTuple, assert_never

from relay.protocol import events
from relay.protocol.words import Reason
from relay.store.session.replies import RebuildResult, WriteOutcome
from relay.store.session.session_log import Append, SessionLog
from relay_workers.writing.batching import Batch
from relay_workers.writing.claimed import Claimed
from relay_workers.writing.rebuilding import Rebuilder

MAX_EPOCHS = 16


class ControlEvent(NamedTuple):
    """An event between batches. `attempt`: the new attempt, if it is a restart."""

    kind: str
    body: bytes
    text: str = ""
    attempt: int = 0


class EndWrite(NamedTuple):
    """The generation's end: its reason, the event's further members, the answer's id if it is complete.

    `stored`: how many of the attempt's tokens are in the log.
    """

    reason: Reason
    members: bytes
    message_id: str
    stored: int = 0


class RebuildWrite(NamedTuple):
    """Make the generation again after Redis has lost it; appends then count from 1 again."""


Write = Batch | ControlEvent | EndWrite | RebuildWrite


class LogPosition(NamedTuple):
    """The log's seq when it last acknowledged a write of this generation, and the epochs so far, newest last."""

    epochs: tuple[str, ...]
    seq: int

    def advanced(self, epoch: str, seq: int) -> LogPosition:
        known = epoch in self.epochs
        return LogPosition(self.epochs if known else (*self.epochs, epoch)[-MAX_EPOCHS:], seq)


class Writer:
    """Tracks the fence and the log position from the log's answers. Raises StorageError; never retries."""

    def __init__(self, claimed: Claimed, session_log: SessionLog, rebuilder: Rebuilder) -> None:
        self.fence = claimed.claim.fence
        self._position = LogPosition((claimed.claim.epoch,), claimed.claim.head)
        self._session, self._generation, self._lease_ms = claimed.session, claimed.generation, claimed.lease_ms
        self._session_log = session_log
        self._rebuilder = rebuilder

    async def write(self, write: Write, n: int) -> WriteOutcome | RebuildResult:
        """`n`: its number, one more than that of the last acknowledged write."""
        outcome: WriteOutcome | RebuildResult
        match write:
            case Batch():
                outcome = await self._batch(write, n)
            case ControlEvent():
                outcome = await self._append(n, Append(write.kind, write.body, index=write.attempt, text=write.text))
            case EndWrite():
                outcome = await self._end(write, n - 1)
            case RebuildWrite():
                outcome = await self._rebuilder.rebuild(self.fence, self._position.epochs, self._position.seq)
            case _:
                assert_never(write)
        match outcome:
            case RebuildResult():
                self.fence, self._position = outcome.fence, self._position.advanced(outcome.epoch, outcome.head)
            case WriteOutcome(epoch=epoch, seq=seq) if epoch:
                self._position = self._position.advanced(epoch, seq)
            case WriteOutcome():
                pass  # nothing is written
        return outcome

    def _batch(self, batch: Batch, n: int) -> Awaitable[WriteOutcome]:
        if batch.kind == "data":
            return self._append(n, Append("data", batch.text.encode(), batch.index, count=1))
        event = events.Tokens if batch.kind == "tokens" else events.Reasoning
        count, text = len(batch.texts), batch.text
        body = events.encode(event(self._generation, batch.attempt, batch.index, count, text))
        return self._append(n, Append(batch.kind, body, batch.index, count, text, *batch.after))

    def _append(self, n: int, event: Append) -> Awaitable[WriteOutcome]:
        return self._session_log.append(self._session, self._generation, self.fence, n, self._lease_ms, event)

    async def _end(self, end_write: EndWrite, done: int) -> WriteOutcome:
        return await self._session_log.end(
            self._session,
            self._generation,
            self.fence,
            end_write.reason,
            end_write.members,
            end_write.stored,
            end_write.message_id,
            done,
        )
