"""The flusher: drains a generation's events into the log, one append in flight, each exactly once.

Everything a generation writes goes through here in order: statuses, restart, batches, and at last the end. An append
that fails is tried again under the same number, which the script answers as it did if it had landed. The provider's
loop only ever adds; it never waits for Redis.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from relay import logging, metrics
from relay.errors import StorageError
from relay.log.session_log import Outcome, SessionLog
from relay.protocol import events
from relay.protocol.events import State
from relay.protocol.words import Reason
from workers.batching import Batch, Batcher, Kind

RETRY_AFTER_MS = (100, 200, 400)
RETRY_MAX_MS = 1000

log = logging.get("flusher")


class LetGo(Exception):
    """This worker may not write this generation any more; `why` is `stale`, `ended`, `unknown` or `behind`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Finale(NamedTuple):
    """The generation's end: its reason, the event's further members, the answer's id where it is complete."""

    reason: Reason
    members: bytes
    message_id: str


class _Control(NamedTuple):
    """An event between batches. `attempt` is the new one of a restart."""

    kind: str
    body: bytes
    text: str = ""
    attempt: int = 0


class Flusher:
    """`run` returns when the end is written; it raises LetGo when somebody else ended or took the generation."""

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
        now_ms: Callable[[], float],
    ) -> None:
        self.attempt = attempt
        self._log = session_log
        self._session, self._generation, self._fence = session, generation, fence
        self._lease_ms = lease_ms
        self._rule = (batch_size, batch_linger_ms)
        self._batcher = Batcher(*self._rule)
        self._now_ms = now_ms
        self._controls: deque[_Control] = deque()
        self._finale: Finale | None = None
        self._stirred = asyncio.Event()
        self._n = 0

    # What the generation says; none of it waits

    def status(self, state: State, detail: str | None = None) -> None:
        """Only before the first token of an attempt: controls leave before what is pending."""
        event = events.Status(self._generation, self.attempt, state, detail)
        self._control(_Control("status", events.encode(event), state))

    def restart(self, reason: str) -> None:
        """Open the next attempt: what was written, and what is pending, is void."""
        self.attempt += 1
        self._batcher = Batcher(*self._rule)
        event = events.Restart(self._generation, self.attempt, reason)
        self._control(_Control("restart", events.encode(event), attempt=self.attempt))

    def token(self, kind: Kind, text: str) -> None:
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
        while True:
            while self._controls:
                await self._write_control(self._controls.popleft())
            if (batch := self._batcher.take(self._now_ms())) is not None:
                await self._write_batch(batch)
            elif self._finale is not None and not self._batcher.pending and not self._controls:
                await self._write_end(self._finale)
                return
            else:
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

    async def _write_control(self, control: _Control) -> None:
        await self._append(control.kind, control.body, index=control.attempt, text=control.text)

    async def _write_batch(self, batch: Batch) -> None:
        event = events.Tokens if batch.kind == "tokens" else events.Reasoning
        count, text = len(batch.texts), batch.text
        body = events.encode(event(self._generation, self.attempt, batch.index, count, text))
        await self._append(
            batch.kind,
            body,
            index=batch.index,
            count=count,
            text=text,
            text_bytes=batch.text_bytes,
            crc32=batch.crc32,
        )
        metrics.batches.inc()
        metrics.tokens.inc(count)

    async def _append(
        self,
        kind: str,
        body: bytes,
        *,
        index: int = 0,
        count: int = 0,
        text: str = "",
        text_bytes: int = 0,
        crc32: int = 0,
    ) -> None:
        self._n += 1

        async def once() -> Outcome:
            return await self._log.append(
                self._session,
                self._generation,
                self._fence,
                self._n,
                self._lease_ms,
                kind,
                body,
                index=index,
                count=count,
                text=text,
                text_bytes=text_bytes,
                crc32=crc32,
            )

        self._accept(await self._until_answered(once))

    async def _write_end(self, finale: Finale) -> None:
        async def once() -> Outcome:
            return await self._log.end(
                self._session,
                self._generation,
                self._fence,
                finale.reason,
                finale.members,
                self._batcher.count,
                finale.message_id,
            )

        self._accept(await self._until_answered(once))

    @staticmethod
    def _accept(outcome: Outcome) -> None:
        if outcome.what not in ("written", "repeated"):
            raise LetGo(outcome.what)

    async def _until_answered(self, once: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Try until Redis answers, or the worker ends. What waits meanwhile is bounded by max_answer_bytes."""
        failures = 0
        while True:
            try:
                return await once()
            except StorageError as error:
                pause_ms = RETRY_AFTER_MS[failures] if failures < len(RETRY_AFTER_MS) else RETRY_MAX_MS
                failures += 1
                metrics.append_retries.inc()
                log.warning(
                    "append_failed",
                    session=self._session,
                    generation=self._generation,
                    failures=failures,
                    detail=str(error),
                )
                await asyncio.sleep(pause_ms * random.uniform(0.5, 1) / 1000)

    def _control(self, control: _Control) -> None:
        self._controls.append(control)
        self._stirred.set()
