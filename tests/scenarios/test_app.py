"""A worker with a generator of one's own: `relay-worker --app module:function`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.client import Client, check
from tests.scenarios.processes import until
from tests.scenarios.world import START_S, World

CHAT = """
import asyncio
from workers.app import Job, Reasoning

WORDS = ["👩‍👩‍👧", " e\\u0301", " 日本", "語", "half:\\ud83d", "\\ude00!", "\\u2028end"]


async def generate(job: Job):
    yield Reasoning("Hm")
    for word in WORDS:
        yield word
    yield f" {job.session} {job.content} {len(job.messages)} {job.metadata}"


async def fails(job: Job):
    yield "x"
    raise ValueError(job.content)


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
    marker = str(tmp_path / "own" / "stopped.txt")
    (tmp_path / "own" / "own_chat.py").write_text(CHAT.replace('"stopped.txt"', repr(marker)))
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


async def test_a_stop_reaches_into_the_generator(relay: World, importable: str, tmp_path: Path) -> None:
    gateway = await relay.gateway()
    await relay.worker("--app", "own_chat:waits", provider="app", PYTHONPATH=importable)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("Wait")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 1, "x")
        await client.stop(generation)
        await client.ended(generation)
    await until(lambda: (tmp_path / "own" / "stopped.txt").exists(), "the generator cleans up")


async def test_what_cannot_be_called_ends_the_worker_with_one_line(relay: World, importable: str) -> None:
    worker = relay.spawn("relay-worker", "--app", "own_chat:nobody", PYTHONPATH=importable)
    assert await worker.exited(START_S) == 2
    assert worker.stderr.read_text() == "relay-worker: --app / RELAY_APP own_chat:nobody: own_chat has no nobody\n"
