"""How many answers one worker process holds on one core; everything else runs on the others.

A real worker reads real HTTP, one event per read, and appends to a real Redis. Measured where a gateway would see it,
at Redis' pub/sub: how old each token is when its batch is published. The text of the answers that are watched is
compared byte for byte with what the provider sent. `BENCH_SECONDS` is how long each row is measured.

`kept %`: how long others had the worker's core while it wanted it. A row with much of that is about them.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from relay import embedded
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.queue.enqueue import JobSubmitter
from relay.store.queue.queue import Queue
from relay.store.session.session_log import SessionLog
from tests.bench.recorded import RECORDED
from tests.bench.steady_provider import TEXT_BYTES, age_s
from tests.scenarios import processes

ANSWERS = (25, 50, 100, 200, 300, 400)
TOKENS_PER_SECOND = 50
WATCHED = 20
HELD_S = 0.25  # the age that a row may have at p95
HOPELESS_S = 2.0  # at this age larger rows are left out
LATE_S = 0.01  # a fake that is later than this is what was measured
_ROW = "{:10} {:>7} {:>8} {:>8} {:>9} {:>7} {:>7} {:>7} {:>7} {:>9} {:>8}  {}"
_COLUMNS = (
    "api", "answers", "p50 ms", "p95 ms", "tokens/s", "CPU %", "kept %", "µs/tok", "per app", "KiB/answ", "fake ms", "",
)  # fmt: skip


def answers_per_core() -> None:
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        print("answers per core: left out, as it needs Linux and two cores")
        return
    asyncio.run(_answers_per_core())


async def _answers_per_core() -> None:
    worker_core, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others)  # this process, and all that it starts
    try:
        print(_ROW.format(*_COLUMNS))
        for api in RECORDED:
            with embedded.embedded_server() as url, tempfile.TemporaryDirectory() as directory:
                async with Redis.from_url(url) as redis:
                    await _rows(api, url, redis, Path(directory), worker_core)
    finally:
        os.sched_setaffinity(0, {worker_core, *others})


async def _rows(api: str, url: str, redis: Redis, directory: Path, worker_core: int) -> None:
    fake = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.steady_provider", api, str(TOKENS_PER_SECOND),
        stdin=PIPE, stdout=PIPE, limit=2**28,
    )  # fmt: skip
    address = f"http://127.0.0.1:{(await _read(fake))['port']}"
    settings = {
        "RELAY_REDIS_URL": url,
        "RELAY_PREFIX": "b",
        "RELAY_CONCURRENCY": str(max(ANSWERS)),
        "OPENAI_API_KEY": "key",
        "OPENAI_BASE_URL": f"{address}/v1",
        "ANTHROPIC_API_KEY": "key",
        "ANTHROPIC_BASE_URL": address,
    }
    worker = processes.Process(["relay-worker", "--provider", api], directory, f"{api}-worker", settings)
    os.sched_setaffinity(worker.pid, {worker_core})
    held = 0
    try:
        await processes.until(lambda: worker.logged("serving"), "the worker serves", 60)
        for thread in _threads(worker.pid):
            os.sched_setaffinity(thread, {worker_core})
        run = _Run(api, redis, fake, worker.pid)
        await run.row(10)  # what is made once
        for answers in ANSWERS:
            row = await run.row(answers)
            print(row.line(api, answers), flush=True)
            held = answers if row.p95_s < HELD_S and not row.fake_was_late else held
            if row.p95_s > HOPELESS_S:
                break
        print(f"{api}: holds {held} answers of {TOKENS_PER_SECOND} tokens/s (p95 below {HELD_S * 1000:.0f} ms)")
    finally:
        await worker.end()
        fake.kill()
        await fake.wait()


class Row(NamedTuple):
    ages_s: list[float]
    seconds: float
    tokens: float
    cpu_s: float
    kept_waiting_s: float
    tokens_per_append: float
    bytes_per_answer: float
    fake_late_s: float
    wrong: int

    @property
    def p95_s(self) -> float:
        return statistics.quantiles(self.ages_s, n=20)[18]

    @property
    def fake_was_late(self) -> bool:
        return self.fake_late_s > LATE_S

    def line(self, api: str, answers: int) -> str:
        marks = ["the fake was late"] * self.fake_was_late + [f"{self.wrong} WRONG TEXTS"] * bool(self.wrong)
        return _ROW.format(
            api, answers, round(statistics.median(self.ages_s) * 1000), round(self.p95_s * 1000),
            round(self.tokens / self.seconds), round(self.cpu_s / self.seconds * 100),
            round(self.kept_waiting_s / self.seconds * 100), f"{self.cpu_s / self.tokens * 1e6:.1f}",
            f"{self.tokens_per_append:.1f}", round(self.bytes_per_answer / 1024), f"{self.fake_late_s * 1000:.1f}",
            ", ".join(marks),
        )  # fmt: skip


class _Run:
    def __init__(self, api: str, redis: Redis, fake: Process, pid: int) -> None:
        self._api, self._redis, self._fake, self._pid = api, redis, fake, pid
        self._keys = Keys("b")
        self._log = SessionLog(redis, redis, self._keys, session_ttl_s=3600, max_generations=200, max_requests=1000)
        queue = Queue(redis, redis, self._keys, max_backlog=10_000, ttl_s=3600, trim_after_s=3600)
        self._queue = queue
        self._submitter = JobSubmitter(self._log, queue, redis, look_ms=5000)
        self._rows = 0

    async def row(self, answers: int) -> Row:
        self._rows += 1
        sessions = [f"r{self._rows}-{number}" for number in range(answers)]
        idle_bytes = _pss_bytes(self._pid)
        watched = sessions[:: max(1, answers // WATCHED)]
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(*(self._keys.session(session, "events") for session in watched))
            watch = _Watch(pubsub)
            watching = asyncio.create_task(watch.run(len(watched)))
            await self._submit(sessions)
            await self._ask(f"expect {answers}")
            await asyncio.sleep(2)
            seconds = float(os.environ.get("BENCH_SECONDS", "8"))
            await self._ask("window")
            watch.begin()
            cpu_s, kept_s, began_s = _cpu_s(self._pid), _kept_waiting_s(self._pid), time.monotonic()
            await asyncio.sleep(seconds)
            cpu_s, kept_s = _cpu_s(self._pid) - cpu_s, _kept_waiting_s(self._pid) - kept_s
            seconds = time.monotonic() - began_s
            ages_s, appends = watch.end()
            running_bytes = _pss_bytes(self._pid)
            window = await self._ask("window")
            sent = await self._ask("end")
            await watching
        wrong = sum([await self._text(session) != sent[session] for session in watched])
        wrong += sum(watch.texts.get(session) != sent[session] for session in watched)
        tokens = len(ages_s) * answers / len(watched)
        await self._all_ended(sessions)
        await self._redis.flushdb()
        return Row(
            ages_s, seconds, tokens, cpu_s, kept_s, len(ages_s) / appends, (running_bytes - idle_bytes) / answers,
            window["late_p95_s"], wrong,
        )  # fmt: skip

    async def _submit(self, sessions: list[str]) -> None:
        await self._queue.announce("default")
        for session in sessions:
            job = Job(session, f"g-{session}", f"q-{session}", "h" * 43, "default", f"m-{session}", session)
            await self._submitter.submit(job)

    async def _text(self, session: str) -> str:
        stored: Any = await self._redis.get(self._keys.generation(session, f"g-{session}", "text"))
        text: bytes = stored or b""
        return text.decode()

    async def _all_ended(self, sessions: list[str]) -> None:
        for session in sessions:

            async def ended(session: str = session) -> bool:
                fields = await self._log.generation_fields(session, f"g-{session}")
                return fields is not None and fields["state"] == "ended"

            await processes.until(ended, f"{session} ends", 120)

    async def _ask(self, order: str) -> Any:
        assert self._fake.stdin is not None
        self._fake.stdin.write(order.encode() + b"\n")
        return await _read(self._fake)


class _Published(msgspec.Struct):
    type: str
    generation: str = ""
    text: str = ""


_decode = msgspec.json.Decoder(_Published).decode


class _Watch:
    """Reads what is published of the watched sessions, until each has ended."""

    def __init__(self, pubsub: Any) -> None:
        self.texts: dict[str, str] = {}
        self._pubsub = pubsub
        self._ages_s: list[float] = []
        self._appends = 0

    def begin(self) -> None:
        self._ages_s, self._appends = [], 0

    def end(self) -> tuple[list[float], int]:
        return self._ages_s, self._appends

    async def run(self, sessions: int) -> None:
        ended = 0
        async for message in self._pubsub.listen():
            if message["type"] != "message":
                continue
            now_s = time.monotonic()
            event = _decode(message["data"].split(b" ", 2)[2])
            session = event.generation.removeprefix("g-")
            if event.type == "tokens":
                self.texts[session] = self.texts.get(session, "") + event.text
                self._appends += 1
                for at in range(0, len(event.text), TEXT_BYTES):
                    self._ages_s.append(age_s(event.text[at : at + TEXT_BYTES], now_s))
            ended += event.type == "end"
            if ended == sessions:
                return


async def _read(fake: Process) -> Any:
    assert fake.stdout is not None
    return json.loads(await fake.stdout.readline())


def _threads(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kept_waiting_s(pid: int) -> float:
    """For how long its main thread wanted the core while somebody else had it."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
