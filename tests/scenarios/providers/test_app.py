"""A worker with a generator of one's own: `relay-worker --app module:function`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from relay.client import Applied, Data, Text, connect
from relay.protocol.view import FrameDict
from tests.scenarios.client import Client, check
from tests.scenarios.processes import START_S, until
from tests.scenarios.world import World
from tests.store.in_memory import parts_of

CHAT = """
import asyncio
import os
from relay_workers.app import Data, Job, Reasoning

STEPS = 200
WORDS = ["👩‍👩‍👧", " e\\u0301", " 日本", "語", "half:\\ud83d", "\\ude00!", "\\u2028end"]


async def generate(job: Job):
    yield Reasoning("Hm")
    for word in WORDS:
        yield word
    yield f" {job.session} {job.content} {len(job.messages)} {job.metadata}"


async def fails(job: Job):
    yield "x"
    raise ValueError(job.content)


async def shows(job: Job):
    for number in range(STEPS):
        for word in WORDS:
            yield word
        yield Data("citation", {"number": number, "padding": "x" * 500})
        yield f" {number}"
        if number == STEPS // 2:
            while not os.path.exists("half-way.txt"):
                await asyncio.sleep(0.01)


class Fails:
    def __init__(self, job: Job) -> None:
        self.job = job

    def __aiter__(self):
        raise SystemExit(self.job.content)


async def exits_beside(job: Job):
    async def exits():
        raise SystemExit(job.content)

    yield "x"
    leaving = asyncio.create_task(exits())
    await asyncio.sleep(0)
    if "forgets" not in job.content:
        await leaving
    yield "y"


async def waits(job: Job):
    try:
        yield "x"
        await asyncio.Event().wait()
    finally:
        open("stopped.txt", "w").close()
