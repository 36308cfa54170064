"""A Redis that loses nothing: whatever else happens, a session keeps its epoch, and nobody is told of trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from relay.follow import follower as follower_module
from relay.follow import visibility
from tests.examples import tries
from tests.follow.following import Recorder, Stage
from tests.store.in_memory import Clock, Writer, admitted_and_claimed, redis_in_memory, session_log_on

TEXTS = ["plain ", 'quoted "\\/" ', "\x00\x01\b\t\n\f\r\x1b\x7f", "ä€😀\u2028\u2029\x85", "x" * 300]
NUMBER = st.integers(0, 30)
STEP = st.tuples(
    st.sampled_from(
        ["write"] * 8 + ["end"] * 3 + ["trim"] * 3 + ["deliver"] * 5 + ["drop", "repeat", "reorder"] + ["turn"] * 3
        + ["look"] * 2 + ["acknowledge", "join", "resume", "slow", "drain", "anew", "stop"]
    ),
    NUMBER,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def no_routine_looks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follower_module, "SYNC_EVERY_S", 1000)
        patch.setattr(follower_module, "IDLE_SYNC_S", 1000)
        patch.setattr(visibility, "DEGRADED_AFTER_S", 1000)  # a machine may be slow without being in trouble
        yield


class Gateways:
    """Two gateways that follow one session; each hears of it in its own way."""

    def __init__(self, redis: Redis, window_bytes: int, page_bytes: int, forgets: int, overtaking: list[int]) -> None:
        log = session_log_on(redis, max_generations=forgets)
        self.stages = [Stage(redis, log, window_bytes=window_bytes, shelf_bytes=4000) for _ in range(2)]
        self.log = log
        self.window_bytes = window_bytes
        self.page_bytes = page_bytes
        self.overtaking = overtaking
        self.open: dict[str, Writer] = {}
        self.names: list[str] = []
        self.resumed: list[Recorder] = []  # their clients had something before

    async def begin(self, stage: Stage) -> None:
        async def overtakes() -> None:
            if self.overtaking and stage.in_flight:
                stage.source.say(stage.in_flight[self.overtaking.pop() % len(stage.in_flight)])

        stage.read.page_bytes = self.page_bytes
        stage.read.after_range = stage.read.after_open = overtakes
        await stage.follower.start()

    async def anew(self, number: int) -> None:
        """A gateway is restarted."""
        place = number % 2
        before = self.stages[place]
        await before.aclose()
        stage = self.stages[place] = Stage(before.redis, self.log, window_bytes=self.window_bytes, shelf_bytes=4000)
        stage.in_flight, stage._published = before.in_flight, before._published
        await self.begin(stage)

    async def overhear(self) -> None:
        for stage in self.stages:
            await stage.overhear()


async def play(
    steps: list[tuple[str, int]], window_bytes: int, page_bytes: int, forgets: int, overtaking: list[int]
) -> None:
    redis = redis_in_memory()
    world = Gateways(redis, window_bytes, page_bytes, forgets, overtaking)
    for stage in world.stages:
        await world.begin(stage)
        stage.viewer()
    epoch = world.stages[0].follower.epoch
    try:
        for what, number in steps:
            await step(world, what, number)
            assert {stage.follower.epoch for stage in world.stages} == {epoch}, what
        for stage in world.stages:
            await everybody_has_everything(world, stage)
            stage.source.say(*stage.in_flight)
            await everybody_has_everything(world, stage)
            assert stage.follower.epoch == epoch
            for viewer in stage.viewers:
                assert viewer.told == []
    finally:
        for stage in world.stages:
            await stage.aclose()
        await redis.aclose()


async def everybody_has_everything(world: Gateways, stage: Stage) -> None:
    await stage.follower.sync()
    opened = await stage.log.open("s")
    assert opened is not None
    assert (stage.follower.epoch, stage.follower.frontier) == (opened.epoch, opened.head)
    assert stage.follower.active == {known.generation: known for known in opened.active}
    for viewer in stage.viewers:
        viewer.drain()
        await viewer.reaches(opened.head)
        for name, shown in viewer.view.generations.items():
            there = await stage.log.snapshots.generation("s", name)
            if there is not None and viewer not in world.resumed:
                assert (shown.text, shown.reasoning) == (there["text"], there["reasoning"])


async def step(world: Gateways, what: str, number: int) -> None:
    stage = world.stages[number % 2]
    names = sorted(world.open)
    match what:
        case "write":
            await write(world, number)
            await world.overhear()
        case "end" if names:
            assert (await world.open.pop(names[number % len(names)]).end()).what == "written"
            await world.overhear()
        case "stop" if names and number > 15:
            name = names[number % len(names)]
            await world.log.stop("s", name)
            del world.open[name]
            await world.overhear()
        case "trim" if world.names:
            while await world.log.trim("s", world.names[number % len(world.names)]):
                pass
        case "deliver" if stage.in_flight:
            stage.source.say(stage.in_flight.pop(0))
        case "drop" if stage.in_flight:
            stage.in_flight.pop(number % len(stage.in_flight))
        case "repeat" if stage.in_flight:
            stage.source.say(stage.in_flight[number % len(stage.in_flight)])
        case "reorder" if stage.in_flight:
            stage.source.say(stage.in_flight.pop(number % len(stage.in_flight)))
        case "turn":
            for _ in range(number % 6):
                await asyncio.sleep(0)
        case "look":
            await stage.follower.sync()
        case "acknowledge" if stage.source.listener is not None:
            if number % 3:
                stage.source.listener.acknowledged()
            else:
                stage.source.listener.lost()
        case "join":
            stage.viewer()
        case "resume":
            world.resumed.append(stage.viewer((stage.follower.epoch, number)))
        case "slow":
            stage.viewers[number % len(stage.viewers)].slow = True
        case "drain":
            for viewer in stage.viewers:
                viewer.drain()
        case "anew" if number > 20:
            await world.anew(number)
            world.stages[number % 2].viewer()


async def write(world: Gateways, number: int) -> None:
    names = sorted(world.open)
    if not names or (number % 4 == 0 and len(names) < 2):
        name = f"g{len(world.names)}"
        world.names.append(name)
        world.open[name] = await admitted_and_claimed(world.log, name)
        return
    writer = world.open[names[number % len(names)]]
    match number % 9:
        case 0:
            await writer.restart()
        case 1:
            await writer.reasoning("hm", "…")
        case 2:
            await writer.status("thinking")
        case 3:
            await writer.data({"n": number})
        case _:
            assert (await writer.tokens(TEXTS[number % 5], "t")).what == "written"


@tries(30)
@given(
    st.lists(STEP, max_size=60),
    st.sampled_from([0, 300, 4096]),
    st.sampled_from([2000, 1_000_000]),
    st.sampled_from([2, 3, 200]),
    st.lists(NUMBER, max_size=10),
)
def test_a_log_that_loses_nothing_keeps_its_epoch(
    steps: list[tuple[str, int]], window_bytes: int, page_bytes: int, forgets: int, overtaking: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Clock().install(patch)
        asyncio.run(play(steps, window_bytes, page_bytes, forgets, overtaking))
