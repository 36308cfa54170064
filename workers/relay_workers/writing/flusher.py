"""The flusher: drains a generation's events into the log, one append in flight, each exactly once.

Everything a generation writes goes through here in order: statuses, restart, batches, and at last the end. delivery.py
brings a write into the log when Redis fails. The provider's loop only ever adds; it never waits for Redis.

When Redis turns out to have lost what it had acknowledged, the generation is rebuilt there (rebuilding.py), and
whatever is missing is written again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

from relay import logging, metrics
from relay.protocol import events
from relay.protocol.events import State
from relay.protocol.words import Reason, RestartReason
from relay.store.session.replies import RebuildResult, WriteOutcome
from relay.store.session.session_log import SessionLog
from relay_workers.lease import Lease
from relay_workers.writing.attempt_buffer import AttemptBuffer
from relay_workers.writing.batching import Batch, Batcher, Kind, utf8_bytes
from relay_workers.writing.claimed import Claimed
from relay_workers.writing.delivery import Delivery, DeliveryLimits, Rejected
from relay_workers.writing.rebuilding import Rebuilder
from relay_workers.writing.writer import ControlEvent, EndWrite, RebuildWrite, Write, Writer

logger = logging.get_logger("flusher")


class OwnershipLost(Exception):
    """This worker may not write this generation any more; `why` is `stale` or `ended`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Diverged(Exception):
    """The provider's text differs from what the log has of this attempt."""


@dataclass(frozen=True, slots=True)
class FlushLimits:
    """`batch_size`: tokens. `batch_linger_ms`: how long a token waits for its batch. `patience`: with Redis."""

    batch_size: int
    batch_linger_ms: float
    patience: DeliveryLimits


