"""However far away Redis is, and whatever happens inside any await: every client ends with what was written, each event
once and in order. Messages, subscribes, hang-ups, trims, deletes and failures come while reads are on their way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.follow import follower
from relay.gateway import viewer
from relay.redis import read_limiter
from tests.examples import tries
from tests.gateway.shaken import Shaken
from tests.store.in_memory import redis_in_memory

NUMBER = st.integers(0, 60)
OFTEN = ["write"] * 8 + ["deliver"] * 12 + ["turns"] * 4 + ["join"] * 3 + ["look", "leave", "drain"]
SELDOM = [
    "drop",
    "double",
    "acknowledge",
    "give up",
    "slow",
    "drain",
    "fail",
    "stop",
    "trim",
    "rotate",
    "delete",
    "lose",
]


TRIMS = (
    ["write"] * 20 + ["deliver"] * 8 + ["turns"] * 3 + ["join"] * 8 + ["leave"] * 6 + ["trim"] * 6 + ["slow", "drain"]
)


def steps_of(words: list[str], most: int = 80) -> st.SearchStrategy[list[tuple[str, int]]]:
    return st.lists(st.tuples(st.sampled_from(words), NUMBER), min_size=most // 2, max_size=most)


WORLD = (st.sampled_from([0, 300, 4096]), st.integers(0, 6), st.integers(0, 10**6))  # window, turns, seed


@pytest.fixture(autouse=True, scope="module")
def no_pauses() -> Iterator[None]:
    """What settles, settles by what is done, not by a look or a retry that comes with time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follower, "SYNC_EVERY_S", 1000)
        patch.setattr(follower, "IDLE_SYNC_S", 1000)
        patch.setattr(follower, "_RETRY_S", (0, 0))
        patch.setattr(viewer, "_RETRY_S", 0)
        patch.setattr(read_limiter, "FAILED_READ_S", 0)
        yield


async def play(steps: list[tuple[str, int]], window_bytes: int, most_turns: int, seed: int) -> None:
    redis = redis_in_memory()
    shaken = Shaken(redis, random.Random(seed), window_bytes, most_turns)
    await shaken.start()
    try:
        for what, number in steps:
            await step(shaken, what, number)
        await shaken.settles()
        await shaken.judged()
    finally:
        await shaken.aclose()
        await redis.aclose()


async def step(shaken: Shaken, what: str, number: int) -> None:
    match what:
        case "write":
            await shaken.writes(number)
        case "deliver":
            shaken.delivers(number)
        case "turns":
            for _ in range(number % 8):
                await asyncio.sleep(0)
        case "join":
            shaken.joins(number)
        case "drop":
            shaken.drops(number)
        case "double":
            shaken.doubles(number)
        case "acknowledge":
            shaken.gates[number % 2].acknowledged()
        case "look":
            shaken.looks(number)
        case "give up":
            shaken.gives_up_looking(number)
        case "leave":
            shaken.leaves(number)
        case "slow":
            shaken.is_slow(number)
        case "drain":
            shaken.drains(number)
        case "fail":
            shaken.gates[number % 2].redis.failing += number % 4
        case "stop":
            await shaken.stops(number)
        case "trim":
            await shaken.trims(number)
        case "rotate" if number > 40:
            await shaken.rotates()
        case "delete" if number > 40:
            await shaken.deletes()
        case "lose" if number > 50:
            await shaken.loses_everything()


@given(steps_of(OFTEN), *WORLD)
@tries(60)
def test_whoever_joins_whenever_gets_every_event_once_and_in_order(
    steps: list[tuple[str, int]], window_bytes: int, most_turns: int, seed: int
) -> None:
    asyncio.run(play(steps, window_bytes, most_turns, seed))


@given(steps_of(OFTEN + SELDOM), *WORLD)
@tries(60)
def test_whatever_befalls_redis_and_its_session_everybody_ends_with_what_was_written(
    steps: list[tuple[str, int]], window_bytes: int, most_turns: int, seed: int
) -> None:
    asyncio.run(play(steps, window_bytes, most_turns, seed))


@given(steps_of(TRIMS, 160), *WORLD)
@tries(20)
def test_whatever_is_trimmed_while_it_is_read_nobody_lacks_anything_or_has_it_twice(
    steps: list[tuple[str, int]], window_bytes: int, most_turns: int, seed: int
) -> None:
    asyncio.run(play(steps, window_bytes, most_turns, seed))
