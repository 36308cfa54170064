"""Delivery: the way of one write at a time into the log, however often Redis fails on the way.

    retries → token by token → spill

Retries send exactly the same under the same number. A batch that still fails goes token by token, which helps if it
was refused for its size or for one token; the first token that fails as well ends that, and the rest is spilled
untried: in an outage single tokens would only multiply the load. The spill probes until Redis takes its head, and
whatever is delivered later waits behind it. Nothing here is ever skipped or reordered.

What keeps it exact, whatever landed unseen or lands late (append.lua decides): the append in flight has the number
after the last acknowledged one, and a batch in doubt is only ever divided (`Batch.split`).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from relay import metrics, timeouts
from relay.errors import StorageError
from relay.logging import Logger
from relay.protocol.words import Reason
from relay.redis.connections import APPEND_TIMEOUT_S
from relay_workers.writing.batching import Batch


class Overflow(StorageError):
    """More text waits for Redis than `spill_bytes`; the token that was too much has not been taken."""


class Rejected(StorageError):
    """Redis has refused the same write for `lost_after_ms`, while it answered."""


class Control(NamedTuple):
    """An event between batches. `attempt` is the new one of a restart."""

    kind: str
    body: bytes
    text: str = ""
    attempt: int = 0


class Finale(NamedTuple):
    """The generation's end: its reason, the event's further members, the answer's id where it is complete."""

    reason: Reason
    members: bytes
    message_id: str


class Rebuild(NamedTuple):
    """Make the generation again where Redis has lost it, and begin a new count of appends."""


