"""Batching: every token leaves exactly once, in order, at once when it is the first, and in time otherwise."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.protocol import events
from relay.protocol.words import MAX_BATCH_BYTES, MAX_SEQ, MAX_TOKEN_BYTES
from relay_workers.writing.batching import Batch, Batcher, Kind, Totals

SIZE, LINGER_MS = 4, 50.0


def batcher(*texts: str, kind: Kind = "tokens", at_ms: float = 0) -> Batcher:
    made = Batcher(SIZE, LINGER_MS)
    for text in texts:
        made.add(kind, text, at_ms)
    return made


def taken(made: Batcher, now_ms: float) -> list[str] | None:
    batch = made.take(now_ms)
    return batch.texts if batch is not None else None


def past_the_first(*texts: str, at_ms: float = 0) -> Batcher:
    """One whose first token has left."""
    made = batcher("first")
    assert taken(made, 0) == ["first"]
    for text in texts:
        made.add("tokens", text, at_ms)
    return made


def encoded(batch: Batch) -> bytes:
    """The batch's event with the longest names and numbers there can be."""
    event = events.Tokens if batch.kind == "tokens" else events.Reasoning
    return events.encode(event("g" * 64, MAX_SEQ, batch.index, len(batch.texts), batch.text))


# When a batch leaves


def test_nothing_is_never_due() -> None:
    made = batcher()
    assert made.due_ms() is None
    assert made.take(1e9) is None
    made.close()
    assert made.due_ms() is None
    assert made.take(1e9) is None


def test_the_first_token_leaves_at_once() -> None:
    made = batcher("a", at_ms=7)
    assert made.due_ms() == 7
    assert taken(made, 7) == ["a"]


def test_the_first_batch_takes_along_what_came_with_the_first_token() -> None:
    assert taken(batcher("a", "b"), 0) == ["a", "b"]


def test_a_later_token_waits_until_it_has_lingered() -> None:
    made = past_the_first("a", at_ms=10)
    assert made.due_ms() == 60
    assert made.take(59.9) is None
    assert taken(made, 60) == ["a"]


def test_the_oldest_token_decides_when_a_batch_has_lingered() -> None:
    made = past_the_first("a", at_ms=10)
    made.add("tokens", "b", 55)
    assert made.due_ms() == 60
    assert taken(made, 60) == ["a", "b"]


def test_a_full_batch_leaves_at_once() -> None:
    made = past_the_first("a", "b", "c", at_ms=10)
    assert made.take(10) is None
    made.add("tokens", "d", 11)
    assert taken(made, 11) == ["a", "b", "c", "d"]


def test_a_batch_that_is_not_late_takes_no_more_than_its_size() -> None:
    made = past_the_first("a", "b", "c", "d", "e", at_ms=10)
    assert taken(made, 11) == ["a", "b", "c", "d"]
    assert made.take(11) is None
    assert made.due_ms() == 60


def test_a_late_batch_takes_everything() -> None:
    made = past_the_first(*"abcdefghij", at_ms=10)
    assert taken(made, 60) == list("abcdefghij")


def test_without_linger_every_batch_takes_everything_at_once() -> None:
    made = Batcher(2, 0)
    for text in "abcde":
        made.add("tokens", text, 10)
    assert taken(made, 10) == list("abcde")


def test_the_rest_leaves_when_no_more_will_come() -> None:
    made = past_the_first("a", "b", "c", "d", "e", at_ms=10)
    made.close()
    assert taken(made, 10) == ["a", "b", "c", "d"]
    assert taken(made, 10) == ["e"]
    assert made.pending == 0


# What is in a batch


def test_reasoning_and_tokens_never_share_a_batch_and_count_by_themselves() -> None:
    made = batcher("r0", "r1", kind="reasoning")
    made.add("tokens", "t0", 0)
    made.add("reasoning", "r2", 0)
    made.add("tokens", "t1", 0)
    made.close()
    batches = []
    while (batch := made.take(0)) is not None:
        batches.append((batch.kind, batch.index, batch.texts))
    assert batches == [
        ("reasoning", 0, ["r0", "r1"]),
        ("tokens", 0, ["t0"]),
        ("reasoning", 2, ["r2"]),
        ("tokens", 1, ["t1"]),
    ]


