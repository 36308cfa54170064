"""Pages: what several readers lack is read once, for as long as it fits and somebody asks."""

from __future__ import annotations

import asyncio
import random

import pytest
from redis.asyncio import Redis

from relay.errors import StorageError
from relay.follow import page_cache as pages_module
from relay.follow.loss_detection import entries_missing
from relay.follow.page_cache import EntriesMissing, EpochChanged, PageCache, SessionPages
from relay.follow.window import Entry
from relay.redis import read_limiter
from relay.redis.connections import POOL_CONNECTIONS
from relay.redis.read_limiter import READS_AT_ONCE
from relay.store.session.replies import Page
from relay.store.session.session_log import SessionLog
from tests.follow.following import Held, Read
from tests.scenarios.processes import until
from tests.store.in_memory import admitted_and_claimed, answered, job_of, session_log_on

EVENTS = 40  # in the log, with message and status
HEAD = EVENTS
PLENTY = 16_000_000


@pytest.fixture
async def read(redis: Redis) -> Read:
    return await read_of(redis)


async def read_of(redis: Redis) -> Read:
    writer = await admitted_and_claimed(session_log_on(redis))
    for number in range(EVENTS - 2):
        await writer.tokens(f"{number:050}")
    return Read(redis)


async def epoch_of(read: Read) -> str:
    opened = await read.open("s")
    assert opened is not None
    return opened.epoch


async def everything(pages: SessionPages, epoch: str, after: int, upto: int = HEAD) -> list[Entry]:
    """As a replay asks."""
    found: list[Entry] = []
    while after < upto:
        stretch = await pages.segment_after(epoch, after, upto)
        assert stretch.first <= after + 1 <= stretch.last
        found += [entry for block in stretch.blocks(after, upto) for entry in block.entries]
        after = stretch.last
    return found


async def log_of(read: Read) -> list[Entry]:
    page = await SessionLog.range(read, "s", 1)
    assert page is not None
    return page.entries


async def test_readers_who_come_together_share_one_read_from_the_lowest_cursor(read: Read) -> None:
    pages, epoch = SessionPages("s", read, PageCache(PLENTY)), await epoch_of(read)
    cursors = [20, 0, 7, 39, 0, 12]
    held = Held(read)
    first = asyncio.create_task(everything(pages, epoch, 25))
    await held.asked.wait()
    others = [asyncio.create_task(everything(pages, epoch, cursor)) for cursor in cursors]
    await asyncio.sleep(0)
    held.go.set()
    log = await log_of(read)
    assert await first == log[25:]
    for cursor, found in zip(cursors, await asyncio.gather(*others), strict=True):
        assert found == log[cursor:]
    assert read.reads == [26, 1]  # the second one only as far as the first had begun


async def test_who_comes_later_with_a_lower_cursor_reads_only_what_is_not_at_hand(read: Read) -> None:
    pages, epoch = SessionPages("s", read, PageCache(PLENTY)), await epoch_of(read)
    log = await log_of(read)
    for cursor in (30, 35, 20, 20, 0, 10):
        assert await everything(pages, epoch, cursor) == log[cursor:]
    assert read.reads == [31, 21, 1]


@pytest.mark.parametrize("page_bytes", [1, 300, 2000])
async def test_a_log_longer_than_a_page_is_read_page_by_page_and_each_page_once(read: Read, page_bytes: int) -> None:
    pages, epoch = SessionPages("s", read, PageCache(PLENTY)), await epoch_of(read)
    read.page_bytes = page_bytes
    cursors = [random.Random(page_bytes).randrange(HEAD) for _ in range(50)]
    found = await asyncio.gather(*(everything(pages, epoch, cursor) for cursor in cursors))
    log = await log_of(read)
    assert found == [log[cursor:] for cursor in cursors]
    assert len(set(read.reads)) == len(read.reads) <= HEAD


