"""Every signal that asks a process to stop lets it drain; a second one is in a hurry. In this very process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay import embedded
from relay.commands import dev
from relay.gateway.server import listen_shared, server
from relay.gateway.supervisor import Supervisor
from relay.settings import load
from relay.stop_signals import stop_signals
from relay_workers import cli as worker_cli
from relay_workers import event_loop, worker
from tests.scenarios.processes import until

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP]
NO_REDIS = "redis://127.0.0.1:1/0"


def _deaf(number: int, frame: Any) -> None:
    """In place of the default, which would end this very process."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever this process had comes back."""
    before = {number: signal.getsignal(number) for number in ALL}
    for number in ALL:
        signal.signal(number, _deaf)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    assert stop_signals() == ALL
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert stop_signals() == ALL[:3]


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
async def test_a_worker_finishes_at_the_first_and_hands_over_at_the_second(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    told = []

    async def run(settings: Any, asked: Any, stopping: asyncio.Event, at_once: asyncio.Event) -> None:
        signal.raise_signal(number)
        await stopping.wait()
        told.append(at_once.is_set())
        signal.raise_signal(number)
        await at_once.wait()
        told.append(True)

    monkeypatch.setattr(worker, "run", run)
    await asyncio.wait_for(worker_cli._until_signalled(load(redis_url=NO_REDIS, provider="demo")), 20)
    assert told == [False, True]


async def test_a_worker_under_nohup_does_not_mind_a_hangup(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def run(settings: Any, asked: Any, stopping: asyncio.Event, at_once: asyncio.Event) -> None:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        await stopping.wait()
        await asyncio.sleep(0)
        assert not at_once.is_set()

    monkeypatch.setattr(worker, "run", run)
    await asyncio.wait_for(worker_cli._until_signalled(load(redis_url=NO_REDIS, provider="demo")), 20)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_a_gateway_goes_and_ends_by_the_signal_that_uvicorn_knows(number: signal.Signals) -> None:
    raised: list[int] = []
    for known in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what it was told once more when it is done
        signal.signal(known, lambda number, _: raised.append(number))
    serving = server(load(redis_url=NO_REDIS))
    with serving.capture_signals():
        assert not serving.should_exit
        signal.raise_signal(number)
        assert serving.should_exit
        assert not serving.force_exit
        assert not raised
    assert raised == [number if number == signal.SIGINT else signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) is signal.getsignal(signal.SIGQUIT) is _deaf


def test_a_gateway_under_nohup_does_not_mind_a_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    serving = server(load(redis_url=NO_REDIS))
    with serving.capture_signals():
        signal.raise_signal(signal.SIGHUP)
        assert not serving.should_exit
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
async def test_the_parent_of_several_lets_them_drain_and_hurries_them_at_the_second(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    sent: list[int] = []
    over = asyncio.Event()
    processes = Supervisor(load(redis_url=NO_REDIS), listen_shared("127.0.0.1", 0, 1), str(tmp_path))

    async def live(place: int, fd: int) -> int:
        await over.wait()
        return 0

    monkeypatch.setattr(processes, "_run_child", live)
    monkeypatch.setattr(processes, "_signal", sent.append)
    running = asyncio.create_task(processes.run())
    await until(lambda: signal.getsignal(number) is not _deaf, "it listens to signals")
    for expected in ([signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]):
        signal.raise_signal(number)
        await until(lambda expected=expected: sent == expected, "the children are told")  # type: ignore[misc]
    over.set()
    await asyncio.wait_for(running, 20)


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
async def test_relay_dev_ends_both_its_parts(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    (sock,) = listen_shared("127.0.0.1", 0, 1)
    gateway = SimpleNamespace(started=True, should_exit=False)

    async def serve(sockets: Any) -> None:
        signal.raise_signal(number)
        await until(lambda: gateway.should_exit, "the gateway is told")

    async def work(settings: Any, asked: Any, stopping: asyncio.Event, **_: Any) -> None:
        await stopping.wait()

    gateway.serve = serve
    monkeypatch.setattr(dev, "server", lambda *_, **__: gateway)
    monkeypatch.setattr(worker, "run", work)
    asked = SimpleNamespace(names=["demo"])
    await asyncio.wait_for(dev._run(load(redis_url=NO_REDIS), asked, sock, None), 20)  # type: ignore[arg-type]
    sock.close()


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_relay_dev_leaves_nothing_behind_when_it_is_stopped_before_its_parts_run(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    left: list[str] = []

    @contextmanager
    def watched_server() -> Iterator[tuple[str, None]]:
        left.append("server and folder")
        try:
            yield NO_REDIS, None
        finally:
            left.remove("server and folder")

    def start(running: Coroutine[Any, Any, None]) -> None:
        running.close()
        signal.raise_signal(number)

    monkeypatch.setattr(embedded, "watched_server", watched_server)
    monkeypatch.setattr(event_loop, "run", start)
    with pytest.raises(KeyboardInterrupt):
        dev.run(load(redis_url=NO_REDIS, port=0, provider="demo"), own_redis=True)
    assert left == []
