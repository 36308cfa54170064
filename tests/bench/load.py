"""What a saturated relay does: half, once, twice and three times the load that this machine carries.

One gateway, two workers, a Redis and all viewers share the machine. What it carries is measured first: the most answers
at a time whose first token and whose whole take at most half as long again as those of a few. The demo provider then
speaks at 50 tokens a second to three viewers of each answer.

The times are of this machine and hour. The counts are not: nothing may be asked twice, spilled, or called degraded.
`BENCH_LEASE_S` is the workers' lease.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from relay import embedded
from relay.bench.sessions import Load, Sessions
from tests.scenarios.processes import Process, free_port
from tests.scenarios.world import Gateway, World, world

PARTS = (0.5, 1, 2, 3)
VIEWERS = 3
TOKENS_PER_SECOND = 50
FEW, MOST = 8, 256
GROWTH = 1.5
_ROW = "{:>6} {:>8} {:>8} {:>8} {:>9} {:>8} {:>7} {:>7} {:>9} {:>9} {:>7} {:>7}"
_COLUMNS = (
    "load", "answers", "p50 ms", "p95 ms", "tokens/s", "retries", "spills", "calls", "twice", "degraded", "errors",
    "failed",
)  # fmt: skip
# Of workers' and gateways' metrics, added up; what there is of the difference that a run makes.
_COUNTED = {
    "relay_flush_retries_total": "retries",
    "relay_spills_total": "spills",
    "relay_provider_calls_total": "calls",
}


def load() -> None:
    asyncio.run(_load())


async def _load() -> None:
    with embedded.embedded_server() as url, tempfile.TemporaryDirectory() as directory:
        async with world(url, Path(directory)) as relay:
            bench = Bench(relay)
            await bench.start()
            carried = await bench.carried()
            print(f"it carries {carried} answers at a time, {VIEWERS} viewers each; first token in milliseconds")
            print(_ROW.format(*_COLUMNS))
            for part in PARTS:
                await bench.row(part, max(1, round(carried * part)))


class Bench:
    def __init__(self, relay: World) -> None:
        self._relay = relay
        self._gateway: Gateway
        self._workers: list[Process] = []

    async def start(self) -> None:
        lease_s = os.environ.get("BENCH_LEASE_S", "10")
        self._relay.settings = {"RELAY_LEASE_S": lease_s}
        self._gateway = await self._relay.gateway()
        for _ in range(2):
            flags = ("--metrics-port", str(free_port()), "--tokens-per-second", str(TOKENS_PER_SECOND))
            self._workers.append(await self._relay.worker(*flags, provider="demo", RELAY_CONCURRENCY=str(2 * MOST)))

    async def carried(self) -> int:
        """As many as had their first token and their end in good time; more until they have not, or MOST."""
        few, good, wanted = await self._run(FEW), FEW, FEW * GROWTH
        while wanted <= MOST:
            more = await self._run(round(wanted))
            if any(more["ms"][what]["p50"] > 1.5 * few["ms"][what]["p50"] for what in ("first_token", "total")):
                break
            good, wanted = round(wanted), wanted * GROWTH
        return good

    async def row(self, part: float, answers: int) -> None:
        before = await self._counts()
        report = await self._run(answers)
        counts = await self._counts()
        counts.subtract(before)
        first = report["ms"]["first_token"]
        asked = report["answers"]["asked"]
        print(
            _ROW.format(
                f"{part:g} x", asked, round(first["p50"]), round(first["p95"]),
                round(report["tokens"] / VIEWERS / report["elapsed_s"]), counts["retries"], counts["spills"],
                counts["calls"], counts["calls"] - asked, report["degraded"], sum(report["errors"].values()),
                report["answers"]["failed"],
            ),
            flush=True,
        )  # fmt: skip

    async def _run(self, answers: int) -> dict[str, Any]:
        sessions = Sessions(Load(answers, VIEWERS, 1, None, 1.0, "default"), self._gateway.url)
        await sessions.run()
        return sessions.tally.report(sessions.elapsed_s())

    async def _counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for process in (self._gateway, *self._workers):
            for sample, value in (await self._relay.metrics(process)).items():
                if (name := _COUNTED.get(sample.partition("{")[0])) is not None:
                    counts[name] += int(value)
        return counts
