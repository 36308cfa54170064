"""What the proxy does to pub/sub is what it says: otherwise the scenarios behind it prove nothing."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from relay.redis.connections import Connections
from relay.redis.pubsub.server_feed import DEAD_AFTER_S
from relay.store import factory
from tests.scenarios.processes import until
from tests.scenarios.proxy import Proxy

HUNDRED = [b"%d" % number for number in range(100)]


class Heard:
    """A listener, and all that it was told."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.acknowledgements = 0
        self.losses = 0

    def acknowledged(self) -> None:
        self.acknowledgements += 1

    def message(self, payload: bytes) -> None:
        self.messages.append(payload)

    def lost(self) -> None:
        self.losses += 1


class Channel:
    """A channel with one listener behind a proxy; `heard` once everything has come."""

    def __init__(self, redis_url: str, proxy: Proxy) -> None:
        self.listener = Heard()
        self.name = secrets.token_hex(4)
        self._redis = Redis.from_url(redis_url)
        self._through = Connections(proxy.url)
        self._subscriber = factory.subscriber(self._through)

    async def __aenter__(self) -> Channel:
        self._subscriber.start()
        await self._subscriber.subscribe(self.name, self.listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._subscriber.aclose()
        await self._through.aclose()
        await self._redis.aclose()

    async def say(self, *messages: bytes) -> int:
        """How many subscribers Redis counted, all in all."""
        return sum([await self._redis.publish(self.name, message) for message in messages])

    async def heard(self) -> list[bytes]:
        """What was heard, the sign for the end excepted; a fault may hold back what was said before it."""
        await self.say(b"end")
        await until(lambda: b"end" in self.listener.messages, "the last message")
        return [message for message in self.listener.messages if message != b"end"]


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
async def channel(redis_url: str, proxy: Proxy) -> AsyncIterator[Channel]:
    async with Channel(redis_url, proxy) as channel:
        yield channel


async def test_without_a_fault_every_message_passes_once_and_in_order(channel: Channel) -> None:
    await channel.say(*HUNDRED, b"a\r\n$3\r\nb")
    assert await channel.heard() == [*HUNDRED, b"a\r\n$3\r\nb"]
    assert channel.listener.acknowledgements == 1


async def test_some_are_dropped_and_only_those(proxy: Proxy, channel: Channel) -> None:
    async with proxy.hints.muddled(random.Random(1), dropped=0.3):
        await channel.say(*HUNDRED)
    heard = await channel.heard()
    assert len(heard) == 100 - proxy.hints.met["dropped"] < 90
    assert heard == sorted(heard, key=int)


async def test_some_are_doubled_and_only_those(proxy: Proxy, channel: Channel) -> None:
    async with proxy.hints.muddled(random.Random(1), doubled=0.3):
        await channel.say(*HUNDRED)
    heard = await channel.heard()
    assert len(heard) == 100 + proxy.hints.met["doubled"] > 110
    assert list(dict.fromkeys(heard)) == HUNDRED


async def test_some_change_places_with_the_next_one(proxy: Proxy, channel: Channel) -> None:
    async with proxy.hints.muddled(random.Random(1), swapped=0.3):
        await channel.say(*HUNDRED)
    heard = await channel.heard()
    assert sorted(heard, key=int) == HUNDRED
    assert proxy.hints.met["swapped"] > 10
    assert heard != HUNDRED


async def test_some_come_late(proxy: Proxy, channel: Channel) -> None:
    async with proxy.hints.muddled(random.Random(1), late=0.3, late_s=0.1):
        await channel.say(*HUNDRED)
        late = proxy.hints.met["late"]
        assert late > 10
        await until(lambda: len(channel.listener.messages) == 100, "the late ones")
    assert sorted(channel.listener.messages, key=int) == HUNDRED
    assert channel.listener.messages != HUNDRED


async def test_who_is_deaf_is_told_neither_when_it_begins_nor_when_it_is_over(proxy: Proxy, channel: Channel) -> None:
    await channel.say(b"before")
    async with proxy.deaf():
        await until(lambda: _nobody_hears(channel), "nobody hears")
    await until(lambda: _somebody_hears(channel), "the subscription is back")
    heard = await channel.heard()
    assert heard[0] == b"before"
    assert set(heard[1:]) <= {b"unheard?", b"again"}
    assert b"again" in heard
    assert (channel.listener.acknowledgements, channel.listener.losses) == (1, 0)


async def _nobody_hears(channel: Channel) -> bool:
    return await channel.say(b"unheard?") == 0


async def _somebody_hears(channel: Channel) -> bool:
    return await channel.say(b"again") == 1


async def test_a_peer_that_takes_connections_only_to_close_them_is_tried_less_and_less_and_makes_nobody_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A proxy whose Redis is away does so; each of ten thousand followers would look with every try."""
    pauses: list[float] = []

    def no_pause(_: float, most: float) -> float:
        pauses.append(most)
        return 0

    monkeypatch.setattr(random, "uniform", no_pause)
    listener = Heard()
    async with await asyncio.start_unix_server(lambda _, writer: writer.close(), tmp_path / "closes"):
        redis = Connections(f"unix://{tmp_path}/closes")
        subscriber = factory.subscriber(redis)
        subscriber.start()
        waiting = asyncio.create_task(subscriber.subscribe("c", listener))
        await until(lambda: len(pauses) >= 10, "tries")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await subscriber.aclose()
        await redis.aclose()
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert listener.losses == 0


async def test_a_process_that_was_busy_itself_does_not_think_that_redis_is_silent(channel: Channel) -> None:
    await channel.say(b"a")
    await until(lambda: channel.listener.messages == [b"a"], "a message: nothing is asked just now")
    time.sleep(DEAD_AFTER_S + 0.1)  # noqa: ASYNC251
    await asyncio.sleep(0.3)  # in which it would look at its clock
    assert await channel.heard() == [b"a"]
    assert (channel.listener.acknowledgements, channel.listener.losses) == (1, 0)
