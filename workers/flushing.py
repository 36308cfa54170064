"""The flusher: drains a generation's events into the log, one append in flight, each exactly once.

Everything a generation writes goes through here in order: statuses, restart, batches, and at last the end. How a
write reaches the log when Redis fails is delivery.py's. The provider's loop only ever adds; it never waits for Redis.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from relay import logging, metrics
from relay.log.session_log import Outcome, SessionLog
from relay.protocol import events
from relay.protocol.events import State
from relay.protocol.words import Reason
from workers.batching import Batch, Batcher, Kind
from workers.delivery import Control, Delivery, Finale, Patience, Rejected, Write

log = logging.get("flusher")


class LetGo(Exception):
    """This worker may not write this generation any more; `why` is `stale`, `ended`, `unknown` or `behind`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Flusher:
    """`run` returns when the end is written; it raises LetGo when somebody else ended or took the generation.

    `said` is the attempt's every token, written or not, until the end is: what lost text can be rebuilt from.
    """

    def __init__(
        self,
        session_log: SessionLog,
        session: str,
        generation: str,
        fence: int,
        attempt: int,
        *,
        lease_ms: int,
        batch_size: int,
        batch_linger_ms: float,
        patience: Patience,
        now_ms: Callable[[], float],
    ) -> None:
        self.attempt = attempt
        self.said: dict[Kind, list[str]] = {"tokens": [], "reasoning": []}
        self._log = session_log
        self._session, self._generation, self._fence = session, generation, fence
        self._lease_ms = lease_ms
        self._rule = (batch_size, batch_linger_ms)
        self._batcher = Batcher(*self._rule, attempt)
        self._now_ms = now_ms
        self._controls: deque[Control] = deque()
        self._finale: Finale | None = None
        self._stirred = asyncio.Event()
        self._stored = 0  # tokens of the attempt that the log has acknowledged
        self._delivery = Delivery(
            self._send,
            patience,
            pending_bytes=lambda: self._batcher.pending_bytes,
            now_ms=now_ms,
            log=log.bind(session=session, generation=generation),
        )

    # What the generation says; none of it waits

    def status(self, state: State, detail: str | None = None) -> None:
        """Only before the first token of an attempt: controls leave before what is pending."""
        event = events.Status(self._generation, self.attempt, state, detail)
        self._control(Control("status", events.encode(event), state))

    def restart(self, reason: str) -> None:
        """Open the next attempt: what was written, and what is pending, is void."""
        self.attempt += 1
        self.said = {"tokens": [], "reasoning": []}
        self._stored = 0
        self._batcher = Batcher(*self._rule, self.attempt)
        self._delivery.void()
        event = events.Restart(self._generation, self.attempt, reason)
        self._control(Control("restart", events.encode(event), attempt=self.attempt))

    def token(self, kind: Kind, text: str) -> None:
        """The caller bounds the answer as a whole. Raises Overflow if the spill has no room; then it was not taken."""
        if self._delivery.spilled:
            self._delivery.hold(len(text.encode()))
        self.said[kind].append(text)
        self._batcher.add(kind, text, self._now_ms())
        self._stirred.set()

    def due(self) -> bool:
        """Whether a batch waits that could leave now."""
        due_ms = self._batcher.due_ms()
        return due_ms is not None and due_ms <= self._now_ms()

    def end(self, reason: Reason, members: bytes, message_id: str = "") -> None:
        """The last word; what is pending goes before it."""
        self._finale = Finale(reason, members, message_id)
        self._batcher.close()
        self._stirred.set()

    # The task

    async def run(self) -> None:
        """Raises LetGo; Rejected, once what was not written is dropped: then say another end, and run again."""
        try:
            while True:
                write = await self._next()
                await self._delivery.deliver(write)
                if isinstance(write, Finale):
                    return
        except Rejected:
            self._controls.clear()
            self._batcher = Batcher(*self._rule, self.attempt)
            raise
        finally:
            self._delivery.close()

    async def _next(self) -> Write:
        while True:
            if self._controls:
                return self._controls.popleft()
            if (batch := self._batcher.take(self._now_ms())) is not None:
                return batch
            if self._finale is not None and not self._batcher.pending:
                return self._finale
            await self._rest()

    async def _rest(self) -> None:
        """Until a batch is due or something was added."""
        due_ms = self._batcher.due_ms()
        self._stirred.clear()
        try:
            async with asyncio.timeout(None if due_ms is None else max(0.0, due_ms - self._now_ms()) / 1000):
                await self._stirred.wait()
        except TimeoutError:
            pass  # the batch is due

    # One try of one write

    async def _send(self, write: Write, n: int) -> None:
        match write:
            case Batch():
                outcome = await self._send_batch(write, n)
            case Control():
                outcome = await self._append(n, write.kind, write.body, index=write.attempt, text=write.text)
            case Finale():
                outcome = await self._send_end(write)
        if outcome.what not in ("written", "repeated"):
            raise LetGo(outcome.what)
        self._acknowledged(write)

    async def _send_batch(self, batch: Batch, n: int) -> Outcome:
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

    async def _append(
        self,
        n: int,
        kind: str,
        body: bytes,
        *,
        index: int = 0,
        count: int = 0,
        text: str = "",
        text_bytes: int = 0,
        crc32: int = 0,
    ) -> Outcome:
        return await self._log.append(
            self._session,
            self._generation,
            self._fence,
            n,
            self._lease_ms,
            kind,
            body,
            index=index,
            count=count,
            text=text,
            text_bytes=text_bytes,
            crc32=crc32,
        )

    async def _send_end(self, finale: Finale) -> Outcome:
        return await self._log.end(
            self._session,
            self._generation,
            self._fence,
            finale.reason,
            finale.members,
            self._stored,
            finale.message_id,
        )

    def _acknowledged(self, write: Write) -> None:
        if isinstance(write, Batch):
            metrics.batches.inc()
            metrics.tokens.inc(len(write.texts))
            if write.kind == "tokens" and write.attempt == self.attempt:
                self._stored += len(write.texts)

    def _control(self, control: Control) -> None:
        self._controls.append(control)
        self._stirred.set()
