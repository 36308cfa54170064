"""A queue that no living worker serves, on real processes: every viewer is told once, and then it goes on as ever."""

from __future__ import annotations

import pytest

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import START_S, Process, until
from tests.scenarios.world import World

TOLD = {"type": "status", "attempt": 1, "state": "queued", "detail": "no_worker"}


def lines(process: Process, queue: str) -> list[str]:
    events = [line for line in process.lines() if line.get("queue") == queue]
    return [line["event"] for line in events if line["event"] in ("queue_unserved", "queue_served")]


@pytest.mark.slow
async def test_who_waits_in_a_queue_without_a_living_worker_is_told_once_and_answered_when_one_comes(
    relay: World,
) -> None:
    """The last worker is killed, the gateway that took the questions as well; one of them names a queue that never was.

    Meanwhile a worker of another queue, which looks after all of them too, is busy with all that it can take.
    """
    relay.fake.script = Script(tokens=["a", "b"], hold_before=1)
    doomed, gateway = await relay.gateway(), await relay.gateway()
    worker = await relay.worker()
    await relay.worker(RELAY_QUEUE="busy", RELAY_CONCURRENCY="1")
    async with Client(gateway.url, "s") as viewer, Client(doomed.url, "s") as asker:
        await viewer.subscribe()
        for number in range(2):
            await asker.submit("q", f"busy{number}", queue="busy")
        await worker.kill()
        names = [await asker.submit("q", "r1"), await asker.submit("q", "r2", queue="defualt")]
        await doomed.kill()
        for generation in names:
            await viewer.until(
                lambda generation=generation: (
                    generation in viewer.view.generations and viewer.shown(generation).detail == "no_worker"
                ),
                "no_worker",
                START_S,
            )
        await until(lambda: lines(gateway, "default") and lines(gateway, "defualt"), "the gateway's lines", START_S)
        async with Client(gateway.url, "s") as late:
            await late.subscribe()
            await late.until(lambda: names[1] in late.view.generations, "a catchup")
            assert [late.shown(generation).detail for generation in names] == ["no_worker"] * 2

        relay.fake.script = Script(tokens=["a", "b"])
        relay.fake.release()
        await relay.worker()
        await viewer.ended(names[0])
        await until(lambda: len(lines(gateway, "default")) > 1, "the gateway's second line", START_S)
        await viewer.command(type="stop", session="s", generation=names[1])
        await viewer.until(lambda: len(viewer.ends) == 4, "all ends", START_S)
        check(viewer, names[0], "ab")
        check(viewer, names[1], "", "stopped")

        log = [event for frame in viewer.frames for event in frame.get("events", [frame])]
        told = [event for event in log if event["type"] == "status" and event.get("detail")]
        assert sorted(event["generation"] for event in told) == sorted(names)
        assert all(event.items() >= TOLD.items() for event in told)
    assert lines(gateway, "default") == ["queue_unserved", "queue_served"]
    assert lines(gateway, "defualt") == ["queue_unserved"]
    assert lines(gateway, "busy") == []
