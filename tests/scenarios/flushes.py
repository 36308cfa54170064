"""What a worker's flushes have come to, as it shows from outside: its counters and its log lines, which must agree."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.scenarios.processes import Process, until
from tests.scenarios.world import World


class Flushes(NamedTuple):
    """`tokens`: sent one by one; `restored_bytes`: the most that ever waited in a spill that was written."""

    retries: int = 0
    failures: int = 0
    fallbacks: int = 0
    tokens: int = 0
    spills: int = 0
    restored: int = 0
    restored_bytes: int = 0

    def since(self, before: Flushes) -> Flushes:
        """What has been added. A worker's first append connects and loads its script within the one second of a try:
        on a busy machine it is tried again, before any fault."""
        return Flushes(*(now - then for now, then in zip(self, before, strict=True)))


async def flushes(relay: World, worker: Process) -> Flushes:
    """One log line for each that the counters count; both move on, so they are looked at until they agree."""
    found: Flushes = await until(lambda: _agreed(relay, worker), "counters and log lines agree")
    return found


async def _agreed(relay: World, worker: Process) -> Flushes | None:
    logged, samples = _logged(worker), await relay.metrics(worker)
    counted = {
        "retries": samples["relay_flush_retries_total"],
        "failures": samples["relay_flush_failures_total"],
        "fallbacks": samples["relay_flush_fallbacks_total"],
        "tokens": samples["relay_flush_tokens_total"],
        "spills": samples["relay_spills_total"],
        "restored": samples["relay_spills_restored_total"],
    }
    return logged if counted == {name: getattr(logged, name) for name in counted} else None


def _logged(worker: Process) -> Flushes:
    fallbacks, restorations = _of(worker, "flush_fallback"), _of(worker, "restored")
    return Flushes(
        retries=len(_of(worker, "flush_retry")),
        failures=len(_of(worker, "flush_failed")),
        fallbacks=len(fallbacks),
        tokens=sum(line["sent"] for line in fallbacks),
        spills=len(_of(worker, "spilled")),
        restored=len(restorations),
        restored_bytes=max((line["bytes"] for line in restorations), default=0),
    )


async def spilled(worker: Process, times: int = 1) -> None:
    """Wait until so often something had to wait for Redis."""
    await until(lambda: len(_of(worker, "spilled")) >= times, f"spill {times}")


async def restored(worker: Process, times: int = 1) -> None:
    """Wait until so often what had waited was written."""
    await until(lambda: len(_of(worker, "restored")) >= times, f"spill {times} is restored")


def _of(worker: Process, event: str) -> list[dict[str, Any]]:
    return [line for line in worker.lines() if line.get("event") == event]
