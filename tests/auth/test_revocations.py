"""Revocations in a gateway: known within two reads, of every moment, whatever Redis forgets; and each is told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from relay.auth import revocations as module
from relay.auth.identity import Identity
from relay.auth.revocations import COMPARE_EVERY_S, OVERLAP_MS, Revocations, check_sub
from relay.errors import ClientError, StorageError
from relay.store import revocations as stored
from relay.store.keys import Keys
from relay.store.revocations import KEEP_S, News, RevocationStore, Revoked
from tests.scenarios.processes import until
from tests.store.in_memory import Clock

KEEP = 100


class Store(RevocationStore):
    """It may be away, and a test may do something before each call returns."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, Keys("t"))
        self.is_away = False
        self.calls: list[str] = []
        self.held: dict[str, asyncio.Event] = {}  # calls that wait after Redis has answered
        self.put: list[Revoked] = []

    async def news(self, since_ms: int, keep_ms: int) -> News:
        self._called("news")
        found = await super().news(since_ms, keep_ms)
        await self._hold("news")
        return found

    async def pages(self) -> AsyncIterator[list[Revoked]]:
        self._called("pages")
        async for page in super().pages():
            await self._hold("pages")
            yield page

    async def put_back(self, rows: Sequence[Revoked]) -> None:
        self._called("put_back")
        self.put += rows
        await super().put_back(rows)

    def hold(self, call: str) -> asyncio.Event:
        return self.held.setdefault(call, asyncio.Event())

    def _called(self, call: str) -> None:
        self.calls.append(call)
        if self.is_away:
            raise StorageError("away")

    async def _hold(self, call: str) -> None:
        if call in self.held:
            self.calls.append(f"{call} answered")
            await self.held[call].wait()


class Now:
    """The gateway's own clock; the fixture `clock` is that of Redis."""

    s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
async def known(store: Store, now: Now) -> Revocations:
    """Those of a gateway that has read them once."""
    found = Revocations(store, KEEP, now)
    await found.sync()
    return found


def identity(clock: Clock, ago_s: float = 60, sub: str = "ann") -> Identity:
    return Identity(sub, frozenset({"read"}), issued_at=clock.now_ms / 1000 - ago_s)


def never_issued(sub: str = "ann") -> Identity:
    return Identity(sub, frozenset({"read"}))


class Told:
    """What connections were told."""

    def __init__(self) -> None:
        self.whom: list[str] = []

    def named(self, name: str) -> Named:
        return Named(self, name)


class Named:
    def __init__(self, told: Told, name: str) -> None:
        self._told, self._name = told, name

    def __call__(self) -> None:
        self._told.whom.append(self._name)


@pytest.fixture
def told() -> Told:
    return Told()


async def elsewhere(store: Store, sub: str = "ann") -> None:
    """Another gateway, or `relay revoke`, does."""
    assert await store.revoke(sub) is not None


# Who is revoked


async def test_tokens_issued_before_the_moment_or_at_it_are_revoked_and_later_ones_are_not(
    known: Revocations, store: Store, clock: Clock
) -> None:
    clock.advance(ms=500)
    revoked_at = await known.revoke("ann")
    assert revoked_at == clock.now_ms / 1000
    whole = float(int(revoked_at))
    for issued_at, expected in [
        (0.0, True), (whole - 1, True), (whole, True), (revoked_at, True), (revoked_at + 0.001, False),
        (whole + 1, False),
    ]:  # fmt: skip
        assert known.is_revoked(Identity("ann", frozenset(), issued_at=issued_at)) is expected, issued_at
        assert not known.is_revoked(Identity("bob", frozenset(), issued_at=issued_at))


async def test_a_gateway_that_never_read_them_lets_in_nobody(store: Store, clock: Clock, now: Now) -> None:
    found = Revocations(store, KEEP, now)
    store.is_away = True
    with capture_logs():
        await found.sync()
    with pytest.raises(ClientError) as refused:
        found.is_revoked(identity(clock))
    assert (refused.value.code, refused.value.retryable) == ("unavailable", True)
    store.is_away = False
    await found.sync()
    assert not found.is_revoked(identity(clock))


async def test_a_gateway_that_read_some_and_then_failed_lets_in_nobody(store: Store, clock: Clock, now: Now) -> None:
    await elsewhere(store)
    found = Revocations(store, KEEP, now)
    reading = asyncio.create_task(found.sync())
    store.hold("pages")
    await until(lambda: "pages answered" in store.calls, "a page is there")
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    with pytest.raises(ClientError):
        found.is_revoked(identity(clock, sub="bob"))


