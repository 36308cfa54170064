"""Revocations as they are stored: since when, never earlier again, none lost on the way to a reader, and bounded."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from relay.errors import StorageError
from relay.store import revocations
from relay.store.keys import Keys
from relay.store.revocations import KEEP_S, RevocationStore, Revoked
from tests.store.in_memory import Clock

KEEP_MS = KEEP_S * 1000


@pytest.fixture
def store(redis: Redis) -> RevocationStore:
    return RevocationStore(redis, Keys("t"))


async def everything(store: RevocationStore) -> dict[str, int]:
    return {sub: at_ms async for page in store.pages() for sub, at_ms in page}


async def test_who_is_revoked_is_so_from_now_on_and_again_from_later_on(store: RevocationStore, clock: Clock) -> None:
    first = clock.now_ms
    assert await store.revoke("somebody") == Revoked("somebody", first)
    clock.advance(s=5)
    assert await store.revoke("somebody") == Revoked("somebody", first + 5000)
    assert await everything(store) == {"somebody": first + 5000}


async def test_no_revocation_moves_to_an_earlier_moment(store: RevocationStore, clock: Clock) -> None:
    at = clock.now_ms
    await store.revoke("somebody")
    clock.advance(s=-60)
    assert await store.revoke("somebody") == Revoked("somebody", at)
    await store.put_back([Revoked("somebody", at - 1000)])
    assert await everything(store) == {"somebody": at}


async def test_what_is_put_back_is_as_it_was_and_never_of_the_future(store: RevocationStore, clock: Clock) -> None:
    now = clock.now_ms
    await store.put_back([Revoked("earlier", now - 5), Revoked("later", now + 5)])
    assert await everything(store) == {"earlier": now - 5, "later": now}


async def test_news_is_what_was_revoked_since_a_moment_with_that_moment(store: RevocationStore, clock: Clock) -> None:
    for sub in ("a", "b", "ü \x1b c"):
        clock.advance(ms=1)
        await store.revoke(sub)
    now = clock.now_ms
    news = await store.news(now - 1, KEEP_MS)
    assert news.rows == [Revoked("b", now - 1), Revoked("ü \x1b c", now)]
    assert (news.now_ms, news.total, news.is_all) == (now, 3, True)
    assert (await store.news(now + 1, KEEP_MS)).rows == []


async def test_those_that_are_too_old_for_a_reader_do_not_count_and_stay_stored(
    store: RevocationStore, clock: Clock
) -> None:
    """Another process may be set to take longer tokens."""
    await store.revoke("a")
    clock.advance(s=10)
    assert (await store.news(0, 10_000)).total == 1
    clock.advance(ms=1)
    assert (await store.news(0, 10_000)).total == 0
    await store.revoke("b")
    assert set(await everything(store)) == {"a", "b"}


async def test_those_that_no_token_outlives_go(store: RevocationStore, clock: Clock, redis: Redis) -> None:
    await store.revoke("a")
    clock.advance(s=KEEP_S / 2)
    await store.revoke("b")
    assert await redis.pttl("t:revoked") == KEEP_MS
    clock.advance(s=KEEP_S / 2, ms=1)
    await store.revoke("c")
    assert set(await everything(store)) == {"b", "c"}


async def test_a_page_is_bounded_and_says_whether_it_is_all(
    store: RevocationStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "PAGE", 3)
    for number in range(4):
        clock.advance(ms=1)
        await store.revoke(f"p{number}")
    news = await store.news(0, KEEP_MS)
    assert ([sub for sub, _ in news.rows], news.is_all) == (["p0", "p1", "p2"], False)
    rest = await store.news(news.rows[-1].at_ms, KEEP_MS)
    assert ([sub for sub, _ in rest.rows], rest.is_all) == (["p2", "p3"], True)


async def test_all_of_them_are_read_while_others_come_and_go(store: RevocationStore, clock: Clock) -> None:
    for number in range(700):
        await store.revoke(f"p{number}")
    found = dict[str, int]()
    async for page in store.pages():
        found.update(page)
        clock.advance(ms=1)
        await store.revoke(f"new {len(found)}")
        await store.revoke(f"p{len(found) % 700}")  # moves
    assert {f"p{number}" for number in range(700)} <= found.keys()


async def test_beyond_the_bound_nobody_is_revoked_but_those_who_were(
    store: RevocationStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "MAX_REVOCATIONS", 2)
    await store.revoke("a")
    await store.revoke("b")
    clock.advance(ms=1)
    assert await store.revoke("c") is None
    assert await store.revoke("a") == Revoked("a", clock.now_ms)
    await store.put_back([Revoked("d", 1), Revoked("b", clock.now_ms)])
    assert await everything(store) == {"a": clock.now_ms, "b": clock.now_ms}
    monkeypatch.setattr(revocations, "MAX_REVOCATIONS", 3)
    await store.put_back([Revoked("d", clock.now_ms), Revoked("e", clock.now_ms)])
    assert set(await everything(store)) == {"a", "b", "d"}
    clock.advance(s=KEEP_S, ms=1)
    assert await store.revoke("c") is not None


async def test_what_somebody_else_wrote_there_without_end_is_not_read_without_end(
    store: RevocationStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "MAX_REVOCATIONS", 50)
    monkeypatch.setattr(revocations, "PAGE", 10)
    await redis.zadd("t:revoked", {f"p{number}": 1 for number in range(300)})
    with pytest.raises(StorageError, match="more than the relay ever writes"):
        await everything(store)
