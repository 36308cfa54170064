"""The checker bites: each of its counts is found in a record that has just this wrong, and in no clean one."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from relay.protocol.view import FrameDict
from tests.scenarios.checker import COUNTS, judge

TEXT = "Hello there, 🙂 world"
PIECES = [(0, 1, "Hello"), (1, 2, " there,"), (3, 2, " 🙂 world")]


def subscribed(at: int = 0, *, recovered: bool = False, epoch: str = "e", active: Any = ()) -> FrameDict:
    return {"type": "subscribed", "session": "s", "epoch": epoch, "at": at, "recovered": recovered, "active": active}


def tokens(seq: int, index: int, count: int, text: str, attempt: int = 1) -> FrameDict:
    event = {"type": "tokens", "session": "s", "seq": seq, "generation": "g", "attempt": attempt}
    return {**event, "index": index, "count": count, "text": text}


def thought(seq: int, index: int, count: int) -> FrameDict:
    return {**tokens(seq, index, count, "hm " * count), "type": "reasoning"}


def end(seq: int, text: str = TEXT, count: int = 5, **fields: Any) -> FrameDict:
    proof = {"count": count, "text_bytes": len(text.encode()), "crc32": zlib.crc32(text.encode())}
    event = {"type": "end", "session": "s", "seq": seq, "generation": "g", "attempt": 1, "reason": "complete"}
    return {**event, **proof, **fields}


def status(seq: int, attempt: int = 1, kind: str = "status", generation: str = "g") -> FrameDict:
    return {"type": kind, "session": "s", "seq": seq, "generation": generation, "attempt": attempt}


def whole(first: int = 1) -> list[FrameDict]:
    """A clean answer: a status, three batches and the end, as seqs `first` … `first + 4`."""
    batches = [tokens(first + 1 + at, *piece) for at, piece in enumerate(PIECES)]
    return [status(first), *batches, end(first + 4)]


def catchup(first: int, last: int, *events: FrameDict) -> FrameDict:
    bare = [{name: value for name, value in event.items() if name not in ("session", "seq")} for event in events]
    return {"type": "catchup", "session": "s", "from": first, "seq": last, "events": bare}


def later(by: int, *frames: FrameDict) -> list[FrameDict]:
    return [{**frame, "seq": frame["seq"] + by} for frame in frames]


LIVE = [subscribed(), *whole()]
S, A, B, C, E = LIVE[1:]

CLEAN = {
    "live": LIVE,
    "in a catchup": [subscribed(), catchup(1, 5, S, tokens(2, 0, 5, TEXT), E)],
    "over a reconnect": [
        subscribed(), S, A, subscribed(2, recovered=True), catchup(3, 5, tokens(3, 1, 4, TEXT[5:]), E)
    ],
    "rebuilt in a new life": [subscribed(), S, A, B, subscribed(epoch="f"), *whole()],
    "among others": [subscribed(), S, A, status(3, generation="h"), *later(1, B, C, E)],
    "after a restart": [
        subscribed(), S, tokens(2, 0, 1, "Hel"), status(3, 2, "restart"), tokens(4, 0, 5, TEXT, 2), end(5, attempt=2)
    ],
    "with reasoning": [subscribed(), S, thought(2, 0, 2), thought(3, 2, 1), *later(2, A, B, C, E)],
    "joined live": [subscribed(2, active=[{"generation": "g", "attempt": 1}]), B, C, E],
}  # fmt: skip

WRONG: dict[str, tuple[list[FrameDict], dict[str, int]]] = {
    "tokens in the middle were lost": (
        [subscribed(), S, A, {**C, "seq": 3}, {**E, "seq": 4}], {"lost": 2, "text": 1}
    ),
    "the last tokens were lost": ([subscribed(), S, A, B, {**E, "seq": 4}], {"lost": 2, "text": 1}),
    "tokens of a voided attempt were lost": (
        [subscribed(), tokens(1, 1, 1, "lo"), status(2, 2, "restart"), tokens(3, 0, 5, TEXT, 2), end(4, attempt=2)],
        {"lost": 1, "mixed": 1},
    ),
    "tokens came twice under two seqs": (
        [subscribed(), S, A, tokens(3, 0, 1, "Hello"), *later(1, B, C, E)],
        {"doubled": 1, "text": 1},
    ),
    "reasoning in the middle was lost": (
        [subscribed(), S, thought(2, 0, 1), thought(3, 2, 1), *later(2, A, B, C, E)], {"lost": 1}
    ),
    "reasoning came twice": (
        [subscribed(), S, thought(2, 0, 2), thought(3, 1, 1), *later(2, A, B, C, E)], {"doubled": 1}
    ),
    "a frame came twice": ([subscribed(), S, A, B, B, C, E], {"doubled": 2, "repeated": 1, "text": 1}),
    "frames changed places": ([subscribed(), S, B, A, C, E], {"reordered": 1, "gaps": 1, "repeated": 1, "text": 1}),
    "tokens changed places": (
        [subscribed(), S, {**B, "seq": 2}, {**A, "seq": 3}, C, E], {"reordered": 1, "text": 1}
    ),
    "an attempt went on after the next one had begun": (
        [subscribed(), tokens(1, 0, 1, "Hel"), status(2, 2, "restart"), tokens(3, 1, 1, "lo"),
         tokens(4, 0, 5, TEXT, 2), end(5, attempt=2)], {"mixed": 1},
    ),
    "an attempt began without a restart": (
        [subscribed(), tokens(1, 0, 1, "Hel"), tokens(2, 0, 5, TEXT, 2), end(3, attempt=2)], {"mixed": 1}
    ),
    "a voided attempt said what no call did": (
        [subscribed(), tokens(1, 0, 1, "???"), status(2, 2, "restart"), tokens(3, 0, 5, TEXT, 2), end(4, attempt=2)],
        {"mixed": 1},
    ),
    "one byte is another": ([subscribed(), S, {**A, "text": "Hallo"}, B, C, E], {"text": 1}),
    "no end came": (LIVE[:-1], {"missing_end": 1}),
    "two ends came": ([*LIVE, end(6)], {"second_end": 1}),
    "something came after the end": ([*LIVE, status(6)], {"after_end": 1}),
    "tokens came after the end": ([*LIVE, tokens(6, 5, 1, "!")], {"after_end": 1, "text": 1, "proof": 1}),
    "seqs were left out": ([subscribed(), S, *later(3, A, B, C, E)], {"gaps": 3}),
    "a catchup began too late": ([subscribed(), catchup(2, 5, tokens(2, 0, 5, TEXT), E)], {"gaps": 1}),
    "a catchup began too early": (
        [subscribed(), S, A, catchup(2, 5, tokens(3, 1, 4, TEXT[5:]), E)], {"repeated": 1}
    ),
    "a reconnect went on behind the cursor": (
        [subscribed(), S, A, subscribed(1, recovered=True), A, B, C, E], {"cursor": 1, "doubled": 1, "text": 1}
    ),
    "a reconnect went on ahead of the cursor": (
        [subscribed(), S, A, subscribed(3, recovered=True), C, E], {"cursor": 1, "lost": 2, "text": 1}
    ),
    "a reconnect went on in another life": (
        [subscribed(), S, A, subscribed(2, recovered=True, epoch="f"), B, C, E], {"cursor": 1}
    ),
    "the checksum is another": ([*LIVE[:-1], end(5, crc32=1)], {"proof": 1}),
    "the length is another": ([*LIVE[:-1], end(5, text_bytes=1)], {"proof": 1}),
    "the count is less than what came": ([*LIVE[:-1], end(5, count=4)], {"proof": 1}),
    "the end has another reason": ([*LIVE[:-1], end(5, reason="failed")], {"reason": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_record_counts_nothing(name: str) -> None:
    said = "".join(text for _, _, text in PIECES[1:]) if name == "joined live" else TEXT
    verdict = judge(CLEAN[name], "g", TEXT, voided=["Hello"])
    assert verdict.assert_clean()["type"] == "end"
    assert verdict.shown == said


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_counted_by_its_name(name: str) -> None:
    record, counts = WRONG[name]
    verdict = judge(record, "g", TEXT, voided=["Hello"])
    assert dict(verdict.counts) == counts
    with pytest.raises(AssertionError) as told:
        verdict.assert_clean()
    for what in counts:
        assert COUNTS[what] in str(told.value)


def test_every_count_is_tried() -> None:
    assert {what for _, counts in WRONG.values() for what in counts} == set(COUNTS)


def test_holes_are_allowed_to_whoever_follows_one_generation_only() -> None:
    record = [subscribed(), S, *later(3, A, B, C, E)]
    judge(record, "g", TEXT, holes=True).assert_clean()
    assert judge([*record, A], "g", TEXT, holes=True).counts["repeated"] == 1
