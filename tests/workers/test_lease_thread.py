"""The lifeline: leases are renewed while the worker's loop is blocked, and left alone otherwise."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from prometheus_client import REGISTRY

from relay import embedded
from relay.redis.connections import Connections, call
from relay.settings import Settings, load
from relay.store import factory
from relay.store.keys import Keys
from relay.store.session.replies import WriteOutcome
from relay.store.session.session_log import SessionLog
from relay_workers import lease_thread as lifeline_module
from relay_workers.lease import Lease
from relay_workers.lease_thread import LeaseThread, Renewal
from relay_workers.queue_heartbeat import QueueHeartbeat
from tests.scenarios.processes import TIMEOUT_S, until
from tests.store.in_memory import Writer, admitted_and_claimed

LEASE_S = 1.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded.embedded_server() as url:
        yield url


@pytest.fixture
async def settings(url: str, request: pytest.FixtureRequest) -> Settings:
    return load(redis_url=url, lease_s=LEASE_S, prefix=f"t{abs(hash(request.node.name))}")


@pytest.fixture
async def session_log(settings: Settings) -> AsyncIterator[SessionLog]:
    redis = Connections(settings.redis_url)
    yield factory.session_log(redis, settings)
    await redis.aclose()


def lifeline_of(settings: Settings) -> LeaseThread:
    return LeaseThread(settings.lease_s, partial(factory.connect, settings))


@pytest.fixture
async def lifeline(settings: Settings) -> AsyncIterator[LeaseThread]:
    made = lifeline_of(settings)
    await made.start()
    yield made
    await made.aclose()


def renewal_of(writer: Writer, fence: int | None = None) -> Renewal:
    return Renewal(writer.session, writer.generation, writer.fence if fence is None else fence, writer.n, "mark")


async def lease_ms(session_log: SessionLog) -> int:
    standing = await session_log.generation_fields("s", "g1")
    assert standing is not None
    return int(standing["lease"])


async def test_a_lease_is_renewed_while_the_loop_is_blocked_for_longer_than_it_lasts(
    session_log: SessionLog, lifeline: LeaseThread
) -> None:
    writer = await admitted_and_claimed(session_log)
    lease = Lease(LEASE_S, time.monotonic())
    lifeline.add(lease, lambda: renewal_of(writer))
    before = await lease_ms(session_log)
    time.sleep(3 * LEASE_S)  # noqa: ASYNC251
    assert lease.is_held
    await lifeline.remove(lease)
    assert (await session_log.renew("s", "g1", writer.fence, 60_000)).what == "written"
    assert await lease_ms(session_log) > before


class Said:
    """A queue that is told that it is served."""

    def __init__(self) -> None:
        self.times = 0

    async def serve(self, name: str) -> None:
        self.times += 1


def late_serving(queue: Any, stopping: asyncio.Event) -> QueueHeartbeat:
    serving = QueueHeartbeat(queue, "default", stopping)
    serving._sent_at -= 3600
    return serving


async def test_a_worker_whose_loop_is_blocked_says_from_here_that_it_serves_its_queue(settings: Settings) -> None:
    redis = Connections(settings.redis_url)
    queue, lifeline = factory.queue(redis, settings), lifeline_of(settings)
    lifeline.queue_heartbeat = late_serving(queue, asyncio.Event())
    await lifeline.start()
    until_s = time.monotonic() + TIMEOUT_S
    while lifeline.queue_heartbeat.is_late and time.monotonic() < until_s:
        time.sleep(0.01)  # noqa: ASYNC251
    assert not lifeline.queue_heartbeat.is_late
    await lifeline.aclose()
    assert await call(redis.commands, "GET", Keys(settings.prefix).queue("default", "served")) is not None
    await redis.aclose()


@pytest.mark.parametrize("why", ["late", "in time", "to go", "blocked for ever"])
async def test_it_says_so_only_for_a_worker_that_lives_and_is_late(settings: Settings, why: str) -> None:
    lifeline, stopping, said = lifeline_of(settings), asyncio.Event(), Said()
    lifeline.queue_heartbeat = late_serving(said, stopping)
    if why == "in time":
        await lifeline.queue_heartbeat.send()
        said.times = 0
    if why == "to go":
        stopping.set()
    if why == "blocked for ever":
        lifeline._loop_alive_at -= 3600
    await lifeline._serve(said)  # type: ignore[arg-type]
    assert said.times == (why == "late")


async def test_what_redis_says_otherwise_is_left_to_the_worker(session_log: SessionLog, lifeline: LeaseThread) -> None:
    writer = await admitted_and_claimed(session_log)
    asked: list[int] = []

    def stale() -> Renewal:
        asked.append(1)
        return renewal_of(writer, writer.fence - 1)

    lease = Lease(LEASE_S, time.monotonic())
    lifeline.add(lease, stale)
    await until(lambda: asked, "it is tried")
    await until(lambda: not lease.is_held, "it has run out")


async def test_what_was_removed_is_not_renewed_any_more(session_log: SessionLog, lifeline: LeaseThread) -> None:
    writer = await admitted_and_claimed(session_log)
    lease = Lease(LEASE_S, time.monotonic())
    lifeline.add(lease, lambda: renewal_of(writer))
    await lifeline.remove(lease)
    await until(lambda: not lease.is_held, "it has run out")


async def test_a_loop_that_is_blocked_for_ever_is_given_up(
    session_log: SessionLog, lifeline: LeaseThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifeline_module, "BLOCKED_S", 0.1)
    writer = await admitted_and_claimed(session_log)
    lease = Lease(LEASE_S, time.monotonic())
    lifeline.add(lease, lambda: renewal_of(writer))
    time.sleep(2 * LEASE_S)  # noqa: ASYNC251
    assert not lease.is_held


async def test_it_ends_at_once_with_nothing_to_renew_and_with_redis_away(settings: Settings) -> None:
    away = lifeline_of(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "lease_s": 600.0}))
    await away.start()
    async with asyncio.timeout(10):
        await away.aclose()
    never_started = lifeline_of(settings)
    await never_started.aclose()


class Held:
    """A log on which renewals are under way until `go` is set; `asked`: fences, as they came."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.go = threading.Event()

    async def renew(self, session: str, generation: str, fence: int, *_: object) -> WriteOutcome:
        self.asked.append(fence)
        while not self.go.is_set():  # noqa: ASYNC110 - it is set in another thread
            await asyncio.sleep(0.01)
        return WriteOutcome("written")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    made = Held()
    monkeypatch.setattr(factory, "session_log", lambda *_: made)
    return made


