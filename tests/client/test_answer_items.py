"""What a reader is given: each part of a text once, and a Restart before it begins again."""

from __future__ import annotations

from typing import Any

import msgspec

from relay.client.answer_items import Data, End, Item, Reader, Restart, Status, Text
from relay.protocol.view import Generation, SessionView
from tests.protocol.logs import Story

SUBSCRIBED = {"type": "subscribed", "session": "s", "epoch": "e1", "at": 0, "head": 0, "recovered": False, "active": []}


class Shown:
    """A view that events are put into, and one reader of its generation g1."""

    def __init__(self) -> None:
        self.view = SessionView("s")
        self.reader = Reader()
        self.rebuild()

    def rebuild(self) -> None:
        self.view.forget()
        command = self.view.subscribe()
        self.view.apply({**SUBSCRIBED, "id": command["id"]})

    def put(self, *bodies: bytes) -> None:
        for body in bodies:
            event: dict[str, Any] = msgspec.json.decode(body)
            assert self.view.apply({**event, "session": "s", "seq": self.view.last + 1}) == "applied"

    @property
    def shown(self) -> Generation | None:
        return self.view.generations.get("g1")

    def news(self, hindrance: str = "") -> list[Item]:
        return self.reader.news(self.shown, hindrance)


def test_text_is_given_once_and_joined_for_a_reader_that_comes_late() -> None:
    story, shown = Story("g1"), Shown()
    assert shown.news() == [Status("queued")]
    shown.put(story.tokens(["Hé"]))
    assert shown.news() == [Status("streaming"), Text("Hé")]
    assert shown.news() == []
    shown.put(story.tokens(["l", "l"]), story.tokens(["o 😀"]))
    assert shown.news() == [Text("llo 😀")]
    shown.put(story.end())
    (end,) = shown.news()
    assert isinstance(end, End)
    assert end.reason == "complete"
    assert shown.reader.ended
    assert shown.news() == []


def test_of_several_states_only_the_last_is_told_and_hindrances_come_first() -> None:
    story, shown = Story("g1"), Shown()
    shown.put(story.status("queued"), story.status("preparing"), story.status("thinking"))
    assert shown.news() == [Status("thinking")]
    assert shown.news("reconnecting") == [Status("reconnecting")]
    assert shown.news("reconnecting") == []
    assert shown.news() == [Status("thinking")]


def test_a_status_with_another_detail_is_another() -> None:
    story, shown = Story("g1"), Shown()
    shown.put(story.status("queued"))
    assert shown.news() == [Status("queued")]
    shown.put(story.status("queued", "no_worker"))
    assert shown.news() == [Status("queued", "no_worker")]
    assert shown.news() == []
    assert shown.news("reconnecting") == [Status("reconnecting")]
    assert shown.news() == [Status("queued", "no_worker")]
    shown.put(story.status("preparing"))
    assert shown.news() == [Status("preparing")]


def test_a_new_attempt_is_a_restart_and_then_its_text() -> None:
    story, shown = Story("g1"), Shown()
    shown.put(story.tokens(["old"]), story.data(1))
    shown.news()
    shown.put(story.restart(), story.tokens(["old, but new"]), story.data(2))
    assert shown.news() == [Restart(), Text("old, but new"), Data("note", 2, 1)]


def test_a_reader_that_never_saw_the_void_attempt_needs_no_restart() -> None:
    story, shown = Story("g1"), Shown()
    shown.put(story.tokens(["old"]), story.restart(), story.tokens(["new"]))
    assert shown.news() == [Status("streaming"), Text("new")]


def test_a_rebuilt_text_that_begins_as_what_was_given_goes_on_where_that_ended() -> None:
    shown = Shown()
    shown.put(Story("g1").tokens(["Hel", "lo"]))
    assert shown.news()[-1] == Text("Hello")
    shown.rebuild()
    assert shown.news() == []
    story = Story("g1")
    shown.put(story.tokens(["He"]))
    assert shown.news() == []
    shown.put(story.tokens(["ll"]))
    assert shown.news() == []
    shown.put(story.tokens(["o wor"]))
    assert shown.news() == [Text(" wor")]
    shown.put(story.tokens(["ld"]))
    assert shown.news() == [Text("ld")]


