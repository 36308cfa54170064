"""Soak: a whole relay of real processes, random faults, and a count of what was promised and not kept.

    python3 tasks.py soak --minutes 10 [--seed N] [--sessions 100] [--redis-ms N] [--lose-data]

The seed decides which faults are drawn and when; processes and sockets are as free as ever, so it is a hint, not a
recording. Exits with 0 if something was asked and every promise was kept, otherwise with 1 and the faults before.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from relay import embedded
from tests.fakes.provider import FakeProvider
from tests.scenarios.processes import until
from tests.scenarios.world import World
from tests.soak.figures import Tally
from tests.soak.fleet import Fleet, memory_mib
from tests.soak.sessions import Model, Session, judge_calls

SETTLED_WITHIN_S = 120.0
EXPECTED = {"not_ready"}  # errors that a process may log that starts while Redis is away


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--viewers", type=int, default=2, help="of each session")
    parser.add_argument("--pause-s", type=float, default=1.5, help="mean pause between two faults")
    parser.add_argument("--redis-ms", type=float, help="how far away Redis is; else each process has it elsewhere")
    parser.add_argument("--lose-data", action="store_true", help="now and then Redis loses everything")
    parser.add_argument("--logs", type=Path, help="keep what the processes log in this directory")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory, embedded.embedded_server() as redis_url:
        logs = options.logs or Path(directory)
        logs.mkdir(parents=True, exist_ok=True)
        tally = asyncio.run(soak(options, redis_url, logs))
    print(tally.table())
    return 1 if tally.broken or not tally.calls else 0


async def soak(options: argparse.Namespace, redis_url: str, logs: Path) -> Tally:
    chance, tally = random.Random(options.seed), Tally()
    model = Model(random.Random(options.seed + 1))
    async with FakeProvider(model) as fake:
        world = World(redis_url, logs, fake)
        fleet = Fleet(world, chance, tally, lose_data=options.lose_data, redis_ms=options.redis_ms)
        try:
            await fleet.start(gateways=2, workers=3)
            sessions = [
                Session(number, options.viewers, fleet, model, random.Random(options.seed * 1000 + number), tally,
                        lose_data=options.lose_data)
                for number in range(options.sessions)
            ]  # fmt: skip
            fleet.shown = lambda: dict(item for session in sessions for item in session.shown_by().items())
            before = await _memory(fleet)
            await _run(sessions, fleet, tally, options)
            await _judge(sessions, fleet, tally, fake)
            after = await _memory(fleet)
            tally.memory = [(what, before.get(what, 0), mib) for what, mib in after.items()]
        finally:
            await fleet.aclose()
            await world.redis.aclose()
        _judge_logs(fleet, tally)
    return tally


async def _run(sessions: list[Session], fleet: Fleet, tally: Tally, options: argparse.Namespace) -> None:
    seconds: float = options.minutes * 60
    tally.began_at = time.monotonic()

    def over() -> bool:
        return tally.elapsed_s() > seconds

    faults = asyncio.create_task(fleet.run((0, 2 * options.pause_s)), name="faults")
    telling = asyncio.create_task(_tell(tally), name="telling")
    talking = asyncio.create_task(_talk(sessions, over), name="talking")
    await asyncio.wait([faults, talking], timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    faults.cancel()
    await _outcome(faults)
    await fleet.settle()
    _, talks = await asyncio.wait([talking], timeout=SETTLED_WITHIN_S)
    if talks:
        for session in sessions:
            session.give_up()
        talking.cancel()
    telling.cancel()
    await _outcome(telling)
    await _outcome(talking)


async def _outcome(task: asyncio.Task[None]) -> None:
    """Wait for it; a failure of its own is ours, its cancellation is not."""
    try:
        await task
    except asyncio.CancelledError:
        pass


async def _talk(sessions: list[Session], over: Callable[[], bool]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for session in sessions:
            tasks.create_task(session.run(over), name=session.name)


async def _tell(tally: Tally) -> None:
    while True:
        await asyncio.sleep(30)
        print(
            f"{tally.elapsed_s():.0f} s: {sum(tally.faults.values())} faults, {sum(tally.answers.values())} answers, "
            f"broken: {dict(tally.broken) or 'nothing'}",
            flush=True,
        )


async def _judge(sessions: list[Session], fleet: Fleet, tally: Tally, fake: FakeProvider) -> None:
    """When all is over: the queue is empty, streams are closed, newcomers see the same, and every key will go."""
    try:
        await until(lambda: _nothing_open(fleet), "nothing is open", SETTLED_WITHIN_S)
    except AssertionError:
        left = await _open_jobs(fleet)
        tally.breaks("left_open", f"{left[:5]}", len(left))
    judge_calls(fake, tally)
    for number, session in enumerate(sessions):
        await session.look_again(fleet.url(number))
    for key, ttl in (await fleet.world.ttls()).items():
        if ttl == -1:
            tally.breaks("no_ttl", key)


async def _open_jobs(fleet: Fleet) -> list[str]:
    rows = await fleet.world.redis.zrange(f"{fleet.world.prefix}:q:{{default}}:open", 0, -1)
    return [str(row) for row in rows]


async def _nothing_open(fleet: Fleet) -> bool:
    return not await _open_jobs(fleet)


async def _memory(fleet: Fleet) -> dict[str, float]:
    used = (await fleet.world.redis.info("memory"))["used_memory"] / 2**20
    return {name: memory_mib(process.pid) for name, process in fleet.processes()} | {"redis, used": used}


def _judge_logs(fleet: Fleet, tally: Tally) -> None:
    for process in [*fleet.ended, *(process for _, process in fleet.processes())]:
        for trace in process.stderr.read_text().split("Traceback (most")[1:]:
            tally.breaks("bug", f"{process.name}: {trace[:1500]}")
        for line in process.lines():
            if line.get("level") in ("error", "critical") and line["event"] not in EXPECTED:
                tally.breaks("bug", f"{process.name}: {line}")


if __name__ == "__main__":
    sys.exit(main())