async def some_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def bugs() -> float:
    return REGISTRY.get_sample_value("relay_unexpected_errors_total", {"part": "lifeline"}) or 0.0


def late_lease() -> Lease:
    return Lease(10_000.0, time.monotonic() - 6_000)


def asked_for(fence: int) -> Callable[[], Renewal]:
    return lambda: Renewal("s", "g", fence, 0, "")


async def test_whoever_is_cancelled_while_a_renewal_is_under_way_waits_for_it_and_costs_no_other_lease_anything(
    held: Held, lifeline: LeaseThread
) -> None:
    """Cancelled, its worker releases the lease next."""
    lease = late_lease()
    lifeline.add(lease, asked_for(1))
    await until(lambda: held.asked, "its renewal is under way")
    removing = asyncio.create_task(lifeline.remove(lease))
    for _ in range(2):
        await some_turns()
        removing.cancel()
    await some_turns()
    assert not removing.done()
    held.go.set()
    with pytest.raises(asyncio.CancelledError):
        await removing
    lifeline.add(late_lease(), asked_for(2))
    await until(lambda: 2 in held.asked, "the next one is renewed")


async def test_a_lease_that_a_bug_keeps_from_being_renewed_costs_the_others_nothing(
    held: Held, lifeline: LeaseThread
) -> None:
    def broken() -> Renewal:
        raise ZeroDivisionError

    held.go.set()
    before = bugs()
    lifeline.add(late_lease(), broken)
    await until(lambda: bugs() > before, "it is counted")
    lifeline.add(late_lease(), asked_for(2))
    await until(lambda: 2 in held.asked, "the other one is renewed")


async def test_it_ends_although_every_thread_of_the_loop_is_busy(settings: Settings) -> None:
    """As with a generator that has handed its work to them."""
    made, free = lifeline_of(settings), threading.Event()
    await made.start()
    loop = asyncio.get_running_loop()
    busy = [loop.run_in_executor(None, free.wait) for _ in range(64)]
    try:
        async with asyncio.timeout(10):
            await made.aclose()
    finally:
        free.set()
        await asyncio.gather(*busy)
