"""Subscriptions: each channel is heard from the server that publishes it, wherever that goes, and no loss is hidden."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay import embedded, logging
from relay.redis.connections import Connections, call, publish_verb
from relay.redis.pubsub import server_feed
from relay.redis.pubsub.subscriber import Subscriber
from relay.redis.resp_connection import RespConnection, connect_resp
from tests.scenarios.processes import free_port, until
from tests.scenarios.redis_cluster import Cluster, cluster
from tests.scenarios.redis_servers import Server, running

WITHIN_S = 10


class Ear:
    """A listener that notes what it hears."""

    def __init__(self) -> None:
        self.acknowledgements = 0
        self.losses = 0
        self.heard: list[bytes] = []

    def acknowledged(self) -> None:
        self.acknowledgements += 1

    def message(self, payload: bytes) -> None:
        self.heard.append(payload)

    def lost(self) -> None:
        self.losses += 1


class Desk:
    """A subscriber and the clients beside it."""

    def __init__(self, url: str) -> None:
        self.redis = Connections(url)
        self.subscriber = Subscriber(self.redis.topology)

    async def listen(self, channel: str) -> Ear:
        ear = Ear()
        async with asyncio.timeout(WITHIN_S):
            await self.subscriber.subscribe(channel, ear)
        assert ear.acknowledgements == 1
        return ear

    async def say(self, channel: str, text: str) -> None:
        await call(self.redis.commands, await publish_verb(self.redis.commands), channel, text)

    async def reaches(self, channel: str, ear: Ear, text: str) -> None:
        """Whether what is said from now on is heard, and nothing else was since."""
        before = len(ear.heard)
        await self.say(channel, text)
        await until(lambda: ear.heard[before:] == [text.encode()], f"{text} is heard; it was {ear.heard[before:]}")


@asynccontextmanager
async def desk(url: str) -> AsyncIterator[Desk]:
    made = Desk(url)
    made.subscriber.start()
    try:
        yield made
    finally:
        await made.subscriber.aclose()
        await made.redis.aclose()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path, replicas=1) as made:
        yield made


async def channels_of(servers: Cluster) -> list[str]:
    """One channel for each master."""
    found: dict[Server, str] = {}
    for number in range(100):
        found.setdefault(await servers.owner(f"c{number}"), f"c{number}")
    return [found[server] for server in servers.masters]


async def test_who_left_hears_nothing_and_who_comes_after_him_does() -> None:
    with embedded.embedded_server() as url:
        async with desk(url) as here:
            first = await here.listen("c")
            await here.reaches("c", first, "one")
            here.subscriber.unsubscribe("c", first)
            second = await here.listen("c")
            here.subscriber.unsubscribe("c", first)
            await here.reaches("c", second, "two")
            assert first.heard == [b"one"]
            assert (first.losses, second.losses) == (0, 0)


async def test_who_cannot_read_what_is_said_looks_and_costs_nobody_else_the_connection() -> None:
    class Foreign(Ear):
        def message(self, payload: bytes) -> None:
            raise ValueError

    with embedded.embedded_server() as url:
        async with desk(url) as here:
            ear, foreign = await here.listen("c"), Foreign()
            await here.subscriber.subscribe("d", foreign)
            await here.say("d", "no message of ours")
            await here.reaches("c", ear, "one")
            assert (ear.acknowledgements, ear.losses) == (1, 0)
            assert (foreign.acknowledgements, foreign.losses) == (1, 1)


async def test_however_many_messages_cannot_be_read_one_traceback_is_logged() -> None:
    class Foreign(Ear):
        def message(self, payload: bytes) -> None:
            super().message(payload)
            if payload != b"ours":
                raise ValueError

    with embedded.embedded_server() as url, capture_logs() as lines:
        async with desk(url) as here:
            ear = Foreign()
            await here.subscriber.subscribe("c", ear)
            for _ in range(10):
                await here.say("c", "no message of ours")
                await here.say("c", "ours")
            await until(lambda: len(ear.heard) == 20, "all are heard")
            assert ear.losses == 10
    failed = [line for line in lines if line["event"] == "message_failed"]
    assert [line["log_level"] for line in failed] == ["error", *["debug"] * 9]
    assert "recovered" not in {line["event"] for line in lines}


async def test_a_subscription_that_is_refused_again_and_again_is_told_once_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A right that is missing: what it does not need one for is answered each time."""
    monkeypatch.setattr(logging, "SETTLED_S", 1.5)  # longer than from one try to the next
    with embedded.embedded_server() as url, capture_logs() as lines:

        def said(event: str) -> list[str]:
            return [line["log_level"] for line in lines if line["event"] == event]

        async with desk(url) as here:
            ear, other = await here.listen("c"), await here.listen("d")
            await call(here.redis.commands, "ACL", "SETUSER", "default", "resetchannels", "&c")
            await call(here.redis.commands, "CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: len(said("subscription_refused")) > 5, "it is refused again and again")
            await call(here.redis.commands, "ACL", "SETUSER", "default", "allchannels")
            await until(lambda: len(said("recovered")) == 2, "it is over")
            await here.reaches("c", ear, "one")
            await here.reaches("d", other, "two")
    assert [level for level in said("subscription_refused") if level != "debug"] == ["error"]
    assert [level for level in said("subscription_lost") if level != "debug"] == ["warning"]
    assert {line["what"] for line in lines if line["event"] == "recovered"} == {
        "subscription_refused",
        "subscription_lost",
    }


async def test_a_feed_goes_on_after_what_nobody_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [ValueError("a host that is none")]

    async def fails_once(*arguments: Any) -> RespConnection:
        if failures:
            raise failures.pop()
        return await connect_resp(*arguments)

    monkeypatch.setattr(server_feed, "connect_resp", fails_once)
    with embedded.embedded_server() as url:
        async with desk(url) as here:
            await here.reaches("c", await here.listen("c"), "one")
    assert not failures


async def test_a_connection_that_is_made_again_at_once_is_one_reason_to_look_and_not_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_feed, "BLIP_S", 5)
    with embedded.embedded_server() as url:
        async with desk(url) as here:
            ears = await asyncio.gather(*(here.listen(f"c{number}") for number in range(50)))
            for times in (2, 3):
                await call(here.redis.commands, "CLIENT", "KILL", "TYPE", "pubsub")
                await until(partial(_all_acknowledged, ears, times), "all are back")
            assert [ear.losses for ear in ears] == [0] * 50


