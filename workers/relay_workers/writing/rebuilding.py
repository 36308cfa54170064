"""Rebuilding: the worker that holds a generation makes again what Redis has lost of it.

    flusher.py learns of the loss → the job's row → the generation (rebuild.lua) → flusher.py writes what is missing

The model is not asked again. A rebuild is a write like any other: it goes through delivery.py with its retries and its
spill, and it is idempotent.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relay.store.queue.queue import Queue
from relay.store.session.replies import RebuildResult, WriteOutcome
from relay.store.session.session_log import SessionLog
from relay_workers.writing.arrivals import Arrivals
from relay_workers.writing.claimed import Claimed


@dataclass(frozen=True, slots=True)
class RebuildLimits:
    """`look_ms`: how long until a reaper checks the job's row. `apart_ms`: least time between two rebuilds."""

    look_ms: int
    apart_ms: float = 500


class Rebuilder:
    """Rebuilds one generation. `arrivals`: knows when its first token came."""

    def __init__(
        self,
        claimed: Claimed,
        session_log: SessionLog,
        queue: Queue,
        arrivals: Arrivals,
        limits: RebuildLimits,
        now_ms: Callable[[], float],
    ) -> None:
        self._claimed = claimed
        self._session_log = session_log
        self._queue = queue
        self._arrivals = arrivals
        self._limits = limits
        self._now_ms = now_ms
        self._rebuilt_ms = -math.inf

    async def pause(self) -> None:
        """Wait until another rebuild may begin, so as not to flood a Redis that keeps losing the generation."""
        wait_ms = self._rebuilt_ms + self._limits.apart_ms - self._now_ms()
        if wait_ms > 0:
            await asyncio.sleep(wait_ms / 1000)

    async def rebuild(self, fence: int, epochs: Sequence[str], seq: int) -> RebuildResult | WriteOutcome:
        """Try once. `fence`, `epochs`, `seq`: as of the last acknowledged write. Raises StorageError.

        The job's row comes first: if this worker dies now, a reaper finds it.
        """
        job, _, worker, lease_ms = self._claimed
        await self._queue.announce(job.queue)
        await self._queue.enqueue(job, self._limits.look_ms, held=True)
        outcome = await self._session_log.rebuild(job, fence, worker, lease_ms, epochs, seq, self._times())
        if isinstance(outcome, RebuildResult):
            self._rebuilt_ms = self._now_ms()
        return outcome

    def _times(self) -> dict[str, int]:
        times, first_token_s = dict(self._claimed.claim.times), self._arrivals.first_token_s
        if first_token_s is not None:
            times["first"] = times["claimed"] + int(first_token_s * 1000)
        return times
