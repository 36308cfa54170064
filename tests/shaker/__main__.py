"""Shaker: gateways and a worker in one process, one more gateway in another, each with Redis behind a proxy that delays
every piece at random, in each direction by itself; sessions whose viewers come, go and come back elsewhere.

    python3 tasks.py shaker [--minutes 1] [--seed N] [--sessions 6]

The seed decides what is drawn; sockets are as free as ever, so it is a hint, not a recording. Exits with 0 if something
was judged and nothing was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis

from relay import embedded, settings
from relay.gateway import event_stream, sinks
from relay.gateway.server import listen, server
from relay.settings import Settings
from relay.store.keys import Keys
from relay.store.session.session_log import SessionLog
from relay_workers import worker
from relay_workers.asking.provider_pool import provider_pool
from tests import sink_order
from tests.fakes.provider import FakeProvider
from tests.scenarios.processes import until
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import World
from tests.shaker.figures import Model, Tally
from tests.shaker.life import Life

MOST_S = 0.06
LONG_S, SELDOM = 1.5, 0.001  # now and then, so much in one piece
EVERY_S, LATE_S, LATE_FOR_S = 0.05, 0.25, 3.0  # a look, what is late, and for how long that may be felt
SHAKEN: dict[str, Any] = {
    "batch_size": 5, "batch_linger_ms": 15, "trim_after_s": 1, "window_bytes": 3000, "follower_linger_s": 0.5,
    "max_generations": 4,
}  # fmt: skip


class Shaky(Proxy):
    """Redis, some way off, and never as far as a moment ago. Nothing takes long while it is `calm`."""

    def __init__(self, redis_url: str, chance: random.Random, calm: Calm) -> None:
        super().__init__(redis_url)
        self._shakes = chance
        self._calm = calm

    def delay_s(self) -> float:
        long = self._shakes.random() < SELDOM and not self._calm.is_wanted
        return LONG_S if long else self._shakes.uniform(0, MOST_S)


class Calm:
    """The first half: nobody can have lost Redis from sight, as long as it and this process have answered at once."""

    def __init__(self) -> None:
        self.until_s = math.inf
        self._late_s = -math.inf

    @property
    def is_wanted(self) -> bool:
        return time.monotonic() < self.until_s

    def __call__(self) -> bool:
        return self.is_wanted and time.monotonic() - self._late_s > LATE_FOR_S

    async def watch(self, redis: Redis, tally: Tally) -> None:
        """Until cancelled. `redis`: by a way that nothing shakes."""
        while True:
            tally.done["looks at a time at which nobody could lose Redis from sight"] += self()
            asked_s = time.monotonic()
            await asyncio.sleep(EVERY_S)
            await redis.ping()
            if time.monotonic() - asked_s > EVERY_S + LATE_S:
                self._late_s = time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--sessions", type=int, default=6, help="at a time")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    for name in [name for name in os.environ if name.startswith(("RELAY_", "OPENAI_", "ANTHROPIC_", "AGENT_"))]:
        del os.environ[name]  # nothing of this machine's settings may reach it
    tally = Tally(options.seed)
    for module in (sinks, event_stream):
        sink_order.watch(module, lambda complaint: tally.count("order", complaint))
    with tempfile.TemporaryDirectory() as directory, embedded.embedded_server() as redis_url:
        asyncio.run(shake(options, redis_url, Path(directory), tally))
    print(tally.table())
    return 1 if tally.wrong or not tally.done["verdicts"] else 0


async def shake(options: argparse.Namespace, redis_url: str, directory: Path, tally: Tally) -> None:
    chance = random.Random(options.seed)
    model = Model(random.Random(options.seed + 1))
    _log_to(tally)
    async with FakeProvider(model) as fake, AsyncExitStack() as stack:
        world = World(redis_url, directory, fake)
        calm = Calm()
        shaky = [await stack.enter_async_context(Shaky(redis_url, chance, calm)) for _ in range(4)]
        stack.push_async_callback(_close, world, tally)  # before Redis is out of its gateway's reach
        urls = await _relay(world, [proxy.url for proxy in shaky], stack)
        near = SessionLog(
            world.redis, world.redis, Keys(world.prefix), session_ttl_s=3600, max_generations=100, max_requests=1000
        )  # fmt: skip
        calm.until_s, over_at = (time.monotonic() + options.minutes * seconds for seconds in (30, 60))
        async with asyncio.TaskGroup() as helpers:
            watching = helpers.create_task(calm.watch(world.redis, tally), name="calm")
            async with asyncio.TaskGroup() as tasks:
                for place in range(options.sessions):
                    name, own = f"s{place}", random.Random(options.seed * 1000 + place)
                    tasks.create_task(_lives(name, urls, near, model, tally, own, calm, over_at), name=name)
            watching.cancel()
    for question, calls in model.said.items():
        if len(calls) > 1:  # nothing here fails, and the worker lives
            tally.count("asked", f"{question}: {len(calls)} calls")


async def _close(world: World, tally: Tally) -> None:
    try:
        await world.aclose()
    except AssertionError as error:  # what the gateway in its own process has logged
        tally.count("bug", str(error)[:1500])


async def _lives(
    name: str, urls: list[str], near: SessionLog, model: Model, tally: Tally, chance: random.Random, calm: Calm,
    over_at: float,
) -> None:  # fmt: skip
    """One session after the other."""
    number = 0
    while time.monotonic() < over_at:
        number += 1
        await Life(f"{name}.{number}", urls, near, model, tally, chance, calm).run()


async def _relay(world: World, redis_urls: list[str], stack: AsyncExitStack) -> list[str]:
    """Two gateways and a worker here, a gateway in a process of its own; the gateways' addresses."""
    fake, (first, second, third, workers) = world.fake, redis_urls
    ours = {**SHAKEN, "prefix": world.prefix, "openai_base_url": fake.openai_base_url, "openai_api_key": "sk-shaker"}
    urls = []
    for redis_url in (first, second):
        chosen = settings.load(**ours, redis_url=redis_url)
        urls.append(await stack.enter_async_context(_gateway(chosen)))
    environment = {f"RELAY_{name.upper()}": str(value) for name, value in SHAKEN.items()}
    gateway = await world.gateway(**environment, RELAY_REDIS_URL=third)
    await stack.enter_async_context(_worker(settings.load(**ours, redis_url=workers, provider="openai")))
    return [*urls, gateway.url]


