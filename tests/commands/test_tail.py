"""What `relay tail` shows, from the view alone; on real processes: scenarios/test_tail.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay.client import Lost, Status
from relay.commands.tail import Tail, TranscriptPrinter, lines
from relay.commands.terminal import Terminal
from relay.protocol.view import SessionView
from tests.client.scripted import Scripted


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


async def test_a_token_that_expires_is_named_by_its_setting(capsys: pytest.CaptureFixture[str]) -> None:
    async with Scripted() as gateway:
        tailing = asyncio.create_task(Tail(gateway.url, "s", start="start", as_json=False, token="a-token").run())
        peer = await gateway.greeted()
        assert peer.authorization == "Bearer a-token"
        await peer.subscribed()
        await peer.close(4401, "The token has expired.")
        assert await tailing == 1
        assert gateway.waiting == 0
        sentence = f"the gateway at {gateway.url} refused the token: The token has expired; set RELAY_TOKEN"
    assert f"relay: {sentence} to one that it takes\n" in capsys.readouterr().err