Write = Batch | Control | Finale | Rebuild


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try in which way. Pauses double from the first to the last, each shortened at random by up to half.

    `try_s`: a whole try, by the time for which we have listened (relay/timeouts.py). `spill_bytes`: UTF-8 text of one
    answer that may wait.
    `lost_after_ms`: refusals of one write before it is given up. `rebuild_ms`: between two rebuilds of one answer.
    """

    try_s: float = APPEND_TIMEOUT_S
    retries: int = 3
    retry_ms: float = 100
    retry_max_ms: float = 15_000
    probe_ms: float = 100
    probe_max_ms: float = 1000
    rebuild_ms: float = 500
    spill_bytes: int = 1024 * 1024
    lost_after_ms: float = 60_000


class Delivery:
    """One generation's writes; `send` tries one under a number, raises StorageError, or LetGo where it may not go on.

    `spilled`: from the first write that had to wait until all that waited then is written.
    """

    def __init__(
        self,
        send: Callable[[Write, int], Awaitable[None]],
        patience: Patience,
        *,
        pending_bytes: Callable[[], int],
        now_ms: Callable[[], float],
        log: Logger,
    ) -> None:
        self.spilled = False
        self._send = send
        self._patience = patience
        self._pending_bytes = pending_bytes
        self._now_ms = now_ms
        self._log = log
        self._done = 0  # number of the last append that was acknowledged
        self._left: deque[Write] = deque()  # the write in hand, as divided by now; its head is in flight
        self._away = False  # while spilled: the last try failed
        self._spilled_at = 0.0
        self._most_bytes = 0
        self._spilled_bytes = 0  # of what waits; what comes once Redis answers again is not the spill's

    @property
    def done(self) -> int:
        """Number of the last append that was acknowledged."""
        return self._done

    # What the flusher says

    async def deliver(self, write: Write) -> None:
        """Returns when it is acknowledged. Raises Rejected, and what `send` raises but StorageError."""
        self._left = deque([write])
        if not self.spilled:
            if await self._with_retries():
                return
            if isinstance(write, Batch) and len(write.texts) > 1 and await self._token_by_token(write):
                return
            self._spill()
        await self._drain()

    def hold(self, text_bytes: int) -> None:
        """Count a token that comes while something is spilled. Raises Overflow if there is no room for it."""
        if not self._away:
            return
        if self._spilled_bytes + text_bytes > self._patience.spill_bytes:
            raise Overflow(f"{self._spilled_bytes} bytes wait for Redis, and spill_bytes allows no more")
        self._count(self._spilled_bytes + text_bytes)

    def void(self) -> None:
        """What is pending behind the write in hand will never be written."""
        if self.spilled:
            self._count(self._left_bytes())

    def begin_anew(self) -> None:
        """Redis has lost what was acknowledged: the next write is the first one again; what was left is void."""
        self._done = 0
        self._left.clear()
        self.void()

    def close(self) -> None:
        """Nothing waits here any more, written or not."""
        self.spilled = self._away = False
        self._left.clear()
        self._count(0)

    # Its ways, in order

    async def _with_retries(self) -> bool:
        """Whether it was taken at the first try or at one of the retries."""
        patience, failure = self._patience, await self._try()
        for retry in range(patience.retries):
            if failure is None:
                return True
            metrics.flush_retries.inc()
            self._log.warning("flush_retry", retry=retry + 1, of=patience.retries, detail=str(failure))
            await _pause(min(patience.retry_ms * 2**retry, patience.retry_max_ms))
            failure = await self._try()
        if failure is None:
            return True
        metrics.flush_failures.inc()
        self._log.warning("flush_failed", tries=patience.retries + 1, detail=str(failure))
        return False

    async def _token_by_token(self, batch: Batch) -> bool:
        """Whether every token was taken; otherwise the first that was not and the untried rest are left."""
        metrics.flush_fallbacks.inc()
        sent = 0
        failure: StorageError | None = None
        for single in batch.singles():
            self._left = deque([single])
            sent += 1
            metrics.flush_tokens.inc()
            if (failure := await self._try()) is not None:
                break
        if failure is not None and sent < len(batch.texts):
            self._left.append(batch.split(sent)[1])
        self._log.warning("flush_fallback", tokens=len(batch.texts), sent=sent, taken=failure is None)
        return failure is None

    def _spill(self) -> None:
        self.spilled = self._away = True
        self._spilled_at, self._most_bytes = self._now_ms(), 0
        self._count(self._left_bytes() + self._pending_bytes())
        metrics.spills.inc()
        self._log.warning("spilled", bytes=self._spilled_bytes)

    async def _drain(self) -> None:
        """Until all that is left is taken: at once while Redis takes it, otherwise by probes."""
        patience, pause_ms = self._patience, self._patience.probe_ms
        refused_at: float | None = None
        while self._left:
            if self._away:
                await _pause(pause_ms)
                pause_ms = min(pause_ms * 2, patience.probe_max_ms)
            failure = await self._try()
            if failure is None:
                pause_ms, refused_at = patience.probe_ms, None
                self._back()
                continue
            if failure.refused and self._halve():
                continue
            if not self._away:
                self._away = True
                self._count(self._left_bytes() + self._pending_bytes())
            if failure.refused:
                refused_at = self._now_ms() if refused_at is None else refused_at
                if self._now_ms() - refused_at >= patience.lost_after_ms:
                    raise Rejected(str(failure))

    async def _try(self) -> StorageError | None:
        """One try of the head of what is left; takes it off if it was acknowledged."""
        write = self._left[0]
        try:
            async with timeouts.timeout(self._patience.try_s):
                await self._send(write, self._done + 1)
        except TimeoutError:
            return StorageError(f"no answer within {self._patience.try_s:g} s")
        except StorageError as failure:
            return failure
        self._done += 1
        self._left.popleft()
        if self.spilled and isinstance(write, Batch):
            self._count(max(0, self._spilled_bytes - write.own_bytes))
        return None

    def _halve(self) -> bool:
        """Divide the head. Not into tokens: what waited long is one batch of very many."""
        head = self._left[0]
        if not isinstance(head, Batch) or len(head.texts) == 1:
            return False
        self._left.popleft()
        self._left.extendleft(reversed(head.split(len(head.texts) // 2)))
        return True

    def _back(self) -> None:
        self._away = False
        if self._spilled_bytes == 0 and not self._left:
            self.spilled = False
            metrics.spills_restored.inc()
            waited_ms = round(self._now_ms() - self._spilled_at)
            self._log.info("restored", bytes=self._most_bytes, waited_ms=waited_ms)

    def _left_bytes(self) -> int:
        return sum(write.own_bytes for write in self._left if isinstance(write, Batch))

    def _count(self, spilled_bytes: int) -> None:
        metrics.spilled_bytes.inc(spilled_bytes - self._spilled_bytes)
        self._spilled_bytes = spilled_bytes
        self._most_bytes = max(self._most_bytes, spilled_bytes)


async def _pause(most_ms: float) -> None:
    await asyncio.sleep(most_ms * random.uniform(0.5, 1) / 1000)