@asynccontextmanager
async def _gateway(chosen: Settings) -> AsyncIterator[str]:
    sock = listen("127.0.0.1", 0)
    made = server(chosen, handle_signals=False)
    serving = asyncio.create_task(made.serve(sockets=[sock]), name="gateway")
    await until(lambda: made.started or serving.done(), "the gateway listens", 60)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        made.should_exit = True
        await serving


@asynccontextmanager
async def _worker(chosen: Settings) -> AsyncIterator[None]:
    stopping, at_once = asyncio.Event(), asyncio.Event()
    at_once.set()
    working = asyncio.create_task(worker.run(chosen, provider_pool(chosen), stopping, at_once), name="worker")
    try:
        yield
    finally:
        stopping.set()
        await working


def _log_to(tally: Tally) -> None:
    """What is logged as an error here is a finding, whoever logs it; nothing else is logged."""

    def found(logger: Any, method: str, event: Any) -> Any:
        if method in ("error", "exception", "critical"):
            tally.count("bug", str(dict(event))[:1500])
        raise structlog.DropEvent

    class Found(logging.Handler):
        """What asyncio says of a task whose failure nobody awaits, and uvicorn of a request's."""

        def emit(self, record: logging.LogRecord) -> None:
            tally.count("bug", self.format(record)[:1500])

    structlog.configure(processors=[structlog.processors.format_exc_info, found])
    logging.getLogger().addHandler(Found(logging.ERROR))


if __name__ == "__main__":
    sys.exit(main())
