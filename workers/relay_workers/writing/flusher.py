"""The flusher: drains a generation's events into the log, one append in flight, each exactly once.

Everything a generation writes goes through here in order: statuses, restart, batches, and at last the end. How a
write reaches the log when Redis fails is delivery.py's. The provider's loop only ever adds; it never waits for Redis.

When Redis turns out to have lost what it had acknowledged, the generation is made again there (rebuild.lua says what is
left of it), and whatever is missing is said once more; nobody asks the model again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from relay import logging, metrics
from relay.protocol import events
from relay.protocol.events import State
from relay.protocol.words import Reason, RestartReason
from relay.store.session.replies import Left, Outcome, Rebuilt
from relay.store.session.session_log import SessionLog
from relay_workers.writing.attempt_buffer import Said
from relay_workers.writing.batching import Batch, Batcher, Kind
from relay_workers.writing.delivery import Control, Delivery, Finale, Patience, Rebuild, Rejected, Write
from relay_workers.writing.writer import Place, Restore, Writer

log = logging.get("flusher")


_NONE: dict[Kind, int] = {"tokens": 0, "reasoning": 0, "data": 0}


class LetGo(Exception):
    """This worker may not write this generation any more; `why` is `stale` or `ended`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Diverged(Exception):
    """The provider tells the answer otherwise than it stands in the log."""


class _Lost(Exception):
    """Redis has lost the generation, or a part of it, or somebody else has it: a rebuild tells, and mends."""


