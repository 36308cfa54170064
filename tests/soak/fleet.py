"""The processes under soak, each with Redis behind a proxy of its own, and every fault that befalls them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from relay.store.keys import Keys
from tests.scenarios.processes import Process
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import Gateway, World
from tests.soak.figures import Tally
from tests.soak.losses import Losses

LEASE_S = 2.0
LOST_AFTER_S = 20.0
DISTANCES_MS = (0, 2, 8, 25)  # of Redis, in each direction; one of them for each life of a process
SETTINGS = {
    "RELAY_LEASE_S": str(LEASE_S),
    "RELAY_BATCH_LINGER_MS": "100",
    "RELAY_TRIM_AFTER_S": "20",
    "RELAY_LOST_AFTER_S": str(LOST_AFTER_S),
}


class Place:
    """Where one process stands, and its successors. `busy` while a fault is on: one at a time."""

    def __init__(self, kind: str, number: int, proxy: Proxy) -> None:
        self.name = f"{kind} {number}"
        self.kind = kind
        self.proxy = proxy
        self.process: Process | None = None
        self.busy = asyncio.Lock()


class Fleet:
    """Gateways, workers and their faults."""

    def __init__(
        self, world: World, chance: random.Random, tally: Tally, *, lose_data: bool, redis_ms: float | None
    ) -> None:
        """`redis_ms`: how far away Redis is; None: each process draws its own of DISTANCES_MS."""
        self.world = world
        self.losses = Losses(LOST_AFTER_S)
        self.shown: Callable[[], dict[str, set[str]]] = dict  # answers without an end, and the gateways that show them
        self._redis_ms = redis_ms
        self.places: list[Place] = []
        self.ended: list[Process] = []
        self._chance = chance
        self._tally = tally
        self._stack = AsyncExitStack()
        world.settings = dict(SETTINGS)
        ours: list[Callable[[Place], Awaitable[None]]] = [
            self.killed, self.told_to_go, self.paused, self.cut_off, self.without_redis, self.redis_hangs,
            self.redis_slow,
        ]  # fmt: skip
        self._faults = {
            "gateway": ours,
            "worker": [*ours, self.frozen, self.frozen, self.replies_lost, self.replies_lost],
        }
        self._of_all = [self.pubsub_killed, self.redis_paused, *([self.data_lost] if lose_data else [])]

    async def start(self, gateways: int, workers: int) -> None:
        for kind, number in [("gateway", n) for n in range(gateways)] + [("worker", n) for n in range(workers)]:
            proxy = await self._stack.enter_async_context(Proxy(self.world.redis_url))
            place = Place(kind, number, proxy)
            await self._begin(place)
            self.places.append(place)

    async def aclose(self) -> None:
        """End the processes before their proxies: what they log while Redis goes is no finding."""
        await self.world.end_processes()
        await self._stack.aclose()

    def url(self, number: int) -> str:
        """Of a gateway that runs, the one of this number if it does."""
        gateways = [place.process for place in self.places if isinstance(place.process, Gateway)]
        return gateways[number % len(gateways)].url if gateways else "http://127.0.0.1:9"

    def gateway_at(self, url: str) -> str | None:
        """The name of the gateway process that runs there."""
        gateways = [process for _, process in self.processes() if isinstance(process, Gateway)]
        return next((gateway.name for gateway in gateways if gateway.url == url), None)

    def processes(self) -> list[tuple[str, Process]]:
        return [(place.name, place.process) for place in self.places if place.process is not None]

    async def claims(self, session: str, generation: str) -> int:
        """How often a generation was claimed. 0: Redis knows nothing of it."""
        key = Keys(self.world.prefix).generation(session, generation)
        return int(await self.world.redis.hget(key, "claims") or 0)

    # One fault after the other

    async def run(self, pause_s: tuple[float, float]) -> None:
        """Until cancelled; every fault that has begun is over then."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(self._chance.uniform(*pause_s))
                if self._chance.random() < 0.12:
                    tasks.create_task(self._chance.choice(self._of_all)())
                    continue
                free = [place for place in self.places if not place.busy.locked()]
                if free:
                    place = self._chance.choice(free)
                    tasks.create_task(self._befall(place, self._chance.choice(self._faults[place.kind])))

    async def settle(self) -> None:
        """Everybody runs, and nothing stands between them and Redis."""
        for place in self.places:
            async with place.busy:
                if place.process is None or place.process.code is not None:
                    await self._begin(place)

    async def _befall(self, place: Place, fault: Callable[[Place], Awaitable[None]]) -> None:
        async with place.busy:
            self._tally.fault(f"{place.kind} {fault.__name__.replace('_', ' ')}", place.name)
            befalling = asyncio.ensure_future(fault(place))
            try:
                await asyncio.shield(befalling)
            except asyncio.CancelledError:
                await befalling  # its place is not free before: two processes would stand there, one of them for ever
                raise

    # Faults of one process

    async def killed(self, place: Place) -> None:
        assert place.process is not None
        place.process.signal(signal.SIGKILL)
        await self._again(place)

    async def told_to_go(self, place: Place) -> None:
        assert place.process is not None
        place.process.signal(signal.SIGTERM)
        await self._again(place)

    async def paused(self, place: Place) -> None:
        async with _stopped(place, self._chance.uniform(0.2, 1.0)):
            pass

    async def frozen(self, place: Place) -> None:
        """Longer than its lease."""
        async with _stopped(place, LEASE_S * self._chance.uniform(1.5, 2.5)):
            pass

    async def cut_off(self, place: Place) -> None:
        place.proxy.cut()

    async def without_redis(self, place: Place) -> None:
        async with place.proxy.away():
            await asyncio.sleep(self._chance.uniform(0.3, 4))

    async def redis_hangs(self, place: Place) -> None:
        async with place.proxy.frozen():
            await asyncio.sleep(self._chance.uniform(0.3, 4))

    async def redis_slow(self, place: Place) -> None:
        async with place.proxy.slow(self._chance.uniform(0.02, 0.3)):
            await asyncio.sleep(3)

    async def replies_lost(self, place: Place) -> None:
        many = self._chance.choice([1, 3, 7, 20])
        async with place.proxy.losing_replies(many) if self._chance.random() < 0.7 else place.proxy.failing(many):
            await asyncio.sleep(1.5)

    # Faults of all

    async def pubsub_killed(self) -> None:
        self._tally.fault("every subscription killed", "redis")
        await self.world.redis.client_kill_filter(_type="pubsub")

    async def redis_paused(self) -> None:
        self._tally.fault("redis paused", "redis")
        pid = int((await self.world.redis.info("server"))["process_id"])
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self._chance.uniform(0.3, 3))
        finally:
            os.kill(pid, signal.SIGCONT)

    async def data_lost(self) -> None:
        self._tally.fault("redis lost everything", "redis")
        self.losses.lost(self._tally.elapsed_s(), self.shown())
        await self.world.redis.flushall()

    async def _again(self, place: Place) -> None:
        """Another one in its place. Nobody is sent to the one that goes."""
        assert place.process is not None
        going, place.process = place.process, None
        self.losses.gone(going.name, self._tally.elapsed_s())
        self.ended.append(going)
        await going.exited(60)
        await asyncio.sleep(self._chance.uniform(0, 2))
        await self._begin(place)

    async def _begin(self, place: Place) -> None:
        url = place.proxy.url
        ms = self._redis_ms if self._redis_ms is not None else self._chance.choice(DISTANCES_MS)
        place.proxy.latency_s = ms / 1000
        if place.kind == "gateway":
            place.process = await self.world.gateway(RELAY_REDIS_URL=url)
        else:
            place.process = await self.world.worker("--concurrency", "64", RELAY_REDIS_URL=url, RELAY_GRACE_S="2")


@asynccontextmanager
async def _stopped(place: Place, seconds: float) -> AsyncIterator[None]:
    assert place.process is not None
    place.process.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
        yield
    finally:
        place.process.signal(signal.SIGCONT)


def memory_mib(pid: int) -> float:
    """Resident memory of a process (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
