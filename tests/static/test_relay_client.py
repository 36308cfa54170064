"""The browser client's rules are those of relay/protocol/view.py: both go through the same frames, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.protocol import frames
from relay.protocol.compact import catchups
from relay.protocol.view import FrameDict, Generation, SessionView
from relay.protocol.words import Cursor
from tests.protocol.logs import SESSION, Body, Story, logs, message
from tests.static import javascript
from tests.static.javascript import Javascript, Step

MOVES = ["next"] * 6 + ["catchup"] * 3 + [
    "repeat", "skip", "mangle", "reconnect", "stale", "epoch", "forget", "elsewhere", "expect", "give up",
]  # fmt: skip
MANGLED: dict[str, list[dict[str, Any]]] = {
    "tokens": [{"text": "lost"}, {"index": 99}],
    "reasoning": [{"text": "other"}],
    "end": [{"crc32": 1}, {"count": 99}, {"text_bytes": 99}],
}


@pytest.fixture(scope="module", params=["node", pytest.param("chromium", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Javascript]:
    made = javascript.node(tmp_path_factory.mktemp("node")) if request.param == "node" else javascript.chromium()
    with made as running:
        yield running


class Model:
    """Python's view, going through a plan; keeps the steps and what came of each."""

    def __init__(self) -> None:
        self.view = SessionView(SESSION)
        self.steps: list[Step] = []
        self.outcomes: list[tuple[Any, dict[str, Any]]] = []

    def subscribe(self, start: str = "start") -> FrameDict:
        command = self.view.subscribe(start=start)
        self._note("subscribe", start, command)
        return command

    def resume(self, cursor: Cursor) -> None:
        self.view.resume(cursor)
        self._note("resume", msgspec.to_builtins(cursor), None)

    def forget(self) -> None:
        self.view.forget()
        self._note("forget", None, None)

    def expect(self, name: str) -> None:
        self.view.expect(name)
        self._note("expect", name, None)

    def give_up(self, names: list[str]) -> None:
        self._note("giveUp", names, sorted(self.view.give_up(names)))

    def apply(self, frame: FrameDict) -> str:
        outcome = self.view.apply(frame)
        self._note("apply", frame, outcome)
        return outcome

    def _note(self, name: str, argument: Any, returned: Any) -> None:
        self.steps.append((name, argument))
        self.outcomes.append((returned, msgspec.to_builtins(state(self.view))))


class Server:
    """A log, a place in it, and a wire that may do anything to what it carries."""

    def __init__(self, epoch: str, bodies: list[Body]) -> None:
        self.epoch = epoch
        self.bodies = bodies
        self.at = 0
        self.sent: list[FrameDict] = []

    def live(self) -> FrameDict | None:
        if self.at >= len(self.bodies):
            return None
        self.at += 1
        return self._keep({"session": SESSION, "seq": self.at, **msgspec.json.decode(self.bodies[self.at - 1])})

    def catchup(self, length: int, max_bytes: int) -> list[FrameDict]:
        upto = min(len(self.bodies), self.at + length)
        entries = list(enumerate(self.bodies, start=1))[self.at : upto]
        found = [frames.encode(frame) for frame in catchups(SESSION, self.at, entries, upto, max_bytes)]
        self.at = upto
        return [self._keep(msgspec.json.decode(frame)) for frame in found]

    def subscribed(self, command: FrameDict | None, live: bool = False) -> FrameDict:
        cursor = (command or {}).get("cursor")
        recovered, self.at = False, len(self.bodies) // 2 if live and cursor is None else 0
        if cursor is not None and cursor["epoch"] == self.epoch and cursor["seq"] <= len(self.bodies):
            recovered, self.at = True, cursor["seq"]
        reply = {
            "type": "subscribed", "session": SESSION, "epoch": self.epoch, "at": self.at, "head": len(self.bodies),
            "recovered": recovered, "active": self.active(self.at or len(self.bodies)),
        }  # fmt: skip
        return reply if command is None else {**reply, "id": command["id"]}

    def active(self, head: int) -> list[FrameDict]:
        """The generations without an end when the log was that long."""
        found: dict[str, FrameDict] = {}
        for body in self.bodies[:head]:
            event = msgspec.json.decode(body)
            if event["type"] == "end":
                found.pop(event["generation"], None)
            elif "attempt" in event:
                found[event["generation"]] = {
                    "generation": event["generation"], "attempt": event["attempt"], "state": "streaming",
                }  # fmt: skip
        return list(found.values())

    def _keep(self, frame: FrameDict) -> FrameDict:
        self.sent.append(frame)
        return frame