async def test_one_that_read_them_once_goes_on_with_what_it_knows(
    known: Revocations, store: Store, clock: Clock
) -> None:
    await elsewhere(store)
    await known.sync()
    store.is_away = True
    with capture_logs() as lines:
        for _ in range(3):
            await known.sync()
        assert known.is_revoked(identity(clock))
        assert not known.is_revoked(identity(clock, sub="bob"))
        store.is_away = False
        await known.sync()
    assert [line["event"] for line in lines if line["log_level"] != "debug"] == ["revocations_failed", "recovered"]


async def test_they_are_forgotten_when_no_token_can_be_as_old(known: Revocations, clock: Clock, redis: Redis) -> None:
    for number in range(3):
        await known.revoke(f"p{number}")
        clock.advance(s=10)
    await known.sync()
    clock.advance(s=KEEP - 30)
    await known.sync()
    assert len(known._at_ms) == 3
    clock.advance(ms=1)
    await known.sync()
    assert sorted(known._at_ms) == ["p1", "p2"]
    assert not known.is_revoked(never_issued("p0"))
    clock.advance(s=100)
    await known.sync()
    assert known._at_ms == {}
    assert await redis.zcard("t:revoked") == 3  # for a process that takes longer tokens


async def test_no_token_may_outlive_what_redis_keeps(store: Store) -> None:
    with pytest.raises(ValueError, match=str(KEEP_S)):
        Revocations(store, KEEP_S + 1)