class Flusher:
    """`run` returns when the end is written; it raises OwnershipLost when somebody else ended or took the generation.

    `resumes`: it goes on with the previous worker's attempt. Then the call is read again from its beginning, and what
    the log has is not written again. `rebuilding`: Redis has lost something, and does not have it back yet.
    """

    def __init__(
        self,
        claimed: Claimed,
        session_log: SessionLog,
        rebuilder: Rebuilder,
        lease: Lease,
        limits: FlushLimits,
        now_ms: Callable[[], float],
        *,
        resumes: bool = False,
    ) -> None:
        self.attempt = claimed.claim.attempt
        self.rebuilding = False
        self._lease = lease
        self._rebuilder = rebuilder
        self._buffer = AttemptBuffer(claimed.claim.progress if resumes else None)
        self._status: tuple[State, str | None] | None = None  # the attempt's last status
        # The reason of the attempt's restart; if we did not write that, the reason is the takeover.
        self._reason: RestartReason = "worker_lost"
        self._generation = claimed.generation
        self._writer = Writer(claimed, session_log, rebuilder)
        self._linger_ms = limits.batch_linger_ms
        self._batcher = Batcher(limits.batch_size, limits.batch_linger_ms, self.attempt)
        self._now_ms = now_ms
        self._controls: deque[ControlEvent] = deque()
        self._end_write: EndWrite | None = None
        self._waiting: asyncio.Future[None] | None = None  # while there is nothing to write yet
        self._alarm: asyncio.TimerHandle | None = None  # meanwhile: when the next batch is due
        self._logger = logger.bind(session=claimed.session, generation=claimed.generation)
        self._delivery = Delivery(self._writer, self._batcher, limits.patience, now_ms, self._logger)

    # Called by the generation; nothing here waits

    def status(self, state: State, detail: str | None = None) -> None:
        """Allowed only before the first token of an attempt: control events leave before pending tokens."""
        self._status = (state, detail)
        event = events.Status(self._generation, self.attempt, state, detail)
        self._control(ControlEvent("status", events.encode(event), state))

    def restart(self, reason: RestartReason) -> None:
        """Open the next attempt: everything written or pending is void."""
        self.attempt += 1
        self._status, self._reason = None, reason
        self._buffer = AttemptBuffer()
        self._batcher.begin(self.attempt)
        self._delivery.drop_pending()
        self._queue_restart()

    def token(self, kind: Kind, text: str) -> None:
        """The caller bounds the answer as a whole. Raises Overflow if the spill has no room; the token is not taken.

        Raises Diverged if the text differs from what the previous worker has written.
        """
        buffer = self._buffer
        if buffer.diverged:
            raise Diverged("another text")
        is_stored = buffer.count[kind] < buffer.stored[kind]
        if self._delivery.spilled and not is_stored:
            self._delivery.count_spilled(utf8_bytes(text))
        buffer.add(kind, text)
        if is_stored:
            self._batcher.skip(kind, [text])
            buffer.compare(self._batcher.crc32)
            return
        self._batcher.add(kind, text, self._now_ms())
        if self._waiting is not None:
            self._wake_when_due()

    def data(self, name: str, value: Any) -> int:
        """Add a data event among the tokens; returns its size in bytes. Raises as `token` does."""
        event = events.encode(events.Data(self._generation, self.attempt, name, value, self._buffer.count["tokens"]))
        self.token("data", event.decode())
        return len(event)

    @property
    def behind(self) -> bool:
        """Whether the provider has sent less than the previous worker has written, or something different."""
        return self._buffer.behind

    @property
    def shown(self) -> bool:
        """Whether the attempt has shown anything that another one would void."""
        return bool(self._buffer) or self.behind

    @property
    def wants_turn(self) -> bool:
        """Whether it would write something in its next turn; not while an append is in flight."""
        return self._waiting is not None and self._waiting.done()

    def end(self, reason: Reason, members: bytes, message_id: str = "") -> None:
        """Write the end, after everything that is pending."""
        self._end_write = EndWrite(reason, members, message_id)
        self._batcher.close()
        self._wake()

    def rebuild(self) -> None:
        """Redis has lost the generation, or a part of it: rebuild it before anything else is written."""
        self.rebuilding = True
        self._wake()

    @property
    def fence(self) -> int:
        """The fence under which it writes; a rebuild changes it."""
        return self._writer.fence

    @property
    def last_acked(self) -> int:
        """Number of the last append that was acknowledged."""
        return self._delivery.last_acked

    # The task

    async def run(self) -> None:
        """Raises OwnershipLost; Rejected, after dropping what was not written: then set another end and run again."""
        try:
            while True:
                write = await self._next()
                if await self._deliver(write) and isinstance(write, EndWrite):
                    return
        except Rejected:
            self._controls.clear()
            self._buffer.cut()
            self._batcher.begin(self.attempt)
            raise
        finally:
            self._delivery.close()

    async def _next(self) -> Write:
        while True:
            if self.rebuilding:
                await self._rebuilder.pause()
                self._delivery.reset()
                return RebuildWrite()
            if self._controls:
                return self._controls.popleft()
            if (batch := self._batcher.take(self._now_ms())) is not None:
                return batch
            if self._end_write is not None and not self._batcher.pending:
                return self._end_write._replace(stored=self._buffer.stored["tokens"])
            await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        """Wait until a batch is due or something other than a token was added."""
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        self._wake_when_due()
        try:
            await waiting
        finally:
            self._waiting = None
            self._silence_alarm()

    def _wake_when_due(self) -> None:
        """A token may have made a batch due, at once or later; most tokens only join a batch whose alarm is set."""
        due_ms = self._batcher.due_ms()
        if due_ms is None:
            return
        left_ms = due_ms - self._now_ms()
        if left_ms <= 0:
            self._wake()
        elif self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(left_ms / 1000, self._wake)

    def _silence_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _deliver(self, write: Write) -> bool:
        """Whether the log has all of it; False: the generation must be rebuilt first. Raises OwnershipLost."""
        self._delivery.begin(write)
        while self._delivery.unfinished:
            delivered = await self._delivery.next()
            match delivered.outcome:
                case RebuildResult() as rebuilt:
                    self._say_again(rebuilt)
                case WriteOutcome(what="written" | "repeated" as what):
                    if what == "written" and not isinstance(write, EndWrite):
                        self._lease.written(delivered.asked_s)
                    self._acknowledged(delivered.part)
                case WriteOutcome(what=what) if what == "ended" or isinstance(write, RebuildWrite):
                    raise OwnershipLost(what)
                case WriteOutcome():  # Redis has lost it, or somebody else has it: a rebuild finds out, and repairs it
                    self.rebuild()
                    return False
                case _ as unreachable:
                    assert_never(unreachable)
        return True

    def _acknowledged(self, part: Write) -> None:
        if isinstance(part, Batch):
            metrics.batches.inc()
            metrics.tokens.inc(len(part.texts) if part.kind != "data" else 0)
            if part.attempt == self.attempt:
                self._buffer.stored[part.kind] += len(part.texts)

    # After a rebuild

    def _say_again(self, rebuilt: RebuildResult) -> None:
        """Queue whatever the log lacks: the restart, the status, tokens."""
        self.rebuilding = False
        has_attempt = rebuilt.attempt == self.attempt
        self._buffer.rebuilt(rebuilt if has_attempt else None)
        self._controls.clear()
        if not has_attempt:
            self._queue_restart()
        if self._status is not None and not self._buffer:
            self.status(*self._status)
        self._say_tokens_again()
        if self._end_write is not None:
            self._batcher.close()
        metrics.rebuilds.inc()
        self._logger.warning("rebuilt", fence=self.fence, epoch=rebuilt.epoch, left=self._buffer.stored["tokens"])

    def _say_tokens_again(self) -> None:
        self._batcher.begin(self.attempt)
        runs = list(self._buffer.split())
        for kind, known, _ in runs:
            self._batcher.skip(kind, known)
        self._buffer.compare(self._batcher.crc32)
        if self._buffer.diverged:
            return  # our tokens must not follow another text
        waited_ms = self._now_ms() - self._linger_ms  # so that they leave at once, in as few batches as possible
        for kind, _, missing in runs:
            for text in missing:
                self._batcher.add(kind, text, waited_ms)

    def _queue_restart(self) -> None:
        event = events.Restart(self._generation, self.attempt, self._reason)
        self._control(ControlEvent("restart", events.encode(event), attempt=self.attempt))

    def _control(self, control: ControlEvent) -> None:
        self._controls.append(control)
        self._wake()