"""


@pytest.fixture
def importable(tmp_path: Path) -> str:
    """PYTHONPATH with the module `own_chat` on it."""
    (tmp_path / "own").mkdir()
    source = CHAT
    for marker in ("stopped.txt", "half-way.txt"):
        source = source.replace(f'"{marker}"', repr(str(tmp_path / "own" / marker)))
    (tmp_path / "own" / "own_chat.py").write_text(source)
    return os.pathsep.join([str(tmp_path / "own"), os.environ.get("PYTHONPATH", "")])


async def test_a_generator_of_ones_own_answers_byte_for_byte(relay: World, importable: str) -> None:
    gateway = await relay.gateway()
    worker = relay.spawn("relay-worker", "--app", "own_chat:generate", PYTHONPATH=importable)  # no --provider
    await until(lambda: worker.logged("serving") or worker.code is not None, "the worker serves", START_S)
    assert worker.code is None, worker.stderr.read_text()
    send = relay.send(gateway, "s", "Who?")
    assert await send.exited() == 0
    assert send.stdout.read_bytes() == "👩‍👩‍👧 e\u0301 日本語half:😀!\u2028end s Who? 1 {}".encode()


async def test_its_exception_fails_the_answer_and_no_log_quotes_it(relay: World, importable: str) -> None:
    gateway = await relay.gateway()
    worker = await relay.worker("--app", "own_chat:fails", provider="app", PYTHONPATH=importable)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("Something secret")
        await client.ended(generation)
        check(client, generation, "x", "failed")
        end = client.shown(generation).end
    assert end is not None
    assert (end["error"]["code"], end["error"]["retryable"]) == ("provider_error", True)
    failed = worker.logged("failed")
    assert failed is not None
    assert failed["detail"].startswith("ValueError at ")
    line = CHAT.splitlines().index("    raise ValueError(job.content)") + 1
    assert failed["detail"].endswith(f"own_chat.py:{line}")
    assert "secret" not in worker.stderr.read_text()


def _expected() -> list[str | dict[str, object]]:
    """What `shows` says, in its order: in each step seven tokens, data, and one token more."""
    words, parts, at = "👩‍👩‍👧 e\u0301 日本語half:😀!\u2028end", [""], 0
    shown: list[str | dict[str, object]] = []
    for number in range(200):
        parts[-1] += words
        at += 7
        shown += [parts.pop(), {"number": number, "at": at}]
        parts.append(f" {number}")
        at += 1
    return [*shown, parts.pop()]


def _order(parts: Sequence[str | FrameDict]) -> list[str | dict[str, object]]:
    found: list[str | dict[str, object]] = []
    for part in parts:
        if not isinstance(part, str):
            found.append({"number": part["value"]["number"], "at": part["at"]})
        elif found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


def _apart(parts: list[str | dict[str, object]]) -> list[str | dict[str, object]]:
    return [piece for part in parts for piece in (part if isinstance(part, str) else [part])]


async def test_data_keeps_its_place_in_the_text_for_everybody_and_for_good(
    relay: World, importable: str, tmp_path: Path
) -> None:
    relay.settings["RELAY_TRIM_AFTER_S"] = "1"
    gateway = await relay.gateway(RELAY_VIEWER_BUFFER_BYTES="1024")
    worker = await relay.worker(
        "--app", "own_chat:shows", provider="app", PYTHONPATH=importable, RELAY_BATCH_SIZE="3"
    )  # fmt: skip
    live, slow, late = (Client(gateway.url, "s") for _ in range(3))
    async with connect(gateway.url) as python, live:
        await live.subscribe()
        answer = await python.submit("s", "Show")
        generation = answer.generation
        await slow.connect(receive_buffer_bytes=4096)
        await slow.subscribe()
        assert slow.connection is not None
        slow.connection.transport.pause_reading()
        await live.until(lambda: _data(live) > 100, "half of it")
        async with python.follow("s") as following, late:  # as after a reload
            await late.subscribe()
            await late.until(lambda: _data(late) > 100, "half of it")
            (tmp_path / "own" / "half-way.txt").touch()
            await asyncio.gather(live.ended(generation), late.ended(generation), answer.end())
            slow.connection.transport.resume_reading()
            await slow.ended(generation)
            taken: list[str | FrameDict] = []
            while not taken or taken[-1] != "end":  # it has not read until now: merged
                change = await anext(following)
                for event in change.events if isinstance(change, Applied) else []:
                    if event["type"] in ("tokens", "data", "end"):
                        taken.append("end" if event["type"] == "end" else event.get("text") or event)
        expected = _expected()
        assert _order(taken[:-1]) == expected
        for client in (live, slow, late):
            check(client, generation, "".join(part for part in expected if isinstance(part, str)))
            assert _order(client.shown(generation).parts) == expected
        assert "catchup" in slow.kinds
        items = [item async for item in answer]
        assert _order([item.text if isinstance(item, Text) else {"value": item.value, "at": item.at}
                       for item in items if isinstance(item, Text | Data)]) == expected  # fmt: skip
        log = f"{relay.prefix}:s:{{s}}:log"
        await until(lambda: _is_trimmed(relay, log), "the batches are merged")
        other = await relay.gateway()
        for cursor in (None, {"epoch": live.view.epoch, "seq": live.view.last // 2}):
            async with Client(other.url, "s") as again:
                subscribed = await again.command(**{**again.view.subscribe(), "cursor": cursor})
                await again.ended(generation)
                told, whole = _apart(_order(again.shown(generation).parts)), _apart(expected)
                # A cursor behind all that was merged is honoured: then it is the rest.
                assert told == whole[-len(told) if subscribed["recovered"] else 0 :]
    _, found, _ = await other.http("GET", f"/v1/sessions/s/generations/{generation}")
    assert _order(parts_of(found)) == expected
    await slow.disconnect()
    assert worker.code is None


def _data(client: Client) -> int:
    return sum(len(shown.data) for shown in client.view.generations.values())


async def _is_trimmed(relay: World, log: str) -> bool:
    trims = await relay.redis.hget(log.replace(":log", ":meta"), "trims")
    return trims is not None and not await relay.redis.zcard(f"{relay.prefix}:q:{{default}}:trims")


@pytest.mark.parametrize(("function", "text"), [("Fails", ""), ("exits_beside", "x")])
async def test_an_exit_of_theirs_fails_the_answer_and_the_worker_goes_on(
    relay: World, importable: str, function: str, text: str
) -> None:
    gateway = await relay.gateway()
    worker = await relay.worker("--app", f"own_chat:{function}", provider="app", PYTHONPATH=importable)
    worker.expected |= {"exit_ignored", "unretrieved"}
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        for number in range(2):
            generation = await client.submit(f"Something secret {number}", f"r{number}")
            await client.ended(generation)
            check(client, generation, text, "failed")
            end = client.shown(generation).end
            assert end is not None
            assert end["error"]["code"] == "provider_error"
        if function == "exits_beside":
            generation = await client.submit("Something secret that forgets its task", "r9")
            await client.ended(generation)
            check(client, generation, "xy")
    assert worker.code is None
    assert "secret" not in worker.stderr.read_text()


@pytest.mark.usefixtures("importable")
async def test_a_stop_reaches_into_the_generator_of_a_file(relay: World, tmp_path: Path) -> None:
    gateway = await relay.gateway()
    await relay.worker("--app", f"{tmp_path}/own/own_chat.py:waits", provider="app")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("Wait")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 1, "x")
        await client.stop(generation)
        await client.ended(generation)
    await until(lambda: (tmp_path / "own" / "stopped.txt").exists(), "the generator cleans up")


async def test_what_cannot_be_called_ends_the_worker_with_one_line(relay: World, importable: str) -> None:
    worker = relay.spawn("relay-worker", "--app", "own_chat:nobody", PYTHONPATH=importable)
    assert await worker.exited() == 2
    assert worker.stderr.read_text() == "relay-worker: --app / RELAY_APP own_chat:nobody: own_chat has no nobody\n"
