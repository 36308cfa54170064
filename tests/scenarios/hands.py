"""Worker processes under faults: killed, frozen and woken, told to go, each replaced; who could not act, and when.

Each has both providers and a key of its own, by which the fake's calls tell who asked.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from typing import Any

from tests.fakes.provider import Call
from tests.scenarios.processes import Process, free_port
from tests.scenarios.world import World

PROVIDERS = ("openai,anthropic", "anthropic,openai")


class Hand:
    """One worker process. `frozen`: from when to when, by time.monotonic()."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.frozen: list[tuple[float, float]] = []
        self.going = False
        self.busy = False

    def made(self, call: Call) -> bool:
        return self.name in (
            call.headers.get("x-api-key"),
            call.headers.get("authorization", "").removeprefix("Bearer "),
        )

    def was_frozen(self, since_s: float, until_s: float) -> bool:
        return any(began_s <= until_s and ended_s >= since_s for began_s, ended_s in self.frozen)

    def naps(self, awake_s: float) -> list[tuple[float, float]]:
        """When it was frozen, and woke up; frozen at first, if it was not awake for `awake_s` in between."""
        found: list[tuple[float, float]] = []
        for began_s, ended_s in self.frozen:
            again = bool(found) and began_s - found[-1][1] < awake_s
            found.append((found[-1][0] if again else began_s, ended_s))
        return found

    def lost(self, generation: str) -> bool:
        """Whether it has found itself replaced, or was killed before it could."""
        told = [line["why"] for line in self.process.lines() if line.get("generation") == generation and "why" in line]
        return "stale" in told or self.process.code == -signal.SIGKILL


class Hands:
    """So many at a time; `all` that there ever were."""

    def __init__(self, relay: World, chance: random.Random, lease_s: float) -> None:
        self.all: list[Hand] = []
        self.befell: Counter[str] = Counter()
        self._relay = relay
        self._chance = chance
        self._lease_s = lease_s

    @property
    def running(self) -> list[Hand]:
        return [hand for hand in self.all if not hand.going]

    async def start(self, many: int) -> None:
        await asyncio.gather(*(self._one_more() for _ in range(many)))

    async def suffer(self, over: asyncio.Event, most: int, pause_s: tuple[float, float]) -> None:
        """One fault after the other until it is over; then all that run are awake. One is always left alone."""
        faults = [self._killed, self._told, self._told_twice, *[self._frozen] * 4]  # whose replacement takes no time
        async with asyncio.TaskGroup() as tasks:
            ended = tasks.create_task(over.wait())
            while not over.is_set() and self.befell.total() < most:
                await asyncio.wait([ended], timeout=self._chance.uniform(*pause_s))
                free = [hand for hand in self.running if not hand.busy]
                if len(free) > 1 and not over.is_set():
                    hand, fault = self._chance.choice(free), self._chance.choice(faults)
                    hand.busy = True
                    self.befell[fault.__name__.strip("_")] += 1
                    tasks.create_task(fault(hand))

    def who(self, call: Call) -> Hand:
        return next(hand for hand in self.all if hand.made(call))

    async def _one_more(self) -> None:
        name = f"sk-{len(self.all)}"
        self.all.append(hand := Hand(name, None))  # type: ignore[arg-type]  # its name is taken before it has started
        hand.busy = True
        keys: dict[str, Any] = {
            "OPENAI_API_KEY": name,
            "ANTHROPIC_API_KEY": name,
            "ANTHROPIC_BASE_URL": self._relay.fake.anthropic_base_url,
        }
        flags = ("--metrics-port", str(free_port()))
        hand.process = await self._relay.worker(*flags, provider=self._chance.choice(PROVIDERS), **keys)
        hand.busy = False

    async def _killed(self, hand: Hand) -> None:
        hand.going = True
        await hand.process.kill()
        await self._one_more()

    async def _told(self, hand: Hand) -> None:
        hand.going = True
        hand.process.signal(signal.SIGTERM)
        await self._one_more()
        assert await hand.process.exited(60) == 0

    async def _told_twice(self, hand: Hand) -> None:
        hand.going = True
        hand.process.signal(signal.SIGTERM)
        await asyncio.sleep(self._chance.uniform(0, 0.3))
        if hand.process.code is None:
            hand.process.signal(signal.SIGTERM)
        await self._one_more()
        code = await hand.process.exited(60)
        # Between its last word and its exit nobody minds the signal any more.
        assert code == 0 or (code == -signal.SIGTERM and hand.process.logged("stopped")), (hand.name, code)

    async def _frozen(self, hand: Hand) -> None:
        began_s = time.monotonic()
        hand.frozen.append((began_s, float("inf")))
        hand.process.signal(signal.SIGSTOP)
        await asyncio.sleep(self._lease_s * self._chance.uniform(0.3, 2.5))
        hand.process.signal(signal.SIGCONT)
        hand.frozen[-1] = (began_s, time.monotonic())
        hand.busy = False