def test_the_first_token_of_each_kind_leaves_at_once() -> None:
    made = batcher("hm", kind="reasoning")
    assert taken(made, 0) == ["hm"]
    made.add("reasoning", "!", 1)
    assert made.take(1) is None
    assert taken(made, 51) == ["!"]
    made.add("tokens", "a", 52)
    assert made.due_ms() == 52
    assert taken(made, 52) == ["a"]


def test_bytes_and_checksum_are_those_of_the_text_so_far_and_reasoning_is_in_neither() -> None:
    made = Batcher(1, 0)
    so_far = b""
    for kind, text in [("tokens", "Hé"), ("reasoning", "hm"), ("tokens", "日本"), ("tokens", "😀")]:
        made.add("tokens" if kind == "tokens" else "reasoning", text, 0)
        batch = made.take(0)
        assert batch is not None
        if kind == "tokens":
            so_far += text.encode()
        assert batch.after == (len(so_far), zlib.crc32(so_far))


def test_the_checksum_of_a_known_text_is_this_number() -> None:
    made = batcher("Hello", ", ", "world")
    batch = made.take(0)
    assert batch is not None
    assert batch.after == (12, 3885672898)


# Quotes and backslashes are ASCII and printable, but take two bytes each in JSON.
@pytest.mark.parametrize("letter", ["a", '"', "\\", "\n", "\x00", "é", "日", "😀"])
def test_a_late_batch_of_many_large_tokens_is_cut_at_the_cap(letter: str) -> None:
    token = letter * (MAX_TOKEN_BYTES // len(letter.encode()))
    made = past_the_first(*[token] * 50, at_ms=10)
    batches = []
    while (batch := made.take(1000)) is not None:
        batches.append(batch)
    assert all(len(encoded(batch)) <= MAX_BATCH_BYTES for batch in batches)
    assert "".join(batch.text for batch in batches) == token * 50
    # … and not without need: what remained of each would not have held one token more.
    for batch in batches[:-1]:
        assert len(encoded(batch)) + len(events.encode(token)) > MAX_BATCH_BYTES - 1024


# How a batch is divided


def test_a_split_batch_is_two_that_follow_on_from_each_other() -> None:
    made = Batcher(4, 0, attempt=3)
    for text in ("first", "Hé", "日", "😀"):
        made.add("tokens", text, 0)
    batch = made.take(0)
    assert batch is not None
    head, rest = batch.split(1)
    assert (head.attempt, head.index, head.texts) == (3, 0, ["first"])
    assert (rest.attempt, rest.index, rest.texts) == (3, 1, ["Hé", "日", "😀"])
    assert (head.before, head.after) == (Totals(), Totals(5, zlib.crc32(b"first")))
    assert (rest.before, rest.after) == (head.after, batch.after)
    assert (head.own_bytes, rest.own_bytes) == (5, 10)


@pytest.mark.parametrize("count", [-1, 0, 2, 3])
def test_no_part_of_a_split_batch_is_empty(count: int) -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        Batch("tokens", 1, 0, ["a", "b"], Totals(), Totals(2, zlib.crc32(b"ab"))).split(count)


@given(
    st.sampled_from(["tokens", "reasoning"]),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=2, max_size=12),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_however_often_a_batch_is_divided_the_parts_are_the_batch(
    kind: Kind, texts: list[str], data: st.DataObject
) -> None:
    before = Totals().extended("tokens", "what was before")
    batch = Batch(kind, 1, 7, texts, before, before.extended(kind, "".join(texts)))
    parts = [batch]
    while divisible := [place for place, part in enumerate(parts) if len(part.texts) > 1]:
        place = data.draw(st.sampled_from(divisible))
        parts[place : place + 1] = parts[place].split(data.draw(st.integers(1, len(parts[place].texts) - 1)))
        assert [text for part in parts for text in part.texts] == texts
        assert [part.index for part in parts] == [7 + sum(len(p.texts) for p in parts[:n]) for n in range(len(parts))]
        assert [part.before for part in parts] == [batch.before, *(part.after for part in parts[:-1])]
        assert parts[-1].after == batch.after
    assert parts == list(batch.singles())


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
KINDS: st.SearchStrategy[Kind] = st.sampled_from(["tokens", "tokens", "tokens", "reasoning"])
ADD = st.tuples(st.just("add"), KINDS, TEXTS, st.just(1), st.just(1))
# Large tokens, several at once: a letter, how often it stands in each, and how many of them.
FLOOD = st.tuples(
    st.just("add"),
    KINDS,
    st.sampled_from(["a", '"', "\n", "\x00", "é", "😀"]),
    st.sampled_from([MAX_TOKEN_BYTES // 4, 2000, 100]),
    st.integers(2, 40),
)
WAIT = st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, 20.0, 49.9, 50.0, 500.0]))
TAKE = st.tuples(st.just("take"))


