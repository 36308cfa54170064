"""The session as a whole: opened, read, published and expired."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from redis.asyncio import Redis

from relay.errors import StorageError
from relay.protocol import events
from relay.store.session.replies import ClaimRefused, WriteOutcome
from relay.store.session.session_log import SessionLog
from tests.store.in_memory import (
    LEASE_MS,
    SESSION_TTL_S,
    Clock,
    admitted_and_claimed,
    answered,
    claimed,
    generations,
    job_of,
    session_log_on,
    snapshot,
    transcript,
    whole_log,
)

# Open


async def test_opening_makes_a_session_of_its_own_epoch_once(session_log: SessionLog) -> None:
    first = await session_log.open("s")
    second = await session_log.open("s")
    other = await session_log.open("other")
    assert first is not None
    assert other is not None
    assert first == second
    assert (first.head, first.floor, first.active) == (0, 0, [])
    assert first.epoch != other.epoch


async def test_opening_can_be_told_to_make_nothing(session_log: SessionLog, redis: Redis) -> None:
    assert await session_log.open("s", create=False) is None
    assert await session_log.range("s", 1) is None
    assert await redis.keys() == []


async def test_the_epoch_lasts_while_the_session_does(session_log: SessionLog, redis: Redis) -> None:
    first = await session_log.open("s")
    await answered(session_log, job_of(), "Hi")
    second = await session_log.open("s")
    await redis.flushall()
    third = await session_log.open("s")
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.epoch == second.epoch
    assert third.epoch != second.epoch
    assert third.head == 0


async def test_where_meta_is_lost_a_new_life_begins_without_what_is_left_of_the_old(
    session_log: SessionLog, redis: Redis
) -> None:
    await answered(session_log, job_of("g1"), "Hi")
    writer = await admitted_and_claimed(session_log, "g2")
    await writer.tokens("x")
    await redis.delete("t:s:{s}:meta")
    await session_log.admit(job_of("g3"))
    assert [event["generation"] for event in await whole_log(session_log)] == ["g3", "g3"]
    assert not [key for key in await redis.keys() if b":g1" in key or b":g2" in key]
    assert (await writer.tokens("y")).what == "unknown"
    assert await transcript(session_log) == []
    assert await session_log.find_request("s", "r-g1") is None


@pytest.mark.parametrize("what", ["tokens", "end", "renew", "claim", "stop", "reap", "trim"])
async def test_where_meta_is_lost_alone_nothing_goes_on_in_what_is_left(
    session_log: SessionLog, redis: Redis, clock: Clock, what: str
) -> None:
    """It would be written at seqs that other events have: a half of it, and then an error."""
    await answered(session_log, job_of("g1"), "Hi", " there")
    writer = await admitted_and_claimed(session_log, "g2")
    await writer.tokens("x")
    await redis.delete("t:s:{s}:meta")
    left = {key: await redis.dump(key) for key in await redis.keys()}
    clock.advance(ms=LEASE_MS)
    answers: dict[str, Callable[[], Awaitable[object]]] = {
        "tokens": lambda: writer.tokens("y"),
        "end": writer.end,
        "renew": lambda: session_log.renew("s", "g2", writer.fence, LEASE_MS),
        "claim": lambda: session_log.claim("s", "g2", "w2", LEASE_MS, 0),
        "stop": lambda: session_log.stop("s", "g2"),
        "reap": lambda: session_log.reap("s", "g2", str(writer.fence), b"{}"),
        "trim": lambda: session_log.trim("s", "g1"),
    }
    told = await answers[what]()
    unknown: dict[str, object] = {"claim": ClaimRefused("unknown"), "stop": None, "reap": True, "trim": False}
    assert told == unknown.get(what, WriteOutcome("unknown"))
    assert {key: await redis.dump(key) for key in await redis.keys()} == left
    assert await session_log.generation_fields("s", "g2") is None  # so a reaper admits its job again


async def test_a_session_without_events_is_forgotten_after_a_minute(session_log: SessionLog, clock: Clock) -> None:
    first = await session_log.open("s")
    clock.advance(s=59)
    assert await session_log.open("s", create=False) == first
    assert await session_log.open("s") == first  # a viewer is still there: another minute
    clock.advance(s=59)
    assert await session_log.open("s", create=False) == first
    clock.advance(s=2)
    assert await session_log.open("s", create=False) is None


async def test_looking_without_making_does_not_prolong_an_empty_session(session_log: SessionLog, clock: Clock) -> None:
    await session_log.open("s")
    clock.advance(s=40)
    await session_log.open("s", create=False)
    await session_log.range("s", 1)
    clock.advance(s=21)
    assert await session_log.open("s", create=False) is None


async def test_opening_a_session_with_events_does_not_shorten_its_life(session_log: SessionLog, redis: Redis) -> None:
    await session_log.admit(job_of())
    before = await redis.pttl("t:s:{s}:meta")
    await session_log.open("s")
    assert await redis.pttl("t:s:{s}:meta") == before


# Range


async def test_a_range_is_read_in_pages_bounded_by_bytes(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    for number in range(30):
        await writer.tokens(f"{number:03}" * 20)
    everything = await session_log.range("s", 1)
    assert everything is not None
    body_bytes = max(len(body) for _, body in everything.entries)

    collected, pages, following = [], 0, 1
    while following <= everything.head:
        page = await session_log.range("s", following, page_bytes=4 * body_bytes)
        assert page is not None
        assert page.entries
        assert sum(len(body) for _, body in page.entries) <= 4 * body_bytes
        collected += page.entries
        pages += 1
        following = page.entries[-1][0] + 1
    assert collected == everything.entries
    assert [seq for seq, _ in collected] == list(range(1, 33))
    assert pages <= 30 / 3 + 1


async def test_a_page_holds_one_entry_at_least_and_of_no_bytes_none(session_log: SessionLog) -> None:
    await session_log.admit(job_of())
    one = await session_log.range("s", 1, page_bytes=1)
    assert one is not None
    assert [seq for seq, _ in one.entries] == [1]
    none = await session_log.range("s", 1, page_bytes=0)
    assert none is not None
    assert (none.head, none.entries) == (2, [])


async def test_a_page_may_be_longer_than_one_read_of_the_stream(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    for _ in range(450):
        await writer.tokens("x")
    page = await session_log.range("s", 1)
    assert page is not None
    assert [seq for seq, _ in page.entries] == list(range(1, 453))


async def test_a_range_has_an_end_and_may_be_empty(session_log: SessionLog) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("x")

    async def seqs(first: int, last: int | None) -> list[int]:
        page = await session_log.range("s", first, last)
        assert page is not None
        return [seq for seq, _ in page.entries]

    assert await seqs(2, 2) == [2]
    assert await seqs(1, 2) == [1, 2]
    assert await seqs(2, 99) == [2, 3]
    assert await seqs(4, None) == []


async def test_a_range_over_forgotten_entries_has_holes_and_tells_the_floor(redis: Redis) -> None:
    session_log = session_log_on(redis, max_generations=2)
    writer = await admitted_and_claimed(session_log, "g1")
    await answered(session_log, job_of("g2"), "two")
    await writer.tokens("x")
    await session_log.admit(job_of("g3"))
    page = await session_log.range("s", 1)
    assert page is not None
    assert [seq for seq, _ in page.entries] == [1, 2, 7, 8, 9]
    assert (page.floor, page.head) == (6, 9)


# Expiry


async def test_every_key_of_a_session_expires_at_one_moment(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    async def moments() -> set[int]:
        ttls = [await redis.pttl(key) for key in await redis.keys()]
        assert len(ttls) >= 5
        assert min(ttls) >= SESSION_TTL_S * 1000
        return {ttl + clock.now_ms for ttl in ttls}

    await session_log.open("s")
    await session_log.admit(job_of("g1"))
    assert len(await moments()) == 1
    writer = await claimed(session_log, job_of("g1"))
    await writer.reasoning("hm")
    await writer.tokens("a")
    assert len(await moments()) == 1
    for name in ("g2", "g3", "g4"):
        clock.advance(s=SESSION_TTL_S / 15)  # in the middle of a step of the moment, and past one
        await answered(session_log, job_of(name), name)
        assert len(await moments()) == 1
        await writer.restart()
        await writer.tokens("b")
        await writer.reasoning("b")
        assert len(await moments()) == 1
    await session_log.stop("s", "g1")
    assert len(await moments()) == 1


async def test_the_moment_moves_in_steps_so_that_few_events_pay_for_it(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    writer = await admitted_and_claimed(session_log)
    moments = []
    for _ in range(21):
        await writer.tokens("x")
        moments.append(await redis.pttl("t:s:{s}:log") + clock.now_ms)
        clock.advance(s=SESSION_TTL_S / 100)
    assert moments == sorted(moments)
    assert len(set(moments)) == 2


async def test_a_session_goes_as_a_whole_some_time_after_its_last_event(
    session_log: SessionLog, redis: Redis, clock: Clock
) -> None:
    await answered(session_log, job_of(), "Hi")
    clock.advance(s=SESSION_TTL_S)
    assert await session_log.open("s", create=False) is not None
    clock.advance(s=SESSION_TTL_S / 10 + 1)
    assert await session_log.open("s", create=False) is None
    assert await redis.keys() == []


async def test_every_event_prolongs_the_session(session_log: SessionLog, clock: Clock) -> None:
    writer = await admitted_and_claimed(session_log)
    for _ in range(5):
        clock.advance(s=SESSION_TTL_S - 1)
        assert (await writer.tokens("x")).what == "written"
    assert (await snapshot(session_log))["text"] == "xxxxx"


# Publish


async def test_every_event_is_published_with_epoch_and_seq_after_it_was_written(
    session_log: SessionLog, redis: Redis
) -> None:
    opened = await session_log.open("s")
    assert opened is not None
    async with redis.pubsub() as heard:
        await heard.subscribe("t:s:{s}:events")
        writer = await admitted_and_claimed(session_log, "g1")
        await writer.status("thinking")
        await writer.tokens("Hi there")
        await writer.restart()
        await writer.tokens("Hello")
        await writer.end("complete", "a1", finish="stop")
        await session_log.admit(job_of("g2"))
        await session_log.stop("s", "g2")
        await session_log.admit(job_of("g3"))
        await session_log.reap("s", "g3", "0", b'{"error":{}}')
        published = [
            message["data"]
            for message in [await heard.get_message(timeout=1) for _ in range(1 + 13)]
            if message["type"] == "message"
        ]
        assert await heard.get_message(timeout=0) is None
    page = await session_log.range("s", 1)
    assert page is not None
    assert published == [b"%s %d %s" % (opened.epoch.encode(), seq, body) for seq, body in page.entries]


async def test_what_is_refused_or_repeated_is_not_published(session_log: SessionLog, redis: Redis) -> None:
    writer = await admitted_and_claimed(session_log)
    await writer.tokens("a")
    async with redis.pubsub(ignore_subscribe_messages=True) as heard:
        await heard.subscribe("t:s:{s}:events")
        await heard.get_message(timeout=1)  # the acknowledgement
        await session_log.admit(job_of())
        writer.n, writer.written["tokens"] = 0, []
        await writer.tokens("a")
        writer.n = 7
        await writer.tokens("b")
        writer.fence = 9
        await writer.tokens("c")
        await writer.end()
        await session_log.release("s", "g1", 1)
        await session_log.open("s")
        assert await heard.get_message(timeout=0) is None


async def test_an_event_is_in_the_log_before_it_is_published(session_log: SessionLog, redis: Redis) -> None:
    """The order inside the script: a publish that fails leaves the event written, its repeat finds it there."""
    writer = await admitted_and_claimed(session_log)
    broken = SessionLog(
        redis,
        redis,
        session_log.keys,
        session_ttl_s=SESSION_TTL_S,
        max_generations=10,
        max_requests=10,
        publish_verb="NO-SUCH-VERB",
    )
    writer.log = broken
    with pytest.raises(StorageError, match="append"):
        await writer.tokens("Hi")
    assert (await snapshot(session_log))["text"] == "Hi"
    assert (await whole_log(session_log))[-1]["text"] == "Hi"
    assert await redis.pttl("t:s:{s}:t:g1") == await redis.pttl("t:s:{s}:meta") > 0
    writer.log, writer.n, writer.written["tokens"] = session_log, 0, []
    assert (await writer.tokens("Hi")).what == "repeated"


# Reading


async def test_the_newest_generations_stand_in_the_order_of_their_submit(session_log: SessionLog) -> None:
    for name in ("g3", "g1", "g2"):
        await session_log.admit(job_of(name))
    assert await generations(session_log, 2) == ["g1", "g2"]
    assert await generations(session_log, 9) == ["g3", "g1", "g2"]
    assert await transcript(session_log) == []


async def test_a_generation_that_does_not_exist_is_left_out(redis: Redis, session_log: SessionLog) -> None:
    for name in ("g1", "g2"):
        await session_log.admit(job_of(name))
    await redis.delete("t:s:{s}:g:g2")  # Redis has lost it, and its place is kept
    found = await session_log.snapshots.session("s", 50)
    assert found is not None
    assert [known["generation"] for known in found["generations"]] == ["g1"]
    assert [await session_log.snapshots.generation("s", name) for name in ("g0", "g2")] == [None, None]
    assert await session_log.snapshots.turns("s", ["g0"]) == []
    assert await session_log.user_turn("s", "g0") is None


async def test_text_in_every_script_survives_its_way_through_redis(session_log: SessionLog) -> None:
    text = "a\x00\x01\"\\\n\u2028日本é😀{}[]%s' -- ]]"
    writer = await admitted_and_claimed(session_log, content=text, metadata={text: text})
    await writer.tokens(text)
    await writer.reasoning(text)
    await writer.end("complete", "a1", model=text)
    found = await snapshot(session_log)
    assert (found["text"], found["reasoning"], found["model"]) == (text, text, text)
    assert (found["message"]["content"], found["metadata"]) == (text, {text: text})
    assert (await whole_log(session_log))[0]["content"] == text
    assert found["crc32"] == zlib.crc32(text.encode())


async def test_seqs_and_times_stay_whole_numbers_however_large(session_log: SessionLog, redis: Redis) -> None:
    await session_log.open("s")
    await redis.hset("t:s:{s}:meta", "seq", str(2**53 - 10))
    writer = await admitted_and_claimed(session_log)
    assert (await writer.tokens("x")).seq == 2**53 - 7
    assert (await writer.tokens("y")).seq == 2**53 - 6
    page = await session_log.range("s", 2**53 - 8)
    assert page is not None
    assert [seq for seq, _ in page.entries] == [2**53 - 8, 2**53 - 7, 2**53 - 6]
    ended = await writer.end()
    body = (await session_log.range("s", ended.seq)) or page
    assert msgspec.json.decode(body.entries[0][1])["timings_ms"]["total"] == 0
    assert events.read_header(body.entries[0][1]).type == "end"
