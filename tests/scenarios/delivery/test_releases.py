"""The previous release and this one side by side on one Redis: whoever dies or goes, the answers are the same."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from relay import embedded
from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import ROOT, Process, until
from tests.scenarios.releases import PreviousRelease, unpack
from tests.scenarios.world import Gateway, World, world
from tests.store.stored import GOLDEN, read_golden

TOKENS = [f"w{number} é " for number in range(60)]
HALF = 30
TEXT, HALF_TEXT = "".join(TOKENS), "".join(TOKENS[:HALF])
HELD, WHOLE = Script(tokens=TOKENS, hold_before=HALF), Script(tokens=TOKENS)


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous release's."""
    return unpack(tmp_path_factory.mktemp("previous_release"))


class Sides:
    """A gateway of each release, and a viewer of the same session at each."""

    def __init__(self, old: PreviousRelease, new: World) -> None:
        self.old, self.new = old, new
        self.fake = new.fake
        self.asked = 0

    async def begin(self) -> None:
        self.old_gateway, self.new_gateway = await asyncio.gather(self.old.gateway(), self.new.gateway())
        await self.old.check_code(self.old_gateway)
        self.at_old, self.at_new = Client(self.old_gateway.url, "s"), Client(self.new_gateway.url, "s", "msgpack")
        for client in self.viewers:
            await client.connect()
            await client.subscribe()

    async def aclose(self) -> None:
        for client in self.viewers:
            await client.cut()

    @property
    def viewers(self) -> tuple[Client, Client]:
        return self.at_old, self.at_new

    async def old_worker(self, *flags: str, **settings: Any) -> Process:
        worker = await self.old.worker(*flags, **settings)
        await self.old.check_code(worker)
        return worker

    async def ask(self, by: Client, **fields: Any) -> str:
        self.asked += 1
        return await by.submit("Go", f"r{self.asked}", **fields)

    async def half(self, by: Client, **fields: Any) -> str:
        """A generation that stands still in its middle, as both viewers see."""
        self.fake.script = HELD
        generation = await self.ask(by, **fields)
        await self.show_half(generation)
        return generation

    async def show_half(self, generation: str) -> None:
        for client in self.viewers:
            await client.until(lambda client=client: _count(client, generation) == HALF, "half")

    async def saw(self, generation: str, text: str = TEXT, reason: str = "complete", voided: int = 0) -> None:
        """Both the same, byte for byte. `voided`: how many workers have begun in vain."""
        for client in self.viewers:
            await client.ended(generation)
            end = check(client, generation, text, reason, voided=[HALF_TEXT])
            assert end["attempt"] == 1 + voided


def _count(client: Client, generation: str) -> int:
    return client.shown(generation).count if generation in client.view.generations else 0


@pytest.fixture
async def sides(tmp_path: Path, code: Path) -> AsyncIterator[Sides]:
    """On a server of their own, which is emptied."""
    with embedded.embedded_server() as url:
        (tmp_path / "old").mkdir()
        (tmp_path / "new").mkdir()
        async with world(url, tmp_path / "new") as new:
            new.settings |= {"RELAY_LEASE_S": "2", "RELAY_TRIM_AFTER_S": "1", "RELAY_GRACE_S": "0"}
            old = PreviousRelease(new, code, tmp_path / "old")
            old.settings = new.settings
            made = Sides(old, new)
            try:
                await made.begin()
                yield made
                await made.aclose()
            finally:
                await old.aclose()


@pytest.mark.slow
async def test_two_releases_on_one_redis_and_the_way_back_lose_nothing(sides: Sides) -> None:
    worker = await sides.old_worker()
    await stopped(sides, sides.at_old, by=sides.at_new)
    await lost_and_rebuilt(sides, sides.at_new)
    worker = await taken_over(sides, sides.at_new, worker, sides.new.worker)

    await stopped(sides, sides.at_new, by=sides.at_old)
    await lost_and_rebuilt(sides, sides.at_old)
    worker = await taken_over(sides, sides.at_old, worker, sides.old_worker)

    worker = await dead_letters(sides)
    await read_alike(sides)
    await rolled_back(sides, worker)