async def test_where_nothing_can_be_kept_everybody_still_gets_everything(read: Read) -> None:
    shelf = PageCache(0)
    pages, epoch = SessionPages("s", read, shelf), await epoch_of(read)
    read.page_bytes = 500
    found = await asyncio.gather(*(everything(pages, epoch, cursor) for cursor in range(0, HEAD, 4)))
    log = await log_of(read)
    assert found == [log[cursor:] for cursor in range(0, HEAD, 4)]
    assert shelf.bytes == 0


async def test_the_page_asked_for_longest_ago_goes_first_whosever_it_is(redis: Redis, read: Read) -> None:
    epoch = await epoch_of(read)
    log = await log_of(read)
    size = (await SessionPages("s", read, PageCache(PLENTY)).segment_after(epoch, 0, HEAD)).size_bytes
    shelf = PageCache(2 * size)
    one, two, three = (SessionPages("s", read, shelf) for _ in range(3))
    read.reads.clear()
    for pages in (one, two, one, three, one):  # `two` goes when `three` comes
        assert await everything(pages, epoch, 0) == log
    assert len(read.reads) == 3
    assert shelf.bytes == 2 * size
    await everything(two, epoch, 0)
    assert len(read.reads) == 4
    await everything(one, epoch, 0)
    assert len(read.reads) == 4


async def test_what_nobody_asks_for_any_more_is_dropped(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "KEEP_S", 0.02)
    shelf = PageCache(PLENTY)
    pages, epoch = SessionPages("s", read, shelf), await epoch_of(read)
    await everything(pages, epoch, 0)
    assert shelf.bytes > 0
    await until(lambda: shelf.bytes == 0)
    await everything(pages, epoch, 0)
    assert read.reads == [1, 1]


async def test_a_read_that_fails_fails_whoever_read_and_the_next_one_tries(read: Read) -> None:
    pages, epoch = SessionPages("s", read, PageCache(PLENTY)), await epoch_of(read)
    read.failures.append(StorageError("away"))
    found = await asyncio.gather(*(everything(pages, epoch, 0) for _ in range(3)), return_exceptions=True)
    log = await log_of(read)
    assert isinstance(found[0], StorageError)
    assert found[1:] == [log, log]


async def test_a_reader_who_leaves_while_he_reads_leaves_the_turn_to_the_next(read: Read) -> None:
    pages, epoch = SessionPages("s", read, PageCache(PLENTY)), await epoch_of(read)
    held = Held(read)
    leaves = asyncio.create_task(everything(pages, epoch, 0))
    await held.asked.wait()
    read.after_range = None
    stays = asyncio.create_task(everything(pages, epoch, 5))
    await asyncio.sleep(0)
    leaves.cancel()
    assert await stays == (await log_of(read))[5:]
    assert read.reads == [1, 6]  # who has left is not read for


async def test_pages_of_another_life_are_not_given(redis: Redis, read: Read) -> None:
    pages, epoch = SessionPages("s", read, PageCache(PLENTY)), await epoch_of(read)
    await everything(pages, epoch, 0)
    await redis.flushall()
    await admitted_and_claimed(session_log_on(redis))
    other = await epoch_of(read)
    assert [seq for seq, _ in await everything(pages, other, 0, 2)] == [1, 2]
    with pytest.raises(EpochChanged):
        await pages.segment_after(epoch, 0, HEAD)


async def test_pages_from_before_something_was_forgotten_are_not_mixed_with_later_ones(redis: Redis) -> None:
    log = session_log_on(redis, max_generations=1)
    await answered(log, job_of("g1"), "one")
    read = Read(redis)
    pages, epoch = SessionPages("s", read, PageCache(PLENTY)), await epoch_of(read)
    assert (await pages.segment_after(epoch, 2, 4)).version.floor == 0
    await log.admit(job_of("g2"))  # forgets g1: seqs 1 to 4
    later = await pages.segment_after(epoch, 0, 2)
    assert (later.version.floor, list(later.blocks(0, 2))) == (4, [])
    assert (await pages.segment_after(epoch, 3, 6)).version.floor == 4