@given(st.integers(1, 6), st.sampled_from([0.0, 50.0]), st.lists(st.one_of(ADD, ADD, FLOOD, WAIT, TAKE), max_size=40))
@settings(max_examples=150, deadline=None)
def test_whatever_arrives_and_whenever_it_is_taken_the_rules_hold(
    size: int, linger_ms: float, steps: list[tuple[Any, ...]]
) -> None:
    made = Batcher(size, linger_ms)
    now_ms = 1000.0
    waiting: list[tuple[Kind, str, float]] = []
    taken_of: dict[Kind, list[str]] = {"tokens": [], "reasoning": []}

    def take() -> bool:
        """Take once, and compare with what the rules say of `waiting`."""
        due_ms = made.due_ms()
        batch = made.take(now_ms)
        if due_ms is None or due_ms > now_ms:
            assert batch is None
            if waiting:  # neither first, nor full, nor lingered
                assert taken_of[waiting[0][0]]
                assert len(waiting) < size
                assert now_ms - waiting[0][2] < linger_ms
            return False
        assert batch is not None
        kind, _, at_ms = waiting[0]
        count = len(batch.texts)
        assert [(kind, text) for text in batch.texts] == [(of, text) for of, text, _ in waiting[:count]]
        assert count >= 1
        assert batch.kind == kind
        assert batch.index == len(taken_of[kind])
        if now_ms - at_ms < linger_ms:
            assert count <= size
        elif len(waiting) > count and waiting[count][0] == kind:  # late, and yet not all: no room for one more
            assert len(encoded(batch)) + len(events.encode(waiting[count][1])) > MAX_BATCH_BYTES - 512 - 2 * count
        crc = zlib.crc32("".join(taken_of["tokens"]).encode())
        taken_of[kind] += batch.texts
        del waiting[:count]
        so_far = "".join(taken_of["tokens"]).encode()
        assert batch.after == (len(so_far), zlib.crc32(so_far))
        assert len(encoded(batch)) <= MAX_BATCH_BYTES
        assert (
            batch.before == Totals(batch.after.text_bytes - batch.own_bytes, crc) if kind == "tokens" else batch.after
        )
        assert (made.pending, made.pending_bytes) == (len(waiting), sum(len(text.encode()) for _, text, _ in waiting))
        return True

    for step in steps:
        match step:
            case ("add", kind, letters, length, times):
                text = letters * length
                for _ in range(times):
                    made.add(kind, text, now_ms)
                    waiting.append((kind, text, now_ms))
            case ("wait", ms):
                now_ms += ms
            case _:
                take()
    made.close()
    while waiting:
        assert take()
    assert made.take(now_ms + 1e6) is None
