"""The key of tickets: one for all gateways, put back where Redis loses it, and told to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from relay.errors import StorageError
from relay.store.keys import Keys
from relay.store.ticket_key import TTL_S, TicketKey
from tests.scenarios.processes import until
from tests.store.in_memory import redis_in_memory


class Now:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def commands(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(redis, monkeypatch)


class Commands:
    """What was sent to Redis; a test may fail it, or do something first."""

    def __init__(self, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[str] = []
        self.before: Callable[[str], Awaitable[None]] | None = None
        self._execute: Any = redis.execute_command
        monkeypatch.setattr(redis, "execute_command", self._run)

    async def _run(self, *words: Any, **options: Any) -> Any:
        self.sent.append(words[0])
        if self.before is not None:
            await self.before(words[0])
        return await self._execute(*words, **options)


async def away(_: str) -> None:
    raise RedisConnectionError("away")


async def test_all_gateways_have_the_one_that_came_first(redis: Redis) -> None:
    gateways = [TicketKey(redis, Keys("t")) for _ in range(3)]
    found = await asyncio.gather(*(gateway.keys() for gateway in gateways))
    assert found[0] == found[1] == found[2]
    [key] = found[0]
    assert len(key) == 32
    assert 0 < await redis.pttl("t:tickets") <= TTL_S * 1000


async def test_another_relay_has_another_one(redis: Redis) -> None:
    assert await TicketKey(redis, Keys("t")).keys() != await TicketKey(redis, Keys("other")).keys()


async def test_who_is_second_to_write_takes_what_the_first_wrote(redis: Redis, commands: Commands) -> None:
    async def meanwhile(command: str) -> None:
        if command == "SET":
            commands.before = None
            first.extend(await TicketKey(redis, Keys("t")).keys())

    first = list[bytes]()
    commands.before = meanwhile
    assert await TicketKey(redis, Keys("t")).keys() == first


async def test_it_is_kept_and_looked_at_once_a_minute(redis: Redis, now: Now, commands: Commands) -> None:
    tickets = TicketKey(redis, Keys("t"), now)
    key = await tickets.keys()
    sent = len(commands.sent)
    now.s += 59
    assert await tickets.keys() == key
    assert len(commands.sent) == sent
    await redis.pexpire("t:tickets", 1000)
    now.s += 2
    assert await tickets.keys() == key
    assert await redis.pttl("t:tickets") > 1000


async def test_where_redis_loses_it_it_is_put_back(redis: Redis, now: Now) -> None:
    tickets = TicketKey(redis, Keys("t"), now)
    key = await tickets.keys()
    await redis.flushall()
    now.s += 61
    assert await tickets.keys() == key
    assert await TicketKey(redis, Keys("t")).keys() == key


async def test_where_another_one_came_first_both_verify_and_the_other_signs(redis: Redis, now: Now) -> None:
    tickets = TicketKey(redis, Keys("t"), now)
    [ours] = await tickets.keys()
    await redis.flushall()
    [theirs] = await TicketKey(redis, Keys("t")).keys()
    now.s += 2
    assert await tickets.keys(fresh=True) == [theirs, ours]


async def test_bad_tickets_have_redis_asked_at_most_once_a_second(redis: Redis, now: Now, commands: Commands) -> None:
    tickets = TicketKey(redis, Keys("t"), now)
    await tickets.keys()
    commands.sent.clear()
    now.s += 1
    for _ in range(100):
        await tickets.keys(fresh=True)
        now.s += 0.005
    assert commands.sent == ["GET", "PEXPIRE"]


async def test_who_asks_for_a_fresh_one_waits_for_the_one_that_is_just_read(
    redis: Redis, now: Now, commands: Commands
) -> None:
    tickets = TicketKey(redis, Keys("t"), now)
    await tickets.keys()
    await redis.flushall()
    [theirs] = await TicketKey(redis, Keys("t")).keys()
    now.s += 2
    gate = asyncio.Event()

    async def hold(_: str) -> None:
        await gate.wait()

    commands.before = hold
    asking = [asyncio.create_task(tickets.keys(fresh=True)) for _ in range(3)]
    await until(lambda: commands.sent[-1:] == ["GET"], "one of them reads")
    assert len(await tickets.keys()) == 1  # who needs no fresh one waits for nothing
    gate.set()
    for found in await asyncio.gather(*asking):
        assert found[0] == theirs


async def test_without_redis_it_is_what_was_known_or_an_error_soon(redis: Redis, now: Now, commands: Commands) -> None:
    tickets = TicketKey(redis, Keys("t"), now)
    commands.before = away
    for _ in range(5):
        with pytest.raises(StorageError):
            await tickets.keys()
    assert commands.sent == ["GET"]  # not each of them waits for Redis
    commands.before = None
    now.s += 1
    key = await tickets.keys()
    commands.before = away
    now.s += 61
    assert await tickets.keys() == key


async def test_a_call_that_was_given_up_leaves_the_next_one_to_read(now: Now) -> None:
    async with redis_in_memory() as redis:
        tickets = TicketKey(redis, Keys("t"), now)
        asking = asyncio.create_task(tickets.keys())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        now.s += 1
        assert len(await tickets.keys()) == 1


@pytest.mark.parametrize("stored", ["", "short", "x" * 44, "ü" * 22])
async def test_what_is_no_key_is_not_used_and_not_told(redis: Redis, stored: str) -> None:
    await redis.set("t:tickets", stored)
    with capture_logs() as lines, pytest.raises(StorageError):
        await TicketKey(redis, Keys("t")).keys()
    [line] = lines
    assert line["event"] == "ticket_key_failed"
    assert "t:tickets holds no ticket key; delete it" in line["detail"]
    assert not stored or stored not in str(lines)


async def test_it_is_told_to_nobody(redis: Redis, now: Now, commands: Commands) -> None:
    tickets = TicketKey(redis, Keys("t"), now)
    [key] = await tickets.keys()
    stored: Any = await redis.get("t:tickets")
    with capture_logs() as lines:
        commands.before = away
        now.s += 61
        await tickets.keys()
    assert lines
    said = f"{lines} {tickets!r}"
    assert stored.decode() not in said
    assert repr(key) not in said