@st.composite
def plans(draw: st.DrawFn) -> Model:
    """A session's life as a client meets it: drops, repeats, merges, new epochs, wrong text, replies out of turn."""
    model, epoch = Model(), 1
    server = Server("e1", draw(logs()))
    live = draw(st.booleans())
    if draw(st.booleans()):
        model.resume(Cursor(draw(st.sampled_from(["e0", "e1", "e1"])), draw(st.integers(0, len(server.bodies)))))
    command = model.subscribe("live" if live else "start")
    model.apply(server.subscribed(command, live))
    for _ in range(draw(st.integers(0, 25))):
        arriving: list[FrameDict] = []
        match draw(st.sampled_from(MOVES)):
            case "next":
                arriving = [frame] if (frame := server.live()) else []
            case "catchup":
                arriving = server.catchup(draw(st.integers(1, 12)), draw(st.sampled_from([500, 262_144])))
            case "repeat" if server.sent:
                arriving = [draw(st.sampled_from(server.sent))]
            case "skip":
                server.live()
            case "mangle" if (frame := server.live()) is not None:
                arriving = [{**frame, **draw(st.sampled_from(MANGLED.get(frame["type"], [{}])))}]
            case "reconnect":
                command = model.subscribe(draw(st.sampled_from(["start", "live"])))
                late = [{**server.subscribed(None), "id": draw(st.sampled_from([None, "subscribe-1", "other"]))}]
                reply = server.subscribed(command, command.get("from") == "live")
                arriving = [*(late if draw(st.booleans()) else []), reply]
            case "stale":
                arriving = [{**server.subscribed(None), "id": draw(st.sampled_from(["subscribe-1", "other"]))}]
            case "epoch":
                epoch += 1
                server = Server(f"e{epoch}", draw(logs(max_size=15)))
                arriving = [server.subscribed(None)] if draw(st.booleans()) else []
            case "forget":
                model.forget()
            case "expect":
                model.expect(draw(st.sampled_from(["g1", "g2", "g9"])))
            case "give up":
                model.give_up(draw(st.sampled_from([["g1"], ["g9", "g2"], model.view.missing])))
            case "elsewhere":
                arriving = [{"type": "heartbeat"}, {"type": "tokens", "session": "other", "seq": model.view.last + 1}]
        for frame in arriving:
            outcome = model.apply(frame)
            if outcome == "mismatch" and draw(st.booleans()):
                model.forget()
            if outcome in ("gap", "mismatch") and draw(st.booleans()):
                command = model.subscribe()
                for old in server.catchup(draw(st.integers(0, 3)), 262_144):  # still of the subscription before
                    model.apply(old)
                model.apply(server.subscribed(command))
                break
    return model


def state(view: SessionView) -> dict[str, Any]:
    return {
        "cursor": view.cursor,
        "last": view.last,
        "waiting": view.waiting,
        "messages": view.messages,
        "generations": {name: shown(generation) for name, generation in view.generations.items()},
        "interrupted": sorted(view.interrupted),
        "missing": sorted(view.missing),
        "lost": sorted(view.lost),
        "rebuilding": view.rebuilding,
    }


def shown(generation: Generation) -> dict[str, Any]:
    names = ("attempt", "state", "detail", "text", "parts", "reasoning", "count", "partial", "end")
    return {name: getattr(generation, name) for name in names} | {"detail": generation.detail or None}


def compare(engine: Javascript, model: Model) -> None:
    """Both agree on every step. The browser's has one thing more: a generation begins with its user's turn."""
    blank = shown(Generation(""))
    answers = engine.drive(SESSION, model.steps)
    for step, (returned, theirs), (expected, ours) in zip(model.steps, answers, model.outcomes, strict=True):
        assert (sorted(returned) if step[0] == "giveUp" else returned) == expected, step
        asked = [event["generation"] for event in theirs["messages"]]
        order = theirs.pop("order")
        assert sorted(order) == sorted({*ours["generations"], *asked}), step
        for name in set(asked) - set(ours["generations"]):
            assert theirs["generations"].pop(name) == blank, step
        assert theirs == ours, step


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plan=plans())
def test_both_views_agree_on_the_state_and_on_what_to_do_next(engine: Javascript, plan: Model) -> None:
    compare(engine, plan)


def test_texts_that_are_hard_to_count_prove_in_both(engine: Javascript) -> None:
    story, model = Story("g1"), Model()
    server = Server("e1", [message("g1"), story.tokens(["👩‍👩‍👧", "\x00\u2028", "\ufffd", "é" * 5000]), story.end()])
    model.apply(server.subscribed(model.subscribe()))
    for _ in server.bodies:
        frame = server.live()
        assert frame is not None
        assert model.apply(frame) == "applied"
    compare(engine, model)


def test_generations_stand_in_the_order_of_submit_also_when_the_later_one_speaks_first(engine: Javascript) -> None:
    first, second, model = Story("g1"), Story("g2"), Model()
    bodies = [message("g1"), message("g2"), second.tokens(["b"]), second.end(), first.tokens(["a"])]
    server = Server("e1", bodies)
    model.apply(server.subscribed(model.subscribe()))
    for frame in server.catchup(len(bodies), 262_144):
        model.apply(frame)
    compare(engine, model)
    assert engine.drive(SESSION, model.steps)[-1][1]["order"] == ["g1", "g2"]


def test_a_question_that_was_written_again_is_shown_once_in_both(engine: Javascript) -> None:
    model, server = Model(), Server("e1", [message("g1"), message("g2"), message("g1")])
    model.apply(server.subscribed(model.subscribe()))
    for frame in server.catchup(3, 262_144):
        model.apply(frame)
    compare(engine, model)
    assert len(model.view.messages) == 2


def test_of_lost_answers_a_page_keeps_the_newest_with_their_texts(engine: Javascript) -> None:
    model = Model()
    for number in range(25):
        server = Server(f"e{number}", [Story(f"g{number}").tokens(["text"])])
        model.apply(server.subscribed(model.subscribe()))
        frame = server.live()
        assert frame is not None
        model.apply(frame)
        model.apply(Server(f"f{number}", []).subscribed(None))
        model.give_up([f"g{number}"])
    assert engine.drive(SESSION, model.steps)[-1][1]["lost"] == sorted(f"g{number}" for number in range(5, 25))