async def test_a_connection_that_cannot_be_made_again_is_told_to_every_listener_once() -> None:
    with embedded.embedded_server() as url:
        async with desk(url) as here:
            ears = [await here.listen(f"c{number}") for number in range(3)]
            await call(here.redis.commands, "CONFIG", "SET", "maxclients", "1")
            await call(here.redis.commands, "CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: all(ear.losses for ear in ears), "all are told")
            assert [(ear.losses, ear.acknowledgements) for ear in ears] == [(1, 1)] * 3


@pytest.mark.slow
async def test_a_subscription_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    server = Server(tmp_path)
    async with desk(server.url) as here:
        ear = Ear()
        waiting = asyncio.create_task(here.subscriber.subscribe("c", ear))
        await until(lambda: here.redis.topology.failures > 1, "it has been tried")
        assert not waiting.done()
        async with running([server]):
            await waiting
            await here.reaches("c", ear, "one")


@pytest.mark.slow
async def test_each_channel_is_asked_of_the_master_that_has_its_slot_and_of_no_other(servers: Cluster) -> None:
    async with desk(servers.url) as here:
        channels = await channels_of(servers)
        ears = [await here.listen(channel) for channel in channels]
        for channel, ear in zip(channels, ears, strict=True):
            await here.reaches(channel, ear, f"to {channel}")
        assert [await server.ask("PUBSUB", "SHARDCHANNELS") for server in servers.masters] == [[c] for c in channels]
        for channel, ear in zip(channels, ears, strict=True):
            here.subscriber.unsubscribe(channel, ear)
        for server in servers.masters:
            await until(partial(_hears_nobody, server), "nothing is asked for any more")
        again = await here.listen(channels[0])
        here.subscriber.unsubscribe(channels[0], again)
        last = await here.listen(channels[0])  # asked for again before the leave was answered
        await here.reaches(channels[0], last, "once more")
        assert last.acknowledgements == 1


@pytest.mark.slow
async def test_a_channel_goes_with_its_slot_and_its_listener_is_told(servers: Cluster) -> None:
    async with desk(servers.url) as here:
        channels = await channels_of(servers)
        moved, stays = [await here.listen(channel) for channel in channels[:2]]
        for turn, target in enumerate((servers.masters[1], servers.masters[2], servers.masters[0]), 2):
            await servers.move(channels[0], target)
            await until(partial(_is_acknowledged, moved, turn), "it is subscribed again")
            await here.reaches(channels[0], moved, f"turn {turn}")
        assert (stays.acknowledgements, stays.losses, moved.losses) == (1, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "frozen"])
async def test_a_master_that_fails_is_a_loss_for_its_own_channels_only_until_its_replica_leads(
    servers: Cluster, fault: int
) -> None:
    async with desk(servers.url) as here:
        channels = await channels_of(servers)
        lost, kept = [await here.listen(channel) for channel in channels[:2]]
        servers.masters[0].signal(fault)
        await until(lambda: lost.losses, "its listener is told")
        await here.reaches(channels[1], kept, "meanwhile")
        await until(lambda: lost.acknowledgements == 2, "it is subscribed again")
        await here.reaches(channels[0], lost, "again")
        assert (kept.acknowledgements, kept.losses) == (1, 0)


@pytest.mark.slow
async def test_a_master_that_steps_down_takes_nothing_with_it(servers: Cluster) -> None:
    async with desk(servers.url) as here:
        channel = (await channels_of(servers))[0]
        ear = await here.listen(channel)
        await servers.hand_over(servers.replicas[0])
        await until(lambda: ear.acknowledgements > 1, "it is subscribed again")
        await here.reaches(channel, ear, "again")
        assert ear.losses == 0


@pytest.mark.slow
async def test_nobody_is_there_and_it_is_tried_in_measure(tmp_path: Path) -> None:
    async with desk(f"redis+cluster://127.0.0.1:{free_port()}") as here:
        waiting = asyncio.create_task(here.subscriber.subscribe("c", Ear()))
        began = asyncio.get_running_loop().time()
        await until(lambda: here.redis.topology.failures >= 4, "it has been tried")
        assert asyncio.get_running_loop().time() - began >= 3 * 0.25
        waiting.cancel()
        await asyncio.wait([waiting])


def _all_acknowledged(ears: list[Ear], times: int) -> bool:
    return all(ear.acknowledgements == times for ear in ears)


def _is_acknowledged(ear: Ear, times: int) -> bool:
    return ear.acknowledgements == times


async def _hears_nobody(server: Server) -> bool:
    return bool(await server.ask("PUBSUB", "SHARDCHANNELS") == [])