class Flusher:
    """`run` returns when the end is written; it raises LetGo when somebody else ended or took the generation.

    `restore` makes the generation again in Redis, given fence and place as known here. `left`: what stands in the log
    of this attempt; who goes on with it says it once more from its beginning, and what is there is not written again.
    """

    def __init__(
        self,
        session_log: SessionLog,
        session: str,
        generation: str,
        fence: int,
        attempt: int,
        place: Place,
        left: Left | None = None,
        *,
        restore: Restore,
        lease_ms: int,
        batch_size: int,
        batch_linger_ms: float,
        patience: Patience,
        now_ms: Callable[[], float],
        renewed: Callable[[float], None] = lambda asked_s: None,
    ) -> None:
        self.attempt = attempt
        self._renewed = renewed  # a write that was asked for then has renewed the lease
        self.rebuilding = False
        self._said = Said()
        self._status: tuple[State, str | None] | None = None  # the attempt's last
        # Of its restart; if that was not ours, of the one that we took over from.
        self._reason: RestartReason = "worker_lost"
        self._session, self._generation = session, generation
        self._writer = Writer(session_log, session, generation, fence, place, restore, lease_ms)
        self._rule = (batch_size, batch_linger_ms)
        self._batcher = Batcher(*self._rule, attempt)
        self._now_ms = now_ms
        self._controls: deque[Control] = deque()
        self._finale: Finale | None = None
        self._stirred = asyncio.Event()
        self._stored: dict[Kind, int] = dict(_NONE)  # of the attempt, acknowledged by the log
        self._count: dict[Kind, int] = dict(_NONE)  # of the attempt, said so far
        self._left = left  # until what we say turns out to be the same text
        self._diverged = False
        if left is not None:
            self._stored = {"tokens": left.tokens, "reasoning": left.reasoning, "data": left.data}
        self._patience = patience
        self._rebuilt_ms = -math.inf
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
        self._status = (state, detail)
        event = events.Status(self._generation, self.attempt, state, detail)
        self._control(Control("status", events.encode(event), state))

    def restart(self, reason: RestartReason) -> None:
        """Open the next attempt: what was written, and what is pending, is void."""
        self.attempt += 1
        self._status, self._reason = None, reason
        self._said = Said()
        self._stored, self._count = dict(_NONE), dict(_NONE)
        self._left, self._diverged = None, False
        self._batcher = Batcher(*self._rule, self.attempt)
        self._delivery.void()
        self._say_restart()

    def token(self, kind: Kind, text: str) -> None:
        """The caller bounds the answer as a whole. Raises Overflow if the spill has no room; then it was not taken.

        Raises Diverged where what was said is not what the worker before has written.
        """
        if self._diverged:
            raise Diverged("another text")
        there = self._count[kind] < self._stored[kind]
        if self._delivery.spilled and not there:
            self._delivery.hold(len(text.encode()))
        self._said.add(kind, text)
        self._count[kind] += 1
        if there:
            self._batcher.skip(kind, [text])
            self._compare()
            return
        self._batcher.add(kind, text, self._now_ms())
        self._stirred.set()

    def data(self, name: str, value: Any) -> int:
        """An event in its place among the tokens; returns its bytes. Raises as `token` does."""
        event = events.encode(events.Data(self._generation, self.attempt, name, value, self._count["tokens"]))
        self.token("data", event.decode())
        return len(event)

    def _compare(self) -> None:
        """Once all the text that is there has been said again: is it the same?"""
        if self._left is not None and self._count["tokens"] >= self._left.tokens:
            self._diverged = self._batcher.crc32 != self._left.crc32
            self._left = None

    @property
    def behind(self) -> bool:
        """Whether less has been said than the worker before has written, or something else."""
        return self._diverged or any(self._count[kind] < self._stored[kind] for kind in self._count)

    @property
    def shown(self) -> bool:
        """Whether the attempt has said anything that another one would void."""
        return bool(self._said) or self.behind

    @property
    def waits(self) -> bool:
        """Whether anything waits for its batch."""
        return self._batcher.pending > 0

    def due(self) -> bool:
        """Whether a batch waits that could leave now."""
        due_ms = self._batcher.due_ms()
        return due_ms is not None and due_ms <= self._now_ms()

    def end(self, reason: Reason, members: bytes, message_id: str = "") -> None:
        """The last word; what is pending goes before it."""
        self._finale = Finale(reason, members, message_id)
        self._batcher.close()
        self._stirred.set()

    def rebuild(self) -> None:
        """Redis has lost the generation, or a part of it: before anything else is written, make it again."""
        self.rebuilding = True
        self._stirred.set()

    @property
    def fence(self) -> int:
        """Under which it writes; a rebuild changes it."""
        return self._writer.fence

    @property
    def done(self) -> int:
        """Number of the last append that was acknowledged."""
        return self._delivery.done

    # The task

    async def run(self) -> None:
        """Raises LetGo; Rejected, once what was not written is dropped: then say another end, and run again."""
        try:
            while True:
                write = await self._next()
                try:
                    await self._delivery.deliver(write)
                except _Lost:
                    self.rebuild()
                    continue
                if isinstance(write, Finale):
                    return
        except Rejected:
            self._controls.clear()
            self._said.cut(self._stored)
            self._batcher = Batcher(*self._rule, self.attempt)
            raise
        finally:
            self._delivery.close()

    async def _next(self) -> Write:
        while True:
            if self.rebuilding:
                await self._begin_anew()
                return Rebuild()
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

    # When Redis has lost something

    async def _begin_anew(self) -> None:
        wait_ms = self._rebuilt_ms + self._patience.rebuild_ms - self._now_ms()
        if wait_ms > 0:  # it was just rebuilt: a Redis that keeps losing it is not to be pressed
            await asyncio.sleep(wait_ms / 1000)
        self._delivery.begin_anew()

    def _go_on(self, rebuilt: Rebuilt) -> None:
        """Say again what is not there."""
        self.rebuilding = False
        self._rebuilt_ms = self._now_ms()
        there = rebuilt.attempt == self.attempt
        self._stored = {
            "tokens": rebuilt.tokens if there else 0,
            "reasoning": rebuilt.reasoning if there else 0,
            "data": rebuilt.data if there else 0,
        }
        self._controls.clear()
        if not there:
            self._say_restart()
        if self._status is not None and not self._said:
            self.status(*self._status)
        self._batcher = Batcher(*self._rule, self.attempt)
        runs = list(self._said.split(self._stored))
        for kind, known, _ in runs:
            self._batcher.skip(kind, known)
        if self._left is not None:  # less of it may be there by now
            self._left = self._left._replace(tokens=self._stored["tokens"], crc32=rebuilt.crc32 if there else 0)
            self._compare()
        waited_ms = self._now_ms() - self._rule[1]  # so that it leaves at once, and in as few batches as can be
        for kind, _, missing in runs if not self._diverged else []:  # nothing of ours goes behind another text
            for text in missing:
                self._batcher.add(kind, text, waited_ms)
        if self._finale is not None:
            self._batcher.close()
        metrics.rebuilds.inc()
        log.warning(
            "rebuilt",
            session=self._session,
            generation=self._generation,
            fence=self.fence,
            epoch=rebuilt.epoch,
            left=self._stored["tokens"],
        )

    def _say_restart(self) -> None:
        event = events.Restart(self._generation, self.attempt, self._reason)
        self._control(Control("restart", events.encode(event), attempt=self.attempt))

    # One try of one write

    async def _send(self, write: Write, n: int) -> None:
        asked_s = time.monotonic()
        outcome = await self._writer.write(write, n, self._stored["tokens"])
        match outcome:
            case Rebuilt() as rebuilt:
                self._go_on(rebuilt)
            case Outcome(what="written" | "repeated" as what):
                if what == "written" and not isinstance(write, Finale):
                    self._renewed(asked_s)
                self._acknowledged(write)
            case Outcome(what=what) if what == "ended" or isinstance(write, Rebuild):
                raise LetGo(what)
            case _:
                raise _Lost

    def _acknowledged(self, write: Write) -> None:
        if isinstance(write, Batch):
            metrics.batches.inc()
            metrics.tokens.inc(len(write.texts) if write.kind != "data" else 0)
            if write.attempt == self.attempt:
                self._stored[write.kind] += len(write.texts)

    def _control(self, control: Control) -> None:
        self._controls.append(control)
        self._stirred.set()
