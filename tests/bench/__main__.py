"""Benchmarks: what one part costs on this machine. `python3 tasks.py bench [NAME …]`.

Each figure is the median of several rounds in one process. Machines are noisy: compare figures of one run.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
import zlib
from collections.abc import Callable

import msgspec
import redis.asyncio

from relay import embedded
from relay.follow.broadcast import Burst
from relay.gateway.websocket_protocol import text_frame
from relay.protocol import events, frames
from relay.protocol.compact import catchups
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.session.replies import Claim
from relay.store.session.session_log import Append, SessionLog
from relay_workers.writing.batching import Batcher
from tests.bench.connect import connect_cost
from tests.bench.dropped import dropped
from tests.bench.first_byte import first_byte
from tests.bench.footprint import footprint
from tests.bench.load import load
from tests.bench.providers import providers

ROUNDS = 7
_TEXT = " and so on"


def median_us(work: Callable[[], int]) -> float:
    """Median microseconds per unit; `work` returns how many units it did."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        units = work()
        rounds.append((time.perf_counter() - began) / units * 1e6)
    return statistics.median(rounds)


def batching() -> None:
    def work() -> int:
        batcher = Batcher(20, 50)
        for number in range(20_000):
            batcher.add("tokens", _TEXT, number / 10)
            batcher.take(number / 10)
        return 20_000

    print(f"batching        {median_us(work):8.2f} µs per token")


def compaction() -> None:
    entries = [(seq, events.encode(events.Tokens("g_1", 1, seq * 20, 20, _TEXT * 20))) for seq in range(1, 2501)]

    def work() -> int:
        for frame in catchups("s", 0, entries, len(entries), 262_144):
            frames.encode(frame)
        return len(entries)

    made = [frames.encode(frame) for frame in catchups("s", 0, entries, len(entries), 262_144)]
    text_bytes = 50_000 * len(_TEXT)
    print(f"compaction      {median_us(work):8.2f} µs per batch; a 50,000-token answer resumes in {len(made)} frames,")
    print(f"                {sum(map(len, made)) / text_bytes * 100 - 100:8.2f} % more bytes than its text")


def fan_out() -> None:
    body = events.encode(events.Tokens("g_1", 1, 0, 20, _TEXT * 20))

    def work() -> int:
        for seq in range(1, 2001):
            burst = Burst(seq, [events.live_frame("s", seq, body)])
            for _ in range(10):
                burst.joined(text_frame)
        return 20_000

    print(f"fan-out         {median_us(work):8.2f} µs per frame and viewer, before the socket (10 viewers)")


async def appending() -> None:
    with embedded.embedded_server() as url:
        client = redis.asyncio.Redis.from_url(url)
        log = SessionLog(client, client, Keys("bench"), session_ttl_s=600, max_generations=200, max_requests=1000)
        rounds = []
        for number in range(ROUNDS):
            name = f"g_{number}"
            await log.admit(Job(f"s{number}", name, "r", "h", "default", "m", "q"))
            claim = await log.claim(f"s{number}", name, "w", 10_000, 0)
            assert isinstance(claim, Claim)
            crc32, text = 0, _TEXT * 20
            body = events.encode(events.Tokens(name, 1, 0, 20, text))
            began = time.perf_counter()
            for n in range(1, 1001):
                crc32 = zlib.crc32(text.encode(), crc32)
                append = Append("tokens", body, 20 * (n - 1), 20, text, n * len(text), crc32)
                outcome = await log.append(f"s{number}", name, claim.fence, n, 10_000, append)
                assert outcome.what == "written"
            rounds.append((time.perf_counter() - began) / 1000 * 1e6)
        used = await client.memory_usage(Keys("bench").session("s0", "log"))
        print(f"append          {statistics.median(rounds):8.2f} µs per batch, one in flight (script, reply, client)")
        print(f"log             {(used or 0) / 1000:8.2f} bytes per batch of {len(text)} bytes of text")
        await client.aclose()


def encoding() -> None:
    event = events.Tokens("g_1", 1, 0, 20, _TEXT * 20)
    encode = msgspec.json.Encoder().encode

    def work() -> int:
        for _ in range(20_000):
            encode(event)
        return 20_000

    print(f"encoding        {median_us(work):8.2f} µs per batch")


BENCHES: dict[str, Callable[[], object]] = {
    "batching": batching,
    "encoding": encoding,
    "compaction": compaction,
    "fan-out": fan_out,
    "append": lambda: asyncio.run(appending()),
    "first-byte": first_byte,
    "connect": connect_cost,
    "footprint": footprint,
    "load": load,
    "providers": providers,
    "dropped": dropped,
}


def main(names: list[str]) -> int:
    if {"-h", "--help"} & set(names):
        print(f"{__doc__}\nThere are {', '.join(BENCHES)}.")
        return 0
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
        return 2
    for name in names or BENCHES:
        BENCHES[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
