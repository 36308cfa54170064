"""Redis loses everything, or its last writes, at any moment; pub/sub loses and doubles what it likes. The worker's
rebuild and the follower together: every viewer ends with what the model said, whole, and from one life of the log."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from relay_workers.writing.flusher import OwnershipLost
from tests.examples import tries
from tests.follow import following
from tests.protocol.logs import in_order
from tests.store.in_memory import parts_of, redis_in_memory, snapshot, whole_log
from tests.workers.writing import test_rebuilding as rebuilding

WAIT_S = 20
NUMBER = st.integers(0, 30)
STEP = st.tuples(
    st.sampled_from(
        ["says"] * 6 + ["shows"] * 2 + ["turn"] * 4 + ["heard"] * 5 + ["unheard", "twice"] * 2
        + ["gone", "kept", "kept", "back", "back", "look", "joins", "resumes", "slow", "drains"]
    ),
    NUMBER,
)  # fmt: skip
FAULTS = st.lists(st.sampled_from(["", "", "", "kept", "gone", "back", "fails", "lost", "late2"]), max_size=20)


async def play(steps: list[tuple[str, int]], faults: list[str], size: int) -> None:
    async with redis_in_memory() as redis:
        writing = rebuilding.Stage(redis)
        running = await writing.begin(size=size)
        await writing.redis.keep()
        writing.redis.plan = faults
        watching = following.Stage(redis, writing.log, window_bytes=300)
        await watching.follower.start()
        watching.viewer()
        said: list[str] = []
        data: list[tuple[int, int]] = []
        for what, number in steps:
            await _step(writing, watching, what, number, said, data)
        for viewer in watching.viewers:
            viewer.drain()
        writing.flusher.end("complete", b"{}", "a1")
        async with asyncio.timeout(WAIT_S):
            while not running.done():
                writing.now_ms.now_ms += 1000  # nobody waits for the pause between rebuilds
                await asyncio.sleep(0)
        let_go = running.exception()
        # By its own end, perhaps, which Redis had lost and has again.
        assert let_go is None or (isinstance(let_go, OwnershipLost) and let_go.why == "ended"), let_go
        await writing.redis.land()
        await watching.everybody_has_everything()
        assert sum(event["type"] == "end" for event in await whole_log(writing.log)) == 1
        for viewer in watching.viewers:
            shown = viewer.view.generations["g1"]
            assert shown.text == "".join(said)
            assert [(event["value"], event["at"]) for event in shown.data] == data
            assert [part if isinstance(part, str) else part["at"] for part in in_order(shown.parts)] == order(
                said, data
            )
            assert shown.end is not None
            assert not viewer.view.unproven
        found = await snapshot(writing.log)
        assert [part if isinstance(part, str) else part["at"] for part in parts_of(found)] == order(said, data)
        await watching.aclose()


def order(said: list[str], data: list[tuple[int, int]]) -> list[str | int]:
    """The text in parts, and between them the place of each data event."""
    found: list[str | int] = []
    for index in range(len(said) + 1):
        places: list[str | int] = [at for _, at in data if at == index]
        found += places
        if index < len(said):
            together = found and isinstance(found[-1], str)
            found = [*found[:-1], f"{found[-1]}{said[index]}"] if together else [*found, said[index]]
    return found


async def _step(
    writing: rebuilding.Stage,
    watching: following.Stage,
    what: str,
    number: int,
    said: list[str],
    data: list[tuple[int, int]],
) -> None:
    await watching.overhear()
    in_flight, viewer = watching.in_flight, watching.viewers[number % len(watching.viewers)]
    match what:
        case "says":
            said.append(f"{number} 日 ")
            writing.flusher.token("tokens", said[-1])
        case "shows":
            data.append((number, len(said)))
            writing.flusher.data("number", number)
        case "turn":
            writing.now_ms.now_ms += 1000
            for _ in range(number % 10):
                await asyncio.sleep(0)
        case "heard" if in_flight:
            watching.source.say(in_flight.pop(0 if number < 20 else number % len(in_flight)))
        case "unheard" if in_flight:
            in_flight.pop(number % len(in_flight))
        case "twice" if in_flight:
            watching.source.say(in_flight[number % len(in_flight)])
        case "gone":
            await writing.redis.lose_everything()
        case "kept":
            await writing.redis.keep()
        case "back":
            await writing.redis.go_back()
        case "look":
            await watching.follower.sync()
        case "joins" if len(watching.viewers) < 4:
            watching.viewer()
        case "resumes":
            await viewer.leave()
            cursor = viewer.view.cursor
            viewer.join((cursor.epoch, cursor.seq) if cursor else None)
        case "slow":
            viewer.slow = True
        case "drains":
            viewer.drain()


@given(st.lists(STEP, max_size=40), FAULTS, st.integers(1, 4))
@tries(40)
def test_whatever_redis_forgets_every_viewer_ends_with_what_the_model_said(
    steps: list[tuple[str, int]], faults: list[str], size: int
) -> None:
    asyncio.run(play(steps, faults, size))
