"""Rights that the user of a Redis lacks (ACL): each is named, before a start and by whatever meets it."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from relay import embedded, settings
from relay.errors import SettingsError, StorageError
from relay.redis.connections import Connections, ping
from relay.redis.pubsub import server_feed
from relay.redis.pubsub.subscriber import Subscriber
from relay.store import acl, factory
from relay.store.keys import Keys
from relay.store.queue.worker_registry import Offer
from relay.store.requirements import RequirementsMonitor, check_requirements
from relay.store.revocations import RevocationStore
from relay.store.session.replies import Claim
from relay.store.ticket_key import TicketKey
from tests.scenarios import acl_user
from tests.scenarios.processes import until
from tests.scenarios.redis_cluster import cluster
from tests.scenarios.redis_sentinel import watched
from tests.scenarios.redis_servers import binary
from tests.store.in_memory import LEASE_MS, Writer, job_of

LUA = Path(__file__).parents[2] / "relay" / "store"
RIGHTS = acl.needed_rights()
PLACES = [f"~{acl_user.PREFIX}:*", f"&{acl_user.PREFIX}:*"]


@contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """Redis itself, on a socket."""
    socket = directory / "redis.sock"
    command = [binary(), "--port", "0", "--unixsocket", str(socket), "--dir", str(directory), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=embedded.die_with_parent)
    try:
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module", params=["embedded", pytest.param("redis-server", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of Valkey, which names the command that a script lacks, and of a Redis that may not (7.0)."""
    serving = (
        embedded.embedded_server() if request.param == "embedded" else redis_server(tmp_path_factory.mktemp("redis"))
    )
    with serving as url:
        yield url


