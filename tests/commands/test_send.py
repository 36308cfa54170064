"""What a Ctrl-C does to `relay send`, and says; on real processes: scenarios/test_send.py."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec
import pytest

from relay.commands.send import SendCommand
from relay.protocol import events
from tests.client.scripted import Scripted
from tests.protocol.logs import Story, message
from tests.scenarios.processes import until


class Left(Exception):
    """Instead of the end of this process."""


@pytest.fixture(autouse=True)
def exits(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)


async def test_a_ctrl_c_says_what_is_known_of_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def have(sentence: str) -> bool:
        said.append(capsys.readouterr().err)
        return sentence in "".join(said)

    def leaves(question: SendCommand, sentence: str) -> None:
        with pytest.raises(Left, match="130"):
            question._interrupted()
        assert have(f"relay: {sentence}\n")

    async with Scripted() as gateway:
        question = SendCommand(gateway.url, {"session": "s", "content": "q"})
        asking = asyncio.create_task(question.ask())
        leaves(question, "left before the question was accepted")
        peer = await gateway.greeted()
        await peer.subscribed()
        leaves(question, "left before the question was accepted")
        await peer.accepted("g1")
        story = Story("g1")
        await peer.live(1, message("g1"))
        await peer.live(2, story.tokens(["half"]))
        await until(lambda: capsys.readouterr().out == "half", "the answer has begun")
        question._interrupted()
        assert have("relay: stopping; Ctrl-C again leaves\n")
        stop = await peer.command("stop")
        leaves(question, "left before the stop was confirmed; perhaps the answer goes on without you")
        await peer.send(type="stopping", id=stop["id"], session="s", generation="g1", already_ended=False)
        await until(lambda: question._over, "the stop is confirmed")
        leaves(question, "left")
        await peer.live(3, story.end("stopped"))
        assert await asking == 130
        assert have("relay: stopped\n")


async def test_a_refusal_is_the_last_word(capsys: pytest.CaptureFixture[str]) -> None:
    async with Scripted() as gateway:
        asking = asyncio.create_task(SendCommand(gateway.url, {"session": "s", "content": "q"}).ask())
        peer = await gateway.greeted()
        await peer.subscribed()
        submit = await peer.command("submit")
        refusal = {"code": "bad_message", "message": "queue: \x1b[31mnone such.", "retryable": False}
        await peer.send(type="error", id=submit["id"], session="s", **refusal)
        assert await asking == 1
    assert capsys.readouterr().err == "relay: bad_message: queue: ␛[31mnone such.\n"


@pytest.mark.parametrize(("token", "verb"), [("a-token", "refused the token"), ("", "wants a token")])
async def test_a_token_that_is_refused_is_named_by_its_setting(
    capsys: pytest.CaptureFixture[str], token: str, verb: str
) -> None:
    async with Scripted() as gateway:
        asking = asyncio.create_task(SendCommand(gateway.url, {"session": "s", "content": "q"}, token=token).ask())
        peer = await gateway.peer()
        assert peer.authorization == (f"Bearer {token}" if token else None)
        await peer.close(4501, "Its signature is wrong.")
        assert await asking == 1
        assert gateway.waiting == 0
        sentence = f"the gateway at {gateway.url} {verb}: Its signature is wrong; set RELAY_TOKEN to one that it takes"
    assert capsys.readouterr().err == f"relay: {sentence}\n"


async def test_options_are_sent_as_they_are_and_what_a_gateway_does_not_know_of_them_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with Scripted() as gateway:
        options = {"temperature": 0.2, "top_\x1bk": 4}
        asking = asyncio.create_task(
            SendCommand(gateway.url, {"session": "s", "content": "q", "options": options}).ask()
        )
        peer = await gateway.greeted()
        await peer.subscribed()
        submit = await peer.accepted("g1", ignored=["options.top_\x1bk", "model"])
        assert submit["options"] == options
        await peer.live(1, message("g1"))
        await peer.live(2, Story("g1").end("complete"))
        assert await asking == 0
    assert capsys.readouterr().err == "relay: not understood here: options.top_␛k, model\n"


@pytest.mark.parametrize(
    ("reply", "code", "sentence"),
    [
        ({"type": "error", "code": "not_found", "message": "No.", "retryable": False}, 1, "the session s was deleted"),
        ({"type": "error", "code": "forbidden", "message": "No.", "retryable": False}, 130, "stopped"),
        ({"type": "stopping", "generation": "g1", "already_ended": True}, 130, "stopped"),
    ],
    ids=["deleted", "not told", "stopped elsewhere"],
)
async def test_an_answer_that_others_ended_was_stopped_or_went_with_its_session(
    reply: dict[str, object], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Scripted() as gateway:
        asking = asyncio.create_task(SendCommand(gateway.url, {"session": "s", "content": "q"}).ask())
        peer = await gateway.greeted()
        await peer.subscribed()
        await peer.accepted("g1")
        await peer.live(1, message("g1"))
        await peer.live(2, Story("g1").end("stopped"))
        while (command := msgspec.json.decode(await peer.websocket.recv()))["type"] != "stop":
            pass  # it follows no more
        await peer.send(**{"id": command["id"], "session": "s", **reply})
        assert await asking == code
    assert capsys.readouterr().err == f"relay: {sentence}\n"


async def test_a_queue_that_no_worker_served_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    sorry = events.Failure("no_worker", "Sorry.", retryable=True)
    end = events.End("g1", 1, "failed", 0, 0, 0, events.Timings(60_000), error=sorry)
    nobody: Any = None
    assert await SendCommand("http://127.0.0.1:1", {"queue": "typo"})._finish(nobody, nobody, end) == 1
    assert "relay: Sorry. (no_worker) No worker served the queue typo." in capsys.readouterr().err
