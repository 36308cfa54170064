"""What `relay tail` shows, from the view alone; on real processes: scenarios/test_tail.py."""

from __future__ import annotations

from typing import Any

from relay.client import Lost, Status
from relay.commands.tail import TranscriptPrinter, lines
from relay.commands.terminal import Terminal
from relay.protocol.view import SessionView


class Paper(Terminal):
    def __init__(self) -> None:
        self.text, self.said = "", list[str]()

    def write(self, text: str) -> None:
        self.text += text

    def note(self, sentence: str) -> None:
        self.said.append(sentence)

    def line(self) -> None: ...

    def state(self, state: str, detail: str = "") -> None: ...


def test_an_answer_that_is_lost_holds_up_none_after_it() -> None:
    view, paper = SessionView("s"), Paper()
    transcript = TranscriptPrinter(paper, view, live=False)

    def subscribed(epoch: str) -> None:
        reply: dict[str, Any] = {"epoch": epoch, "at": 0, "head": 0, "recovered": False, "active": []}
        view.apply({"type": "subscribed", "session": "s", "id": view.subscribe()["id"], **reply})

    def tokens(seq: int, generation: str, text: str) -> None:
        event = {"type": "tokens", "generation": generation, "attempt": 1, "index": 0, "count": 1, "text": text}
        view.apply({"session": "s", "seq": seq, **event})
        transcript.look(Status("following"))

    subscribed("e1")
    tokens(1, "g1", "half an")
    subscribed("e2")
    tokens(1, "g2", "next")
    assert "next" not in paper.text
    view.give_up({"g1"})
    transcript.look(Status("following"))
    assert paper.text == "half an\nnext"
    assert paper.said == ["the relay has lost this answer"]


def test_what_is_lost_is_a_line_of_its_own() -> None:
    assert lines(Lost(("g1", "g2"))) == ['{"type":"lost","generations":["g1","g2"]}\n']
