"""`relay tail`: what a person reads, what a program reads, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from typing import Any

import pytest

from tests.fakes.script import Script
from tests.scenarios.client import Client
from tests.scenarios.processes import BIN, Process, clean, until
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(30)]
TEXT = "".join(TOKENS)


def shown(tail: Process) -> str:
    return tail.stdout.read_text()


def events(tail: Process) -> list[dict[str, Any]]:
    """The lines that are whole."""
    return [json.loads(line) for line in tail.stdout.read_text().splitlines(keepends=True) if line.endswith("\n")]


async def interrupted(tail: Process) -> int:
    tail.signal(signal.SIGINT)
    return await tail.exited()


async def test_it_shows_what_was_said_and_what_comes_until_ctrl_c(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        await client.ended(await client.submit("first\nquestion"))
        tail = relay.tail(gateway, "s")
        expected = f"> first\n> question\n{TEXT}\n\n"
        await until(lambda: shown(tail) == expected, "what was said before")
        relay.fake.script = Script(tokens=["And", " more.\n"])
        await client.ended(await client.submit("second", "r2"))
        await until(lambda: shown(tail) == expected + "> second\nAnd more.\n\n", "what comes")
    assert await interrupted(tail) == 0
    assert tail.stderr.read_text() == ""


async def test_from_live_it_shows_only_what_comes(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        await client.ended(await client.submit("first"))
        tail = relay.tail(gateway, "s", "--from", "live", "--json")
        relay.fake.script = Script(tokens=["New."])
        number = 1
        while not events(tail):  # until it follows, what is asked is not for it
            number += 1
            await client.ended(await client.submit(f"q{number}", f"r{number}"))
        assert '"first"' not in shown(tail)
        assert TOKENS[0] not in shown(tail)
        assert events(tail)[0]["seq"] > 1
    assert await interrupted(tail) == 0


async def test_answers_that_overlap_are_shown_one_after_the_other(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        tail = relay.tail(gateway, "s")
        slow = await client.submit("slow", "r1")
        await until(lambda: shown(tail) == "> slow\n" + "".join(TOKENS[:10]), "its beginning")
        await relay.fake.wait_for(lambda fake: len(fake.calls) == 1)
        relay.fake.script = Script(tokens=["Quick."])
        quick = await client.submit("quick", "r2")
        await client.ended(quick)
        relay.fake.release()
        await client.ended(slow)
        await until(lambda: shown(tail) == f"> slow\n{TEXT}\n\n> quick\nQuick.\n\n", "one after the other")
    assert await interrupted(tail) == 0


async def test_as_json_each_event_is_a_line_with_its_seq(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        await client.ended(await client.submit("before"))
        tail = relay.tail(gateway, "s", "--json")
        await until(lambda: ends(tail) == 1, "what was before")
        await client.ended(await client.submit("after", "r2"))
        await until(lambda: ends(tail) == 2, "what comes")
        last = client.view.last
    assert await interrupted(tail) == 0
    lines = events(tail)
    places = sorted({(line.get("from", line["seq"]), line["seq"]) for line in lines})
    assert places[0][0] == 1
    assert [first for first, _ in places[1:]] == [seq + 1 for _, seq in places[:-1]]
    assert places[-1][1] == last
    assert "".join(line["text"] for line in lines if line["type"] == "tokens") == TEXT * 2
    assert [line["content"] for line in lines if line["type"] == "message"] == ["before", "after"]


def ends(tail: Process) -> int:
    return sum(event["type"] == "end" for event in events(tail))


async def test_it_goes_on_where_it_was_when_the_gateway_comes_back(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await relay.gateway()
    await relay.worker()
    tail = relay.tail(gateway, "s")
    async with Client(gateway.url, "s") as client:
        await client.submit("q")
        await until(lambda: shown(tail) == "> q\n" + "".join(TOKENS[:10]), "ten tokens")
        await gateway.kill()
    relay.fake.release()
    await relay.gateway("--port", gateway.url.rpartition(":")[2])
    await until(lambda: shown(tail) == f"> q\n{TEXT}\n\n", "the rest")
    assert await interrupted(tail) == 0


async def test_what_failed_is_a_sentence_and_the_tail_goes_on(relay: World) -> None:
    relay.fake.script = Script(status=500)
    gateway = await relay.gateway()
    await relay.worker(RELAY_PROVIDER_RETRIES="0")
    tail = relay.tail(gateway, "s")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        await client.ended(await client.submit("q"))
        await until(lambda: shown(tail) == "> q\n\n", "the question")
        failed = "relay: The assistant ran into a problem. Please try again. (provider_error)\n"
        assert tail.stderr.read_text() == failed
        relay.fake.script = Script(tokens=["Fine."])
        await client.ended(await client.submit("q2", "r2"))
        await until(lambda: shown(tail) == "> q\n\n> q2\nFine.\n\n", "the next answer")
    assert await interrupted(tail) == 0


async def test_a_reader_that_has_enough_ends_it_calmly(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        await client.ended(await client.submit("q"))
        reads, writes = os.pipe()
        tail = await asyncio.create_subprocess_exec(
            BIN / "relay", "tail", "s", "--url", gateway.url,
            stdout=writes, stderr=asyncio.subprocess.PIPE, env=clean(),
        )  # fmt: skip
        try:
            os.close(writes)
            await until(lambda: select.select([reads], [], [], 0)[0], "its first line")
            os.close(reads)
            await client.ended(await client.submit("q2", "r2"))
            async with asyncio.timeout(20):
                _, errors = await tail.communicate()
            assert (tail.returncode, errors) == (0, b"")
        finally:
            if tail.returncode is None:
                tail.kill()
                await tail.wait()


@pytest.mark.slow
async def test_a_gateway_that_cannot_be_reached_is_one_line(relay: World) -> None:
    gateway = await relay.gateway()
    await gateway.kill()
    tail = relay.tail(gateway, "s")
    assert await tail.exited() == 1
    assert tail.stderr.read_text() == f"relay: the gateway at {gateway.url} cannot be reached\n"
    assert shown(tail) == ""