async def stopped(sides: Sides, asked_at: Client, by: Client) -> None:
    """What was asked at one gateway is stopped at the other, which tells the worker."""
    generation = await sides.half(asked_at)
    call = sides.fake.calls[-1]
    reply = await by.stop(generation)
    assert (reply["type"], reply["already_ended"]) == ("stopping", False)
    await sides.saw(generation, HALF_TEXT, "stopped")
    await sides.fake.wait_for(lambda _: call.client_gone_at)


async def lost_and_rebuilt(sides: Sides, asked_at: Client) -> None:
    """Redis forgets everything in the middle of an answer; every reaper looks at it then, and its worker goes on."""
    generation = await sides.half(asked_at)
    calls, epoch = len(sides.fake.calls), asked_at.view.epoch
    await sides.new.redis.flushall()
    for client in sides.viewers:
        await client.until(lambda client=client: client.view.epoch not in ("", epoch), "another epoch")
    await sides.show_half(generation)
    await looked_at(sides, f"s {generation}")
    sides.fake.release()
    await sides.saw(generation)
    assert len(sides.fake.calls) == calls, "the model was asked again"


async def looked_at(sides: Sides, row: str) -> None:
    """By the reapers of both gateways, which have found that it is alive."""
    before = {gateway: await _alive(sides, gateway) for gateway in (sides.old_gateway, sides.new_gateway)}

    async def looked() -> bool:
        await sides.new.redis.zadd(f"{sides.new.prefix}:q:{{default}}:open", {row: 0}, xx=True)
        await asyncio.sleep(0.05)
        return all([await _alive(sides, gateway) > looks for gateway, looks in before.items()])

    await until(looked, "both have looked")


async def _alive(sides: Sides, gateway: Gateway) -> float:
    return (await sides.new.metrics(gateway)).get('relay_reaped_total{what="alive"}', 0.0)


async def taken_over(
    sides: Sides, asked_at: Client, doomed: Process, replacement: Callable[[], Awaitable[Process]]
) -> Process:
    """A worker is killed in the middle of an answer, and the other release's makes it."""
    generation = await sides.half(asked_at)
    sides.fake.script = WHOLE
    worker = await replacement()
    await doomed.kill()
    await sides.saw(generation, voided=1)
    return worker


async def dead_letters(sides: Sides) -> Process:
    """Each release's worker dies of a job; the other release lists it, asks it again and answers it.

    That it may lose one worker only, the reapers of both hear of the queue's own. Returns this release's worker of `a`.
    """
    workers = await asyncio.gather(
        sides.old_worker("--queue", "a", RELAY_MAX_TAKEOVERS="1"),
        sides.new.worker("--queue", "b", RELAY_MAX_TAKEOVERS="1"),
    )
    dead = [await sides.half(sides.at_new, queue="a"), await sides.half(sides.at_old, queue="b")]
    policies = [f"{sides.new.prefix}:q:{{{queue}}}:policy" for queue in ("a", "b")]
    await until(lambda: _are_all_there(sides, policies), "both have said it")
    for worker in workers:
        await worker.kill()
    for generation in dead:
        await sides.saw(generation, HALF_TEXT, "failed")
        end = sides.at_new.shown(generation).end
        assert end is not None
        assert end["error"]["code"] == "worker_lost"
    sides.fake.script = WHOLE
    again = await asyncio.gather(_retried(sides.new, "a", dead[0]), _retried(sides.old, "b", dead[1]))
    worker, _ = await asyncio.gather(sides.new.worker("--queue", "a"), sides.old_worker("--queue", "b"))
    for generation in again:
        await sides.saw(generation)
    return worker


async def _are_all_there(sides: Sides, keys: list[str]) -> bool:
    return bool(await sides.new.redis.exists(*keys) == len(keys))