async def test_one_too_many_is_an_error_that_says_what_helps(
    known: Revocations, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MAX_REVOCATIONS", 1)
    await known.revoke("bob")
    with pytest.raises(ClientError, match="Changing the key") as refused:
        await known.revoke("ann")
    assert refused.value.code == "unavailable"
    assert not known.is_revoked(identity(clock))


async def test_a_revocation_that_cannot_be_stored_is_an_error(known: Revocations, redis: Redis) -> None:
    await redis.set("t:revoked", "no sorted set")
    with pytest.raises(StorageError):
        await known.revoke("ann")


# Read in time


async def test_what_another_gateway_writes_is_known_with_the_next_read(
    known: Revocations, store: Store, clock: Clock
) -> None:
    clock.advance(s=60)
    await elsewhere(store)
    await known.sync()
    assert known.is_revoked(identity(clock))
    assert store.calls == ["news", "pages", "news"]  # not all of them again


@pytest.mark.parametrize("call", ["news", "pages"])
async def test_what_comes_while_everything_is_read_is_known_with_the_next_read(
    store: Store, clock: Clock, now: Now, call: str
) -> None:
    await elsewhere(store, "bob")
    found = Revocations(store, KEEP, now)
    store.hold(call)
    reading = asyncio.create_task(found.sync())
    await until(lambda: f"{call} answered" in store.calls, "Redis has answered")
    clock.advance(ms=1)
    await elsewhere(store)
    await elsewhere(store, "bob")
    store.hold(call).set()
    await reading
    await found.sync()
    assert found._at_ms == {"ann": clock.now_ms, "bob": clock.now_ms}


async def test_one_written_here_while_everything_is_read_is_not_taken_for_lost(
    known: Revocations, store: Store, clock: Clock
) -> None:
    await known.revoke("ann")
    known._must_read_all = True
    store.hold("pages")
    reading = asyncio.create_task(known.sync())
    await until(lambda: "pages answered" in store.calls, "Redis has answered")
    clock.advance(ms=1)
    await known.revoke("ann")
    await known.revoke("bob")
    store.hold("pages").set()
    await reading
    assert store.put == []
    assert known._at_ms == {"ann": clock.now_ms, "bob": clock.now_ms}


async def test_many_at_once_are_read_page_by_page(
    known: Revocations, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PAGE", 3)
    for number in range(10):
        clock.advance(ms=number % 2)
        await elsewhere(store, f"p{number}")
    await known.sync()
    assert len(known._at_ms) == 10
    assert store.calls.count("pages") == 1


async def test_more_than_a_page_of_one_moment_are_read_with_all_others(
    known: Revocations, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PAGE", 3)
    for number in range(10):
        await elsewhere(store, f"p{number}")
    await known.sync()
    assert len(known._at_ms) == 10
    assert store.calls.count("pages") == 2


@pytest.mark.parametrize("back_s", [OVERLAP_MS / 1000 - 1, 3600])
async def test_none_is_missed_when_the_clock_of_redis_is_set_back(
    known: Revocations, store: Store, clock: Clock, back_s: float
) -> None:
    await known.sync()
    clock.advance(s=-back_s)
    await elsewhere(store)
    await known.sync()
    assert known.is_revoked(identity(clock))


async def test_none_is_missed_after_an_outage(known: Revocations, store: Store, redis: Redis, clock: Clock) -> None:
    """However long ago: another server may have become master meanwhile."""
    store.is_away = True
    with capture_logs():
        await known.sync()
        await redis.zadd("t:revoked", {"ann": clock.now_ms - 50_000})
        store.is_away = False
        await known.sync()
    assert known.is_revoked(identity(clock))


async def test_one_that_turns_up_late_is_found_by_its_number(
    known: Revocations, redis: Redis, clock: Clock, now: Now
) -> None:
    await redis.zadd("t:revoked", {"ann": clock.now_ms - 50_000})
    now.s += COMPARE_EVERY_S
    await known.sync()
    assert known.is_revoked(identity(clock))


async def test_a_gateway_reads_at_its_start_and_again_and_again(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.001)
    found = Revocations(store, KEEP)
    running = asyncio.create_task(found.run())
    await until(lambda: store.calls.count("news") >= 2, "it has read twice")
    await elsewhere(store)
    await until(lambda: found.is_revoked(identity(clock)), "it knows")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_is_over_for_this_gateway_is_told_to_nobody(
    store: Store, clock: Clock, now: Now, told: Told
) -> None:
    """Redis keeps it for longer. A token without a time of issue may be a new one by now."""
    await elsewhere(store)
    clock.advance(s=KEEP, ms=1)
    found = Revocations(store, KEEP, now)
    found.watch(never_issued(), told.named("one"))
    await found.sync()
    assert told.whom == []
    assert not found.is_revoked(never_issued())


def test_every_gateway_knows_within_a_second() -> None:
    assert module.EVERY_S <= 0.5


async def test_a_bug_is_told_and_reading_goes_on(known: Revocations, store: Store, clock: Clock) -> None:
    read = store.news

    async def broken(since_ms: int, keep_ms: int) -> News:
        raise RuntimeError("a bug")

    store.news = broken  # type: ignore[method-assign]
    with capture_logs() as lines:
        await known.sync()
        store.news = read  # type: ignore[method-assign]
        await elsewhere(store)
        await known.sync()
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("revocations_crashed", "error"),
        ("recovered", "info"),
    ]
    assert known.is_revoked(identity(clock))


# What Redis loses


async def test_what_redis_loses_is_put_back_as_it_was(
    known: Revocations, store: Store, redis: Redis, clock: Clock, now: Now
) -> None:
    at = clock.now_ms
    await known.revoke("ann")
    clock.advance(s=10)
    await known.revoke("bob")
    await redis.flushall()
    now.s += COMPARE_EVERY_S
    with capture_logs() as lines:
        await known.sync()
    assert {sub: at_ms async for page in store.pages() for sub, at_ms in page} == {"ann": at, "bob": at + 10_000}
    assert [(line["event"], line["count"]) for line in lines] == [("revocations_restored", 2)]


async def test_a_later_revocation_that_a_failover_lost_is_put_back(
    known: Revocations, store: Store, redis: Redis, clock: Clock
) -> None:
    """The number is the same as before; what fails on the way has everything read again."""
    await known.revoke("ann")
    before = clock.now_ms
    clock.advance(s=10)
    await known.revoke("ann")
    await redis.zadd("t:revoked", {"ann": before})
    store.is_away = True
    with capture_logs():
        await known.sync()
        store.is_away = False
        await known.sync()
    assert store.put == [Revoked("ann", before + 10_000)]


async def test_what_redis_lost_is_put_back_before_anybody_who_starts_can_miss_it_for_long(
    known: Revocations, store: Store, redis: Redis, clock: Clock, now: Now
) -> None:
    await known.revoke("ann")
    await redis.flushall()
    new = Revocations(store, KEEP, now)
    await new.sync()
    now.s += COMPARE_EVERY_S
    with capture_logs():
        await known.sync()
    now.s += COMPARE_EVERY_S
    await new.sync()
    assert new.is_revoked(identity(clock))


async def test_where_there_is_no_room_for_all_they_are_not_read_without_pause(
    known: Revocations, store: Store, redis: Redis, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    await known.revoke("ann")
    await redis.flushall()
    monkeypatch.setattr(stored, "MAX_REVOCATIONS", 0)
    now.s += COMPARE_EVERY_S
    with capture_logs():
        for _ in range(5):
            await known.sync()
    assert store.calls.count("pages") == 2


async def test_what_is_over_is_not_put_back(
    known: Revocations, store: Store, redis: Redis, clock: Clock, now: Now
) -> None:
    await known.revoke("ann")
    await redis.flushall()
    clock.advance(s=KEEP, ms=1)
    now.s += COMPARE_EVERY_S
    await known.sync()
    assert store.put == []


# Whom they concern


async def test_each_connection_of_that_sub_is_told_once_and_no_other(
    known: Revocations, store: Store, clock: Clock, told: Told
) -> None:
    for name in ("one", "two"):
        known.watch(identity(clock), told.named(name))
    known.watch(identity(clock, ago_s=-5), told.named("issued later"))
    known.watch(identity(clock, sub="bob"), told.named("bob"))
    await elsewhere(store)
    for _ in range(3):
        await known.sync()
    await known.revoke("ann")
    assert sorted(told.whom) == ["one", "two"]
    clock.advance(s=6)
    await known.revoke("ann")
    assert sorted(told.whom) == ["issued later", "one", "two"]


async def test_one_revoked_here_is_told_at_once(known: Revocations, store: Store, clock: Clock, told: Told) -> None:
    known.watch(identity(clock), told.named("one"))
    await known.revoke("ann")
    assert told.whom == ["one"]


async def test_what_came_between_the_check_of_a_token_and_the_watch_is_not_missed(
    known: Revocations, clock: Clock, told: Told
) -> None:
    someone = identity(clock)
    assert not known.is_revoked(someone)
    await known.revoke("ann")
    watch = known.watch(someone, told.named("one"))
    assert told.whom == ["one"]
    known.replace(watch, identity(clock, ago_s=-5))
    known.unwatch(watch)
    await known.revoke("ann")
    assert told.whom == ["one"]
    assert known._watches == {}


async def test_what_came_before_the_first_read_is_told_with_it(
    store: Store, clock: Clock, now: Now, told: Told
) -> None:
    await elsewhere(store)
    found = Revocations(store, KEEP, now)
    found.watch(identity(clock), told.named("one"))
    await found.sync()
    assert told.whom == ["one"]


async def test_a_token_issued_after_it_keeps_the_connection(
    known: Revocations, store: Store, clock: Clock, told: Told
) -> None:
    watch = known.watch(identity(clock), told.named("refreshed"))
    known.watch(identity(clock), told.named("not refreshed"))
    known.replace(watch, identity(clock, ago_s=-1))
    await elsewhere(store)
    await known.sync()
    assert told.whom == ["not refreshed"]


async def test_a_token_that_is_revoked_already_ends_the_connection_it_refreshes(
    known: Revocations, clock: Clock, told: Told
) -> None:
    clock.advance(s=10)
    watch = known.watch(identity(clock, ago_s=-5), told.named("one"))
    await known.revoke("ann")
    assert told.whom == []
    known.replace(watch, identity(clock, ago_s=5))
    assert told.whom == ["one"]


async def test_who_is_not_watched_any_more_is_told_nothing_and_leaves_nothing(
    known: Revocations, clock: Clock, told: Told
) -> None:
    watch = known.watch(identity(clock), told.named("gone"))
    known.unwatch(watch)
    known.unwatch(watch)
    known.replace(watch, identity(clock))
    await known.revoke("ann")
    assert told.whom == []
    assert known._watches == {}


async def test_one_that_closes_another_spares_it_and_one_that_fails_costs_nobody(
    known: Revocations, clock: Clock, told: Told
) -> None:
    def closes() -> None:
        told.whom.append("closes")
        for watch in watches:
            known.unwatch(watch)
        raise RuntimeError("a bug")

    watches = [known.watch(identity(clock), closes) for _ in range(3)]
    with capture_logs() as lines:
        await known.revoke("ann")
    assert told.whom == ["closes"]
    assert [line["event"] for line in lines] == ["revoked", "revocations_crashed"]
    with capture_logs() as lines:
        known.watch(identity(clock), closes)
        known.watch(identity(clock), told.named("next"))
    assert told.whom == ["closes", "closes", "next"]


# What is a sub


@pytest.mark.parametrize("given", [None, 1, "", "x" * 129, ["a"], "\ud800"])
def test_what_no_token_can_be_of_is_no_sub(given: object) -> None:
    with pytest.raises(ClientError, match="sub must be 1 to 128 characters") as refused:
        check_sub(given)
    assert refused.value.code == "bad_message"


@pytest.mark.parametrize("given", ["a", "x" * 128, "auth0|5f7c", "ünï 漢", "\x1b"])
def test_whatever_a_token_may_hold_is_one(given: str) -> None:
    assert check_sub(given) == given


async def test_a_log_says_who_was_revoked_and_holds_nothing_that_a_terminal_obeys(known: Revocations) -> None:
    with capture_logs() as lines:
        await known.revoke("ann\x1b[2J")
    assert [(line["event"], line["sub"]) for line in lines] == [("revoked", "ann\\x1b[2J")]