@pytest.fixture
async def admin(url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(url) as admin:
        await until(lambda: answers(admin), "it is up")
        await admin.flushall()
        await admin.script_flush()
        await admin.config_resetstat()
        await ask(admin, *acl_user.user_line())
        yield admin


async def answers(admin: Redis) -> bool:
    try:
        return bool(await admin.ping())
    except RedisError:
        return False


async def ask(admin: Redis, *words: str) -> Any:
    return await admin.execute_command(*words)  # type: ignore[no-untyped-call]


def as_user(url: str) -> str:
    return url.replace("://", f"://{acl_user.USER}:{acl_user.PASSWORD}@", 1)


@asynccontextmanager
async def without(admin: Redis, right: str) -> AsyncIterator[None]:
    """The user lacks it for the duration of the block."""
    if right == "+script|load":
        await admin.script_flush()
    taken = {"~": "resetkeys", "&": "resetchannels"}.get(right[0], f"-{right[1:]}")
    await ask(admin, "ACL", "SETUSER", acl_user.USER, taken)
    try:
        yield
    finally:
        await ask(admin, *acl_user.user_line())


async def everything_once(url: str) -> None:
    """What gateways, workers, reapers and `relay queue` do in Redis. Raises StorageError."""
    loaded = settings.load(redis_url=url, prefix=acl_user.PREFIX, max_requests=3, max_generations=3)
    redis = Connections(loaded.redis_url)
    try:
        await _everything_once(redis, loaded)
    finally:
        await redis.aclose()


async def _everything_once(redis: Connections, loaded: settings.Settings) -> None:
    log, queue, offers = (
        factory.session_log(redis, loaded), factory.queue(redis, loaded), factory.worker_registry(redis, loaded),
    )  # fmt: skip
    caretaker, reaper = factory.queue_admin(redis, loaded), factory.reaper(log, queue, loaded, "default")
    await ping(redis.commands, "")
    await offers.publish([Offer("default", "demo", "m")])
    await log.open("s")
    for number in range(5):  # more than are kept
        job = job_of(f"g{number}", message_id="m", retry_of=f"g{number - 1}" if number else None)
        assert await queue.announce("default")
        assert await queue.enqueue(job, 1)
        assert await log.admit_or_refuse(job) is not None
        assert await queue.take("default")
        await queue.requeue("default", "s", job.generation, 0)
        marks = await queue.newest_entry_ids("default")
        assert await queue.take("default")
        await queue.wait("default", marks, 1)
        claim = await log.claim("s", job.generation, "w", LEASE_MS, 10)
        assert isinstance(claim, Claim)
        await caretaker.jobs("default", ["running", "waiting", "dead"], 10)
        writer = Writer(log, job, claim)
        for text in ("a", "b"):  # merged by the trim
            await writer.tokens(text)
        await writer.data(1)
        await log.renew("s", job.generation, writer.fence, LEASE_MS, writer.n)
        await log.range("s", 1)
        await log.snapshots.generation("s", job.generation)
        await writer.end("complete", f"a{number}")
        await log.trim("s", job.generation)
        await log.range("s", 1)
        await queue.done("default", "s", job.generation, "worker_lost" if number == 4 else "")
        await queue.trimmed("default", "s", job.generation)
    await log.snapshots.session("s", 10)
    await caretaker.queues()
    await caretaker.jobs("default", ["dead"], 10)
    await caretaker.drop(await caretaker.retry("g4"))
    await reaper._round()
    await queue.has_job("default", "s", "g4")
    await log.delete("s", 1000, [], [])
    await _access_once(factory.revocation_store(redis, loaded), factory.ticket_key(redis, loaded))


async def _access_once(revocations: RevocationStore, tickets: TicketKey) -> None:
    assert await revocations.revoke("somebody") is not None
    assert (await revocations.news(0, 1000)).total == 1
    assert [page async for page in revocations.pages()]
    assert await tickets.keys()


# What is needed


def called_by_scripts() -> set[str]:
    """Commands named in the sources; those that Python has a script call are not."""
    found = set()
    for path in LUA.rglob("*.lua"):
        for command, subcommand in re.findall(
            r"(?:redis\.p?call|tolerant)\('([A-Z]+)'(?:, '([A-Z]+)')?", path.read_text()
        ):
            words = [command, subcommand] if command in ("XGROUP", "XINFO") else [command]
            found.add("+" + "|".join(words).lower())
    return found


def test_what_is_asked_for_is_all_that_scripts_call() -> None:
    assert called_by_scripts() <= set(RIGHTS)


def test_the_documentation_gives_what_is_needed_and_nothing_else() -> None:
    command, setuser, user, reset, on, password, *given = acl_user.user_line()
    assert (command, setuser, user, reset, on) == ("ACL", "SETUSER", acl_user.USER, "reset", "on")
    assert password == f">{acl_user.PASSWORD}"
    assert sorted(given) == sorted([*PLACES, *RIGHTS, "+config|get"])
    of_a_cluster = set(acl.needed_rights(sharded=True)) - set(RIGHTS) | {"+command|info"}
    assert sorted(acl_user.cluster_line()) == sorted(["ACL", "SETUSER", acl_user.USER, *of_a_cluster])


async def test_the_user_of_the_documentation_may_do_everything_and_uses_every_right(url: str, admin: Redis) -> None:
    redis = Connections(as_user(url))
    assert await check_requirements(redis.commands, acl_user.PREFIX)
    await redis.aclose()
    await admin.config_resetstat()
    await everything_once(as_user(url))
    used = {"+" + name.removeprefix("cmdstat_") for name in await admin.info("commandstats")}
    assert set(RIGHTS) - used == {"+subscribe", "+unsubscribe"}  # on a connection of their own, below


# What is missing


@pytest.mark.parametrize("right", [*RIGHTS, *PLACES])
async def test_a_right_that_is_missing_is_named_before_a_start(url: str, admin: Redis, right: str) -> None:
    redis = Connections(as_user(url))
    async with without(admin, right):
        with pytest.raises(SettingsError) as refused:
            await check_requirements(redis.commands, acl_user.PREFIX)
    await redis.aclose()
    assert f"lacks a right: {right} (docs/operations.md" in str(refused.value)
    assert acl_user.PASSWORD not in str(refused.value)


@pytest.mark.parametrize("right", ["+exists", "+ping", "+publish", "+zadd", PLACES[0]])
async def test_what_meets_a_right_that_is_missing_names_it(url: str, admin: Redis, right: str) -> None:
    async with without(admin, right):
        error = await met_by_everything(url)
    assert error is not None
    assert f"lacks a right: {right} (docs" in str(error)


@pytest.mark.slow
async def test_every_right_that_is_missing_is_met_by_something_and_named(url: str, admin: Redis) -> None:
    unmet = []
    for right in [*RIGHTS, *PLACES]:
        await admin.flushall()
        async with without(admin, right):
            error = await met_by_everything(url)
        if error is None:
            unmet.append(right)
            continue
        assert (error.refused, error.denied) == (False, True)
        named = {f"lacks a right: {right} (docs", f"lacks a right: {right[0]}PREFIX:* (docs"}
        assert any(sentence in str(error) for sentence in named), (right, str(error))
    assert unmet == ["+subscribe", "+unsubscribe"]  # below


async def met_by_everything(url: str) -> StorageError | None:
    try:
        await everything_once(as_user(url))
    except StorageError as error:
        return error
    return None


@pytest.mark.parametrize("right", ["+subscribe", "+unsubscribe", "+ping", PLACES[1]])
async def test_a_subscription_that_meets_a_right_that_is_missing_names_it(
    url: str, admin: Redis, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_feed, "PING_AFTER_S", 0.01)
    redis, channel = Connections(as_user(url)), Keys(acl_user.PREFIX).session("s", "events")
    subscriber = Subscriber(redis.topology)
    with capture_logs() as lines:
        subscriber.start()
        async with without(admin, right):
            listener = Deaf()
            asking = asyncio.create_task(subscriber.subscribe(channel, listener))
            if right == "+unsubscribe":
                await asking
                subscriber.unsubscribe(channel, listener)
            await until(lambda: refusals(lines), "it is told")
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    named = {f"lacks a right: {right} (docs", f"lacks a right: {right[0]}PREFIX:* (docs"}
    assert any(sentence in refusals(lines)[0] for sentence in named)
    await subscriber.aclose()
    await redis.aclose()


def refusals(lines: list[MutableMapping[str, Any]]) -> list[str]:
    return [line["detail"] for line in lines if line["event"] == "subscription_refused"]


class Deaf:
    def acknowledged(self) -> None: ...

    def message(self, payload: bytes) -> None: ...

    def lost(self) -> None: ...


async def test_a_process_says_which_right_was_taken_away_and_when_it_is_back(url: str, admin: Redis) -> None:
    redis = Connections(as_user(url))
    fitness = RequirementsMonitor(redis.commands, acl_user.PREFIX)
    with capture_logs() as lines:
        await fitness.check_once()
        async with without(admin, "+hset"):
            for _ in range(3):
                await fitness.check_once()
            assert "+hset" in fitness.problem
        await fitness.check_once()
    assert [line["event"] for line in lines] == ["not_ready", "ready"]
    assert fitness.problem == ""
    await redis.aclose()


async def test_several_that_are_missing_are_named_at_once(url: str, admin: Redis) -> None:
    redis = Connections(as_user(url))
    await ask(
        admin,
        "ACL",
        "SETUSER",
        acl_user.USER,
        "-zadd",
        "-time",
        "resetchannels",
        "resetkeys",
        f"~{acl_user.PREFIX}:q:*",
    )
    with pytest.raises(
        SettingsError, match=re.escape(f"lacks a right: +time +zadd ~{acl_user.PREFIX}:* &{acl_user.PREFIX}:* (")
    ):
        await check_requirements(redis.commands, acl_user.PREFIX)
    await redis.aclose()


async def test_a_group_that_may_not_be_made_is_no_group_that_is_not_there(url: str, admin: Redis) -> None:
    """It is tried where the first look at a queue finds none, whatever that says."""
    redis = Connections(as_user(url))
    queue = factory.queue(redis, settings.load(redis_url=as_user(url), prefix=acl_user.PREFIX))
    assert await queue.enqueue(job_of(), 1)
    async with without(admin, "+xgroup|create"):
        with pytest.raises(StorageError, match=r"take: .*lacks a right: \+xgroup\|create"):
            await queue.take("default")
    assert len(await queue.take("default")) == 1
    await redis.aclose()


# More servers than one


@pytest.mark.slow
async def test_in_a_cluster_the_second_line_is_all_that_comes_on_top(tmp_path: Path) -> None:
    async with cluster(tmp_path) as servers:
        for server in servers.masters:
            for words in (acl_user.user_line(), acl_user.cluster_line()):
                await server.ask(*words)
        await everything_once(as_user(servers.url))
        redis = Connections(as_user(servers.url))
        assert await check_requirements(redis.commands, acl_user.PREFIX)
        assert [await server.ask("ACL", "LOG") for server in servers.masters] == [[]] * len(servers.masters)
        for right in ("+spublish", "+ssubscribe", "+sunsubscribe"):  # on one server of three
            await servers.masters[2].ask("ACL", "SETUSER", acl_user.USER, f"-{right[1:]}")
            with pytest.raises(SettingsError, match=re.escape(f"lacks a right: {right} (")):
                await check_requirements(redis.commands, acl_user.PREFIX)
            await servers.masters[2].ask("ACL", "SETUSER", acl_user.USER, right)
        await redis.aclose()
        for server in servers.masters:
            await server.ask("ACL", "SETUSER", acl_user.USER, "-cluster|slots")
        redis = Connections(as_user(servers.url))
        with pytest.raises(SettingsError, match=re.escape("lacks a right: +cluster|slots (")):
            await check_requirements(redis.commands, acl_user.PREFIX)
        await redis.aclose()


@pytest.mark.slow
async def test_behind_sentinels_role_is_all_that_comes_on_top(tmp_path: Path) -> None:
    async with watched(tmp_path) as servers:
        await servers.master.ask(*acl_user.user_line())
        redis = Connections(as_user(servers.url))
        with pytest.raises(SettingsError, match=re.escape("lacks a right: +role (")):
            await check_requirements(redis.commands, acl_user.PREFIX)
        await servers.master.ask("ACL", "SETUSER", acl_user.USER, "+role")
        assert await check_requirements(redis.commands, acl_user.PREFIX)
        for sentinel in servers.sentinels:
            await sentinel.ask("ACL", "SETUSER", "default", "-sentinel|get-master-addr-by-name")
        other = Connections(as_user(servers.url))
        with pytest.raises(SettingsError, match=re.escape("lacks a right: +sentinel|get-master-addr-by-name (")):
            await check_requirements(other.commands, acl_user.PREFIX)
        await other.aclose()
        await redis.aclose()