def test_two_rebuilds_in_a_row_do_not_double_text_either() -> None:
    shown = Shown()
    shown.put(Story("g1").tokens(["Hello"]))
    shown.news()
    shown.rebuild()
    shown.put(Story("g1").tokens(["Hel"]))
    assert shown.news() == []
    shown.rebuild()
    shown.put(Story("g1").tokens(["He"]))
    assert shown.news() == []
    shown.rebuild()
    shown.put(Story("g1").tokens(["Hello!"]))
    assert shown.news() == [Text("!")]


def test_a_rebuilt_text_that_is_another_one_is_a_restart() -> None:
    shown = Shown()
    shown.put(Story("g1").tokens(["Hello"]))
    shown.news()
    shown.rebuild()
    story = Story("g1")
    shown.put(story.tokens(["He"]))
    assert shown.news() == []
    shown.put(story.tokens(["y"]))
    assert shown.news() == [Restart(), Text("Hey")]


def test_a_rebuilt_text_that_ends_before_what_was_given_is_a_restart() -> None:
    shown = Shown()
    shown.put(Story("g1").tokens(["Hello"]))
    shown.news()
    shown.rebuild()
    story = Story("g1")
    shown.put(story.tokens(["Hel"]), story.end())
    restart, text, end = shown.news()
    assert (restart, text) == (Restart(), Text("Hel"))
    assert isinstance(end, End)


def test_a_rebuilt_text_of_another_attempt_is_a_restart() -> None:
    shown = Shown()
    shown.put(Story("g1").tokens(["Hello"]))
    shown.news()
    shown.rebuild()
    story = Story("g1")
    shown.put(story.restart(), story.tokens(["Hello"]))
    assert shown.news() == [Restart(), Text("Hello")]


def test_text_and_data_are_given_in_one_order_however_late_the_reader_looks() -> None:
    story, shown = Story("g1"), Shown()
    shown.put(
        story.data("a"), story.tokens(["He"]), story.tokens(["l"]), story.data("b"), story.data("c"),
        story.reasoning(["hm"]), story.tokens(["lo"]),
    )  # fmt: skip
    assert shown.news()[1:] == [
        Data("note", "a", 0), Text("Hel"), Data("note", "b", 2), Data("note", "c", 2), Text("lo"),
    ]  # fmt: skip
    shown.put(story.data("d"), story.tokens(["!"]))
    assert shown.news() == [Data("note", "d", 3), Text("!")]


def test_after_a_rebuild_the_order_goes_on_behind_what_was_given() -> None:
    story, shown = Story("g1"), Shown()
    shown.put(story.tokens(["Hel"]), story.data("a"), story.tokens(["lo"]))
    shown.news()
    shown.rebuild()
    story = Story("g1")
    shown.put(story.tokens(["He"]))
    assert shown.news() == []
    story = Story("g1")
    shown.rebuild()
    shown.put(
        story.tokens(["Hel"]), story.data("a"), story.tokens(["lo wo"]), story.data("b"), story.tokens(["rld"]),
    )  # fmt: skip
    assert shown.news() == [Text(" wo"), Data("note", "b", 2), Text("rld")]


def test_what_is_another_text_after_a_rebuild_is_given_in_its_order_from_its_beginning() -> None:
    story, shown = Story("g1"), Shown()
    shown.put(story.tokens(["Hello"]), story.data("a"))
    shown.news()
    shown.rebuild()
    story = Story("g1")
    shown.put(story.tokens(["Hel"]))
    assert shown.news() == []
    shown.put(story.data("x"), story.tokens(["p"]))
    assert shown.news() == [Restart(), Text("Hel"), Data("note", "x", 1), Text("p")]


def test_data_is_given_once_also_after_a_rebuild() -> None:
    shown = Shown()
    story = Story("g1")
    shown.put(story.data("a"), story.data("b"))
    assert shown.news()[1:] == [Data("note", "a", 0), Data("note", "b", 0)]
    shown.rebuild()
    story = Story("g1")
    shown.put(story.data("a"))
    assert shown.news() == []
    shown.put(story.data("b"), story.data("c"))
    assert shown.news() == [Data("note", "c", 0)]
