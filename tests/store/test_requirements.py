"""A Redis that evicts is refused, one that hides whether it does is taken, and one that changes is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from relay import embedded
from relay.errors import SettingsError, StorageError
from relay.redis.connections import Connections
from relay.redis.routing import RoutingClient
from relay.store import requirements
from relay.store.requirements import RequirementsMonitor, check_requirements, require_noeviction, require_usable_redis
from tests.scenarios.processes import until

EVICTING = ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl", "volatile-random"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded.embedded_server() as url:
        yield url


@pytest.fixture
async def admin(url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(url) as admin:
        yield admin
        await admin.execute_command("ACL", "SETUSER", "default", "+@all")  # type: ignore[no-untyped-call]
        await admin.config_set("maxmemory-policy", "noeviction")


@pytest.fixture
async def redis(url: str) -> AsyncIterator[RoutingClient]:
    redis = Connections(url)
    yield redis.commands
    await redis.aclose()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("-WRONGPASS invalid username-password pair or user is disabled.", "it refuses this user or password"),
        ("-NOAUTH HELLO must be called with the client already authenticated", "it requires a password"),
        ("-NOAUTH Authentication required.", "it requires a password"),
        ("-ERR DB index is out of range", "DB index is out of range"),
    ],
)
async def test_one_that_must_answer_is_refused_for_what_it_says(reply: str, reason: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(f"{reply}\r\n".encode())
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"redis://bob:geheim@127.0.0.1:{server.sockets[0].getsockname()[1]}/9"
        with pytest.raises(SettingsError) as refused:
            await require_usable_redis(url, "t", must_answer=True)
    assert str(refused.value) == f"--redis / RELAY_REDIS_URL names a Redis that cannot be used: {reason}"


async def test_one_that_is_away_is_refused_where_it_must_answer_and_no_password_is_told() -> None:
    with pytest.raises(SettingsError, match=r"^--redis / RELAY_REDIS_URL names .*127\.0\.0\.1:1\b") as refused:
        await require_usable_redis("redis://bob:geheim@127.0.0.1:1/0", "t", must_answer=True)
    assert "geheim" not in str(refused.value)
    await require_usable_redis("redis://bob:geheim@127.0.0.1:1/0", "t")  # elsewhere it may come later


async def test_one_that_hides_its_policy_is_taken_where_it_must_answer(admin: Redis, url: str) -> None:
    await hide_configuration(admin)
    await require_usable_redis(url, "t", must_answer=True)


async def hide_configuration(admin: Redis) -> None:
    await admin.execute_command("ACL", "SETUSER", "default", "-config")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("policy", EVICTING)
async def test_a_server_that_may_evict_our_keys_is_refused(admin: Redis, redis: RoutingClient, policy: str) -> None:
    await admin.config_set("maxmemory-policy", policy)
    with pytest.raises(SettingsError, match=f"maxmemory-policy is {policy}; set it to noeviction"):
        await check_requirements(redis, "t")


async def test_one_that_evicts_among_several_is_refused(admin: Redis, redis: RoutingClient) -> None:
    with embedded.embedded_server() as other:
        third = Connections(other)
        assert await require_noeviction([*await redis.masters(), *await third.commands.masters()])
        await _set_policy(other, "volatile-lru")
        with pytest.raises(SettingsError, match="volatile-lru"):
            await require_noeviction([*await redis.masters(), *await third.commands.masters()])
        await third.aclose()


async def test_a_server_that_evicts_nothing_is_taken(redis: RoutingClient) -> None:
    assert await check_requirements(redis, "t")


async def test_a_host_that_hides_its_configuration_is_taken(admin: Redis, redis: RoutingClient) -> None:
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    await hide_configuration(admin)
    assert not await check_requirements(redis, "t")


async def test_nobody_there_is_no_verdict() -> None:
    with embedded.embedded_server() as gone:
        pass
    redis = Connections(gone)
    with pytest.raises(StorageError, match=r"Connection|refused|No such file"):
        await check_requirements(redis.commands, "t")
    await redis.aclose()


def test_the_look_before_a_start_refuses_one_that_evicts_and_none_that_is_away() -> None:
    with embedded.embedded_server() as url:
        asyncio.run(require_usable_redis(url, "t"))
        asyncio.run(_set_policy(url, "allkeys-lru"))
        with pytest.raises(SettingsError, match="maxmemory-policy"):
            asyncio.run(require_usable_redis(url, "t"))
    asyncio.run(require_usable_redis(url, "t"))


async def test_a_process_learns_of_a_policy_that_changes_and_says_each_change_once(
    admin: Redis, redis: RoutingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "RETRY_S", 0.001)
    monkeypatch.setattr(requirements, "CHECK_EVERY_S", 0.001)
    known = RequirementsMonitor(redis, "t")
    with capture_logs() as lines:
        await known.check_once()
        assert known.problem == ""
        watching = asyncio.create_task(known.watch())
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        await until(lambda: "allkeys-lru" in known.problem, "it is noticed")
        await admin.config_set("maxmemory-policy", "volatile-ttl")
        await until(lambda: "volatile-ttl" in known.problem, "so is the next")
        await admin.config_set("maxmemory-policy", "noeviction")
        await until(lambda: not known.problem, "it is ready again")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert [line["event"] for line in lines] == ["not_ready", "not_ready", "ready"]
    assert lines[0]["log_level"] == "error"


async def test_an_outage_of_one_that_was_known_is_told_elsewhere(
    monkeypatch: pytest.MonkeyPatch, redis: RoutingClient
) -> None:
    known = RequirementsMonitor(redis, "t")
    await known.check_once()

    async def away(redis: object, prefix: str) -> bool:
        raise StorageError("away")

    with capture_logs() as lines:
        monkeypatch.setattr(requirements, "check_requirements", away)
        await known.check_once()
        monkeypatch.undo()
        await known.check_once()
    assert (known.problem, lines) == ("", [])


async def test_a_process_that_began_without_redis_says_so_once_and_looks_again() -> None:
    with embedded.embedded_server() as gone:
        pass
    redis = Connections(gone)
    known = RequirementsMonitor(redis.commands, "t")
    with capture_logs() as lines:
        await known.check_once()
        await known.check_once()
    assert known.problem == "Redis does not answer."
    assert [line["event"] for line in lines] == ["not_ready"]
    assert "RELAY_REDIS_URL" in lines[0]["detail"]
    await redis.aclose()


async def test_a_hidden_policy_is_one_warning_that_names_it(admin: Redis, redis: RoutingClient) -> None:
    await hide_configuration(admin)
    known = RequirementsMonitor(redis, "t")
    with capture_logs() as lines:
        await known.check_once()
        await known.check_once()
    assert known.problem == ""
    assert [(line["event"], line["log_level"]) for line in lines] == [("policy_hidden", "warning")]
    assert "maxmemory-policy" in lines[0]["detail"]


async def _set_policy(url: str, policy: str) -> None:
    async with Redis.from_url(url) as redis:
        await redis.config_set("maxmemory-policy", policy)
