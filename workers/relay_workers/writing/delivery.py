"""Delivery: brings one write at a time into the log, however often Redis fails on the way.

    retries → token by token → spill

Retries send exactly the same under the same number. A batch that still fails goes token by token, which helps if it
was refused for its size or for one token. The first token that also fails ends this, and the rest is spilled untried:
in an outage single tokens would only multiply the load. The spill probes until Redis takes its head, and later writes
wait behind it. Nothing here is ever skipped or reordered.

Each answer of the log goes back to the flusher, part by part as the write was divided; the flusher decides what to do.

This stays exact whatever landed unseen or lands late (append.lua decides), for two reasons: the append in flight has
the number after the last acknowledged one, and a batch whose fate is unknown is only ever divided (`Batch.split`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from relay import metrics, timeouts
from relay.errors import StorageError
from relay.logging import Logger
from relay.redis.connections import APPEND_TIMEOUT_S
from relay.store.session.replies import RebuildResult, WriteOutcome
from relay_workers.writing.batching import Batch, Batcher
from relay_workers.writing.writer import Write, Writer


class Overflow(StorageError):
    """More text waits for Redis than `spill_bytes` allows; the token that was too much was not taken."""


class Rejected(StorageError):
    """Redis has answered, but refused the same write for `lost_after_ms`."""


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """How long to try in which way. Pauses double from the first to the last, each shortened at random by up to half.

    `try_s`: one whole try, in time that the event loop was listening (relay/timeouts.py). `spill_bytes`: UTF-8 text of
    one answer that may wait. `lost_after_ms`: how long one write may be refused before it is given up.
    """

    try_s: float = APPEND_TIMEOUT_S
    retries: int = 3
    retry_ms: float = 100
    retry_max_ms: float = 15_000
    probe_ms: float = 100
    probe_max_ms: float = 1000
    spill_bytes: int = 1024 * 1024
    lost_after_ms: float = 60_000


class Delivered(NamedTuple):
    """A write or a part of one, and the log's answer. `asked_s`: when it was sent, by `time.monotonic`."""

    part: Write
    outcome: WriteOutcome | RebuildResult
    asked_s: float

    @property
    def is_acknowledged(self) -> bool:
        """Whether it is in the log. If not, `outcome` says why the log refused it."""
        return isinstance(self.outcome, RebuildResult) or self.outcome.what in ("written", "repeated")