async def _retried(release: World, queue: str, generation: str) -> str:
    """The generation that takes the dead one's place."""
    letters = f"{release.prefix}:q:{{{queue}}}:dead"
    await until(lambda: release.redis.zcard(letters), "the letter")
    (listed,) = json.loads(await _said(release, "list", queue, "--dead", "--json"))
    assert (listed["generation"], listed["reason"]) == (generation, "worker_lost")
    again = (await _said(release, "retry", generation)).strip()
    assert await release.redis.zcard(letters) == 0
    return again


async def _said(release: World, *arguments: str) -> str:
    command = release.spawn("relay", "queue", *arguments)
    assert await command.exited() == 0, command.stderr.read_text()
    return command.stdout.read_text()


async def read_alike(sides: Sides) -> None:
    """What stands there by now, some of it merged, is the same to whoever comes late, whichever release tells it."""
    generations = list(sides.at_new.view.generations)
    trims = f"{sides.new.prefix}:q:{{default}}:trims"
    await until(lambda: _is_gone(sides, trims), "the log is trimmed")
    for url, codec in ((sides.old_gateway.url, "msgpack"), (sides.new_gateway.url, "json")):
        async with Client(url, "s", codec) as late:
            await late.subscribe()
            for generation in generations:
                await late.ended(generation)
                seen = sides.at_new.shown(generation)
                assert seen.end is not None
                check(late, generation, seen.text, seen.end["reason"])
    snapshots = [await gateway.http("GET", "/v1/sessions/s") for gateway in (sides.old_gateway, sides.new_gateway)]
    (old_status, old, _), (new_status, new, _) = snapshots
    assert (old_status, new_status) == (200, 200)
    assert [one["generation"] for one in new["generations"]] == generations
    assert _known(new, old) == old  # a later release may tell more


async def _is_gone(sides: Sides, key: str) -> bool:
    return not await sides.new.redis.exists(key)


def _known(told: Any, known: Any) -> Any:
    if isinstance(told, dict) and isinstance(known, dict):
        return {name: _known(value, known[name]) for name, value in told.items() if name in known}
    if isinstance(told, list) and isinstance(known, list) and len(told) == len(known):
        return [_known(one, other) for one, other in zip(told, known, strict=True)]
    return told


async def rolled_back(sides: Sides, worker: Process) -> None:
    """This release goes, with an answer under way and a question that waits; the previous one makes both."""
    running = await sides.half(sides.at_new, queue="a")
    asked = {
        "metadata": {"a": [1]}, "system": "S", "max_tokens": 7, "priority": "high", "provider": "openai",
        "options": {"temperature": 0.5},
    }  # fmt: skip
    waiting = await sides.ask(sides.at_new, queue="c", **asked)
    for client in sides.viewers:
        await client.until(lambda client=client: waiting in client.view.generations, "it waits")
    sides.fake.script = WHOLE
    for process in (sides.new_gateway, worker):
        process.signal(signal.SIGTERM)
    assert await worker.exited() == 0
    await sides.new_gateway.exited()
    await sides.at_new.gone.wait()
    await sides.at_new.disconnect()
    sides.at_new.url = sides.at_old.url
    await sides.at_new.connect()
    assert (await sides.at_new.subscribe())["recovered"] is True

    await asyncio.gather(sides.old_worker("--queue", "a"), sides.old_worker("--queue", "c"))
    await sides.saw(running, voided=1)
    await sides.saw(waiting)
    body = next(call.body for call in sides.fake.calls if call.body["messages"][0]["content"] == "S")
    assert (body["messages"][-1]["content"], body["max_tokens"]) == ("Go", 7)
    _, found, _ = await sides.old_gateway.http("GET", f"/v1/sessions/s/generations/{waiting}")
    assert found["metadata"] == {"a": [1]}


def test_a_shape_that_the_previous_release_knows_stands_as_it_was(code: Path) -> None:
    """Its version is not to be described anew. The first of them to be named here has no such file."""
    before = code / GOLDEN.relative_to(ROOT)
    now = read_golden()
    for name, versions in json.loads(before.read_text()).items() if before.exists() else ():
        for version, shape in versions.items():
            assert now[name][version] == shape, f"{name} {version}"
