"""A session's log that a flusher cannot rely on, and a flusher that is in no hurry and no pain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from prometheus_client import REGISTRY

from relay.errors import StorageError
from relay.store.jobs import Job
from relay.store.queue.queue import Queue
from relay.store.session.replies import Claim, WriteOutcome
from relay.store.session.session_log import Append, SessionLog
from relay_workers.lease import Lease
from relay_workers.writing.arrivals import Arrivals
from relay_workers.writing.claimed import Claimed
from relay_workers.writing.delivery import DeliveryLimits
from relay_workers.writing.flusher import Flusher, FlushLimits
from relay_workers.writing.rebuilding import Rebuilder, RebuildLimits
from tests.store.in_memory import LEASE_MS, first_claims, job_of

NEVER_MS = 1e9
# No pause, and no try that a busy machine could make too long.
IMPATIENT = DeliveryLimits(try_s=60, retry_ms=0, probe_ms=0, probe_max_ms=0)

NOTHING_CLAIMED = Claim(1, 1, False, [], "", 0, {"accepted": 0, "claimed": 0})

T = TypeVar("T")
Write = Callable[[], Awaitable[T]]


class Unreliable:
    """A SessionLog whose writes go wrong as planned, one word for each try.

    `fails`: before it has any effect. `lost`: after it had. `late3`: it is on its way, and lands right before the
    third try after it. `refused`: Redis answers with an error. Beyond the plan, `refuses(text)` is asked.
    """

    def __init__(self, session_log: SessionLog, *plan: str, refuses: Callable[[str], bool] = lambda _: False) -> None:
        self.plan = list(plan)
        self.refuses = refuses
        self.numbers: list[int] = []  # of each try of an append
        self.bodies: list[bytes] = []
        self.counts: list[int] = []
        self.tries = 0
        self.tried = asyncio.Event()
        self.log = session_log
        self._on_the_way: list[tuple[int, Write[Any]]] = []
        self._in_flight = 0

    async def append(
        self, session: str, generation: str, fence: int, n: int, lease_ms: int, event: Append
    ) -> WriteOutcome:
        self.numbers.append(n)
        self.bodies.append(event.body)
        self.counts.append(event.count)
        return await self._unreliably(
            lambda: self.log.append(session, generation, fence, n, lease_ms, event), event.text
        )

    async def end(self, *arguments: Any) -> WriteOutcome:
        return await self._unreliably(lambda: self.log.end(*arguments), "")

    async def rebuild(self, *arguments: Any) -> Any:
        return await self.log.rebuild(*arguments)

    async def land(self) -> None:
        """Everything that is still on its way."""
        for _, write in self._on_the_way:
            await write()
        self._on_the_way.clear()

    async def until_tried(self, tries: int) -> None:
        async with asyncio.timeout(10):
            while self.tries < tries:
                self.tried.clear()
                await self.tried.wait()

    async def _unreliably(self, write: Write[T], text: str) -> T:
        assert self._in_flight == 0, "one append of a generation in flight"
        self._in_flight += 1
        self.tries += 1
        try:
            for landing in [item for item in self._on_the_way if item[0] <= self.tries]:
                self._on_the_way.remove(landing)
                await landing[1]()
            fault = self.plan.pop(0) if self.plan else "refused" if self.refuses(text) else ""
            await asyncio.sleep(0)
            match fault.rstrip("0123456789"):
                case "fails":
                    raise StorageError("away")
                case "refused":
                    raise StorageError("not this one", refused=True)
                case "late":
                    self._on_the_way.append((self.tries + int(fault[4:]), write))
                    raise StorageError("no answer in time")
            outcome = await write()
            if fault == "lost":
                raise StorageError("its reply was lost")
            return outcome
        finally:
            self._in_flight -= 1
            self.tried.set()


class Manual:
    """The flusher's own clock."""

    def __init__(self) -> None:
        self.now_ms = 0.0

    def __call__(self) -> float:
        return self.now_ms


class NoQueue:
    """A queue of which nobody asks anything."""

    async def announce(self, queue: str) -> bool:
        return True

    async def enqueue(self, job: Job, look_ms: int, *, held: bool) -> bool:
        assert held
        return True


def claimed_by(log: Unreliable) -> Claimed:
    return Claimed(job_of(), first_claims.get(log.log, NOTHING_CLAIMED), "w1", LEASE_MS)


def rebuilder_of(log: Unreliable, now_ms: Manual, queue: Queue | None = None, *, apart_ms: float = 0) -> Rebuilder:
    arrivals, limits = Arrivals(time.monotonic()), RebuildLimits(look_ms=1000, apart_ms=apart_ms)
    jobs = queue or cast(Queue, NoQueue())
    return Rebuilder(claimed_by(log), cast(SessionLog, log), jobs, arrivals, limits, now_ms)


def flusher_of(
    log: Unreliable,
    *,
    size: int = 3,
    linger_ms: float = NEVER_MS,
    patience: DeliveryLimits = IMPATIENT,
    now_ms: Manual | None = None,
) -> Flusher:
    clock, limits = now_ms or Manual(), FlushLimits(size, linger_ms, patience)
    lease = Lease(LEASE_MS / 1000, time.monotonic())
    return Flusher(claimed_by(log), cast(SessionLog, log), rebuilder_of(log, clock), lease, limits, clock)


async def finished(flusher: Flusher) -> None:
    async with asyncio.timeout(10):
        await flusher.run()


class Counted:
    """What the metrics of flushing have counted since this was made."""

    NAMES = ("flush_retries", "flush_failures", "flush_fallbacks", "flush_tokens", "spills", "spills_restored")

    def __init__(self) -> None:
        self._before = self._now()

    def __call__(self) -> dict[str, int]:
        """Those that have moved."""
        return {name: value - self._before[name] for name, value in self._now().items() if value != self._before[name]}

    @property
    def spilled_bytes(self) -> float:
        return REGISTRY.get_sample_value("relay_spilled_bytes") or 0

    def _now(self) -> dict[str, int]:
        return {name: int(REGISTRY.get_sample_value(f"relay_{name}_total") or 0) for name in self.NAMES}
