"""The lifeline: leases are renewed while the worker's loop is blocked, and left alone otherwise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from relay import embedded
from relay.log import stores
from relay.log.connect import Connections
from relay.log.session_log import SessionLog
from relay.settings import Settings, load
from tests.log.in_memory import Writer, admitted_and_claimed
from tests.scenarios.processes import until
from workers import lifeline as lifeline_module
from workers.lease import Lease
from workers.lifeline import Lifeline, Renewal

LEASE_S = 1.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded.server() as url:
        yield url


@pytest.fixture
async def settings(url: str, request: pytest.FixtureRequest) -> Settings:
    return load(redis_url=url, lease_s=LEASE_S, prefix=f"t{abs(hash(request.node.name))}")


@pytest.fixture
async def session_log(settings: Settings) -> AsyncIterator[SessionLog]:
    redis = Connections(settings.redis_url)
    yield stores.session_log(redis, settings)
    await redis.aclose()


@pytest.fixture
async def lifeline(settings: Settings) -> AsyncIterator[Lifeline]:
    made = Lifeline(settings)
    await made.start()
    yield made
    await made.aclose()


async def never() -> bool:
    raise AssertionError("nobody asked for that")


def renewal_of(writer: Writer, fence: int | None = None) -> Renewal:
    return Renewal(writer.session, writer.generation, writer.fence if fence is None else fence, writer.n, "mark")


async def lease_ms(session_log: SessionLog) -> int:
    standing = await session_log.standing("s", "g1")
    assert standing is not None
    return int(standing["lease"])


async def test_a_lease_is_renewed_while_the_loop_is_blocked_for_longer_than_it_lasts(
    session_log: SessionLog, lifeline: Lifeline
) -> None:
    writer = await admitted_and_claimed(session_log)
    lease = Lease(never, LEASE_S, time.monotonic())
    lifeline.add(lease, lambda: renewal_of(writer))
    before = await lease_ms(session_log)
    time.sleep(3 * LEASE_S)  # noqa: ASYNC251
    assert lease.is_held
    await lifeline.remove(lease)
    assert (await session_log.renew("s", "g1", writer.fence, 60_000)).what == "written"
    assert await lease_ms(session_log) > before


async def test_what_redis_says_otherwise_is_left_to_the_worker(session_log: SessionLog, lifeline: Lifeline) -> None:
    writer = await admitted_and_claimed(session_log)
    asked: list[int] = []

    def stale() -> Renewal:
        asked.append(1)
        return renewal_of(writer, writer.fence - 1)

    lease = Lease(never, LEASE_S, time.monotonic())
    lifeline.add(lease, stale)
    await until(lambda: asked, "it is tried")
    await until(lambda: not lease.is_held, "it has run out")


async def test_what_was_removed_is_not_renewed_any_more(session_log: SessionLog, lifeline: Lifeline) -> None:
    writer = await admitted_and_claimed(session_log)
    lease = Lease(never, LEASE_S, time.monotonic())
    lifeline.add(lease, lambda: renewal_of(writer))
    await lifeline.remove(lease)
    await until(lambda: not lease.is_held, "it has run out")


async def test_a_loop_that_is_blocked_for_ever_is_given_up(
    session_log: SessionLog, lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifeline_module, "BLOCKED_S", 0.1)
    writer = await admitted_and_claimed(session_log)
    lease = Lease(never, LEASE_S, time.monotonic())
    lifeline.add(lease, lambda: renewal_of(writer))
    time.sleep(2 * LEASE_S)  # noqa: ASYNC251
    assert not lease.is_held


async def test_it_ends_at_once_with_nothing_to_renew_and_with_redis_away(settings: Settings) -> None:
    away = Lifeline(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "lease_s": 600.0}))
    await away.start()
    async with asyncio.timeout(10):
        await away.aclose()
    never_started = Lifeline(settings)
    await never_started.aclose()
