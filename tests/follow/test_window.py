"""The window: the newest entries, without a gap, as many as fit."""

from __future__ import annotations

import pytest

from relay.follow.broadcast import Broadcast
from relay.follow.window import WINDOW_EVENTS, OutOfOrder, Window


def window_of(seqs: range, max_bytes: int = 10_000) -> Window:
    window = Window(max_bytes)
    for seq in seqs:
        window.add(seq, b"%05d" % seq)
    return window


def test_an_empty_one_holds_nothing() -> None:
    window = Window(100)
    assert not window.holds(0)
    assert not window.holds(7)


def test_it_gives_what_follows_a_cursor_up_to_a_seq() -> None:
    window = window_of(range(5, 10))
    assert [seq for seq, _ in window.between(4, 9)] == [5, 6, 7, 8, 9]
    assert [seq for seq, _ in window.between(6, 8)] == [7, 8]
    assert window.between(9, 9) == []
    assert window.between(7, 7) == []
    assert window.between(8, 9) == [(9, b"00009")]


def test_it_holds_what_follows_a_cursor_only_from_its_oldest_entry_on() -> None:
    window = window_of(range(5, 10))
    assert [after for after in range(12) if window.holds(after)] == [4, 5, 6, 7, 8, 9, 10, 11]


def test_bytes_and_entries_bound_it() -> None:
    window = window_of(range(1, 21), max_bytes=50)
    assert [seq for seq, _ in window.between(10, 20)] == list(range(11, 21))
    assert not window.holds(9)
    window = window_of(range(1, WINDOW_EVENTS + 3))
    assert window.holds(2)
    assert not window.holds(1)


def test_an_entry_larger_than_the_whole_window_leaves_it_empty() -> None:
    window = window_of(range(1, 4), max_bytes=20)
    window.add(4, b"x" * 21)
    assert not window.holds(3)


def test_a_cleared_one_begins_anew_anywhere() -> None:
    window = window_of(range(1, 4))
    window.clear()
    assert not window.holds(2)
    window.add(9, b"x")
    assert window.between(8, 9) == [(9, b"x")]


def test_what_does_not_follow_on_is_refused() -> None:
    window = Window(1000)
    window.add(5, b"five")
    for seq in (4, 5, 7):
        with pytest.raises(OutOfOrder):
            window.add(seq, b"no")
    window.add(6, b"six")
    assert window.between(4, 6) == [(5, b"five"), (6, b"six")]


async def test_nor_are_viewers_handed_it() -> None:
    audience = Broadcast()
    audience.reset(4)
    audience.add(5, b"five")
    for seq in (4, 5, 7):
        with pytest.raises(OutOfOrder):
            audience.add(seq, b"no")
    audience.add(6, b"six")
    audience.flush()
    assert audience.flushed == 6
