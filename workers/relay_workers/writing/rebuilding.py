"""Rebuilding: what Redis has lost of a generation is made again there, by the worker that holds it.

    flusher.py learns of the loss → the job's row → the generation (rebuild.lua) → flusher.py says what is missing

Nobody asks the model again. A rebuild is a write like any other: it goes through delivery.py, with its retries and its
spill, and asked for twice it answers the same.
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
    """`look_ms`: after which a reaper looks at the job's row. `apart_ms`: between two rebuilds of one answer."""

    look_ms: int
    apart_ms: float = 500


class Rebuilder:
    """Of one generation. `arrivals`: of its tokens; it tells when the first of them came."""

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
        """Until another may begin: a Redis that keeps losing it is not to be pressed."""
        wait_ms = self._rebuilt_ms + self._limits.apart_ms - self._now_ms()
        if wait_ms > 0:
            await asyncio.sleep(wait_ms / 1000)

    async def rebuild(self, fence: int, epochs: Sequence[str], seq: int) -> RebuildResult | WriteOutcome:
        """One try. `fence`, `epochs`, `seq`: as of the last write that was acknowledged. Raises StorageError.

        The job's row first: should this worker die now, a reaper finds it.
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