async def test_entries_that_are_missing_above_the_floor_are_not_passed_over(redis: Redis, read: Read) -> None:
    pages, epoch = SessionPages("s", read, PageCache(PLENTY)), await epoch_of(read)
    await redis.delete("t:s:{s}:log")
    with pytest.raises(EntriesMissing):
        await pages.segment_after(epoch, 3, HEAD)


async def test_what_was_trimmed_is_not_missing() -> None:
    def page(floor: int, *seqs: int) -> Page:
        return Page("e", 9, floor, [(seq, b"") for seq in seqs])

    assert not entries_missing(page(0, 4, 5), 3, 9)  # as far as the page goes
    assert not entries_missing(page(0), 9, 9)
    assert entries_missing(page(0), 8, 9)
    assert entries_missing(page(0, 5), 3, 9)
    assert entries_missing(page(0, 4, 6), 3, 9)
    assert not entries_missing(page(6, 2, 4, 7), 1, 9)
    assert entries_missing(page(6, 2, 4, 8), 1, 9)
    assert not entries_missing(page(6, 2), 1, 9)
    assert not entries_missing(page(9), 1, 9)
    assert entries_missing(page(6), 1, 9)


async def test_reads_of_many_sessions_have_turns_so_that_a_stop_finds_a_connection(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, running, most = session_log_on(redis), 0, 0
    full, go = asyncio.Event(), asyncio.Event()

    async def run(*_: object) -> list[bytes]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == READS_AT_ONCE:
            full.set()
        await go.wait()
        running -= 1
        return []

    monkeypatch.setattr(log, "_run", run)
    reads = [asyncio.create_task(log.range(f"s{number}", 1)) for number in range(100)]
    opens = [asyncio.create_task(log.open(f"s{number}", create=False)) for number in range(100)]
    await full.wait()
    go.set()
    assert await asyncio.gather(*reads) == [None] * 100
    assert await asyncio.gather(*opens) == [None] * 100
    assert most == READS_AT_ONCE < POOL_CONNECTIONS / 2


async def test_whoever_comes_whenever_gets_the_log_from_his_cursor_on(read: Read) -> None:
    epoch, log = await epoch_of(read), await log_of(read)

    async def come(pages: SessionPages, cursor: int, pause: int) -> list[Entry]:
        for _ in range(pause):
            await asyncio.sleep(0)
        return await everything(pages, epoch, cursor)

    for seed in range(12):
        chance = random.Random(seed)
        read.page_bytes = chance.choice([200, 1000, 4000])
        read.reads.clear()
        shelf = PageCache(chance.choice([0, 500, 2000, 10_000, PLENTY]))
        pages = SessionPages("s", read, shelf)
        cursors = [chance.randrange(HEAD + 1) for _ in range(10)]
        found = await asyncio.gather(*(come(pages, cursor, chance.randrange(30)) for cursor in cursors))
        assert found == [log[cursor:] for cursor in cursors]
        pages.clear()
        assert shelf.bytes == 0


@pytest.mark.parametrize("refused", [False, True])
async def test_reads_that_fail_because_redis_is_away_are_few(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """A refusal is about one session only."""
    log, tries = session_log_on(redis), 0
    monkeypatch.setattr(read_limiter, "FAILED_READ_S", 1000)

    async def run(*_: object) -> list[bytes]:
        nonlocal tries
        tries += 1
        raise StorageError("away", refused=refused)

    monkeypatch.setattr(log, "_run", run)
    reads = [asyncio.create_task(log.range(f"s{number}", 1)) for number in range(100)]
    for _ in range(1000):
        await asyncio.sleep(0)
    assert tries == (100 if refused else READS_AT_ONCE)
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