class _Fallback:
    """A batch that goes token by token; `sent`: how many tokens have been tried."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.sent = 0
        self._singles = batch.singles()

    def next(self) -> Batch:
        self.sent += 1
        return next(self._singles)

    @property
    def is_over(self) -> bool:
        return self.sent == len(self.batch.texts)

    @property
    def rest(self) -> list[Batch]:
        """The tokens that were not tried, as one batch."""
        return [] if self.is_over else [self.batch.split(self.sent)[1]]


class Delivery:
    """One generation's writes, each begun when the one before is done. `pending`: the tokens that wait behind it.

    `spilled`: true from the first write that had to wait until everything that waited is written.
    """

    def __init__(
        self,
        writer: Writer,
        pending: Batcher,
        limits: DeliveryLimits,
        now_ms: Callable[[], float],
        log: Logger,
    ) -> None:
        self.spilled = False
        self._writer = writer
        self._pending = pending
        self._limits = limits
        self._now_ms = now_ms
        self._logger = log
        self._timeout = timeouts.timeout(limits.try_s)  # of one try
        self._done = 0  # number of the last append that was acknowledged
        self._unsent: deque[Write] = deque()  # the current write, as divided by now; its head is in flight
        self._fallback: _Fallback | None = None  # its batch, while that goes token by token
        self._redis_down = False  # while spilled: the last try failed
        self._spilled_at = 0.0
        self._peak_bytes = 0
        self._spilled_bytes = 0  # of what waits; tokens that come once Redis answers again do not count

    @property
    def last_acked(self) -> int:
        """Number of the last append that was acknowledged."""
        return self._done

    @property
    def unfinished(self) -> bool:
        """Whether there is more of the current write."""
        return bool(self._unsent) or self._fallback is not None

    # Called by the flusher

    def begin(self, write: Write) -> None:
        """Make this the current write."""
        self._unsent = deque([write])
        self._fallback = None

    async def next(self) -> Delivered:
        """The log's next answer: to the whole write, or to a part of it if Redis has failed on the way.

        A part that is not acknowledged stays unsent. Raises Rejected.
        """
        if not self.spilled:
            if (delivered := await self._at_once()) is not None:
                return delivered
            self._spill()
        return await self._drain()

    def count_spilled(self, text_bytes: int) -> None:
        """Count a token that comes while something is spilled. Raises Overflow if it is too much."""
        if not self._redis_down:
            return
        if self._spilled_bytes + text_bytes > self._limits.spill_bytes:
            raise Overflow(f"{self._spilled_bytes} bytes wait for Redis, and spill_bytes allows no more")
        self._count(self._spilled_bytes + text_bytes)

    def drop_pending(self) -> None:
        """The tokens pending behind the current write will never be written."""
        if self.spilled:
            self._count(self._unsent_bytes())

    def reset(self) -> None:
        """Redis has lost acknowledged writes: the next write is number 1 again, and everything unsent is void."""
        self._done = 0
        self._clear()
        self.drop_pending()

    def close(self) -> None:
        """Forget everything that waits, written or not."""
        self.spilled = self._redis_down = False
        self._clear()
        self._count(0)

    def _clear(self) -> None:
        self._unsent.clear()
        self._fallback = None

    # The steps, in order

    async def _at_once(self) -> Delivered | None:
        """None: neither retries nor single tokens help."""
        if self._fallback is None:
            head, delivered = self._unsent[0], await self._with_retries()
            if delivered is not None or not isinstance(head, Batch) or len(head.texts) == 1:
                return delivered
            metrics.flush_fallbacks.inc()
            self._fallback = _Fallback(head)
        return await self._next_token(self._fallback)

    async def _with_retries(self) -> Delivered | None:
        """None: neither the first try nor a retry was answered."""
        patience, result = self._limits, await self._try()
        for retry in range(patience.retries):
            if isinstance(result, Delivered):
                return result
            metrics.flush_retries.inc()
            self._logger.warning("flush_retry", retry=retry + 1, of=patience.retries, detail=str(result))
            await _pause(min(patience.retry_ms * 2**retry, patience.retry_max_ms))
            result = await self._try()
        if isinstance(result, Delivered):
            return result
        metrics.flush_failures.inc()
        self._logger.warning("flush_failed", tries=patience.retries + 1, detail=str(result))
        return None

    async def _next_token(self, fallback: _Fallback) -> Delivered | None:
        """None: it was not answered; it and the untried rest stay unsent."""
        self._unsent = deque([fallback.next()])
        metrics.flush_tokens.inc()
        result = await self._try()
        if isinstance(result, StorageError):
            self._unsent.extend(fallback.rest)
            self._end_fallback(fallback, taken=False)
            return None
        if result.is_acknowledged and fallback.is_over:
            self._end_fallback(fallback, taken=True)
        return result

    def _end_fallback(self, fallback: _Fallback, *, taken: bool) -> None:
        self._fallback = None
        self._logger.warning("flush_fallback", tokens=len(fallback.batch.texts), sent=fallback.sent, taken=taken)

    def _spill(self) -> None:
        self.spilled = self._redis_down = True
        self._spilled_at, self._peak_bytes = self._now_ms(), 0
        self._count(self._unsent_bytes() + self._pending.pending_bytes)
        metrics.spills.inc()
        self._logger.warning("spilled", bytes=self._spilled_bytes)

    async def _drain(self) -> Delivered:
        """Try until the head of the unsent is answered: at once while Redis answers, otherwise by probes."""
        patience, pause_ms = self._limits, self._limits.probe_ms
        refused_at: float | None = None
        while True:
            if self._redis_down:
                await _pause(pause_ms)
                pause_ms = min(pause_ms * 2, patience.probe_max_ms)
            result = await self._try()
            if isinstance(result, Delivered):
                if result.is_acknowledged:
                    self._on_taken()
                return result
            if result.refused and self._halve():
                continue
            if not self._redis_down:
                self._redis_down = True
                self._count(self._unsent_bytes() + self._pending.pending_bytes)
            if result.refused:
                refused_at = self._now_ms() if refused_at is None else refused_at
                if self._now_ms() - refused_at >= patience.lost_after_ms:
                    raise Rejected(str(result))

    async def _try(self) -> Delivered | StorageError:
        """Try the head of the unsent once; remove it if the log has it."""
        part, asked_s = self._unsent[0], time.monotonic()
        try:
            async with self._timeout:
                outcome = await self._writer.write(part, self._done + 1)
        except TimeoutError:
            return StorageError(f"no answer within {self._limits.try_s:g} s")
        except StorageError as failure:
            return failure
        delivered = Delivered(part, outcome, asked_s)
        if delivered.is_acknowledged:
            self._done += 1
            self._unsent.popleft()
            if self.spilled and isinstance(part, Batch):
                self._count(max(0, self._spilled_bytes - part.own_bytes))
        return delivered

    def _halve(self) -> bool:
        """Divide the head. Not into single tokens: what waited long is one batch of very many."""
        head = self._unsent[0]
        if not isinstance(head, Batch) or len(head.texts) == 1:
            return False
        self._unsent.popleft()
        self._unsent.extendleft(reversed(head.split(len(head.texts) // 2)))
        return True

    def _on_taken(self) -> None:
        self._redis_down = False
        if self._spilled_bytes == 0 and not self._unsent:
            self.spilled = False
            metrics.spills_restored.inc()
            waited_ms = round(self._now_ms() - self._spilled_at)
            self._logger.info("restored", bytes=self._peak_bytes, waited_ms=waited_ms)

    def _unsent_bytes(self) -> int:
        return sum(write.own_bytes for write in self._unsent if isinstance(write, Batch))

    def _count(self, spilled_bytes: int) -> None:
        metrics.spilled_bytes.inc(spilled_bytes - self._spilled_bytes)
        self._spilled_bytes = spilled_bytes
        self._peak_bytes = max(self._peak_bytes, spilled_bytes)


async def _pause(most_ms: float) -> None:
    await asyncio.sleep(most_ms * random.uniform(0.5, 1) / 1000)
