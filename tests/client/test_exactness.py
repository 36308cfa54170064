"""However frames are dropped, repeated, cut off and rebuilt: what a reader is given is the provider's text."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.client.answer_items import Data, End, Reader, Restart, Text
from relay.client.following import Applied, PendingChanges, Rebuilt
from relay.client.subscription import Subscription, SubscriptionListener
from relay.protocol import events, frames
from relay.protocol.compact import catchups
from relay.protocol.view import FrameDict, SessionView
from tests.protocol.logs import SESSION, Body, in_order, logs

FAULTS = ["send"] * 8 + ["catchup"] * 3 + ["look"] * 4 + ["drop", "repeat", "cut", "new epoch", "lie", "unanswered"]


class Gateway:
    """A log that grows, and one subscription to it through a wire that does what the test says."""

    def __init__(self, log: list[Body]) -> None:
        self.log = log
        self.written = 0  # of the log
        self.epoch = 1
        self.sent = 0
        self.subscribed = False

    def answer(self, command: FrameDict, recovers: bool = True) -> FrameDict:
        cursor = command.get("cursor") or {}
        recovered = recovers and cursor.get("epoch") == f"e{self.epoch}"
        self.sent = cursor["seq"] if recovered else self.written if command.get("from") == "live" else 0
        self.subscribed = True
        return self._subscribed(recovered, command["id"])

    def lose_everything(self) -> FrameDict:
        """The log begins a new life: the same events, from their beginning."""
        self.epoch += 1
        self.sent = 0
        return self._subscribed(False, None)

    def live(self) -> FrameDict | None:
        """The next event; written now if nobody has seen it yet."""
        if self.sent == len(self.log):
            return None
        self.sent += 1
        self.written = max(self.written, self.sent)
        frame: FrameDict = msgspec.json.decode(events.live_frame(SESSION, self.sent, self.log[self.sent - 1]))
        return frame

    def catchup(self, upto: int) -> list[FrameDict]:
        entries = list(enumerate(self.log, 1))[self.sent : upto]
        merged = catchups(SESSION, self.sent, entries, upto, 300) if upto > self.sent else []
        self.sent = max(self.sent, upto)
        self.written = max(self.written, self.sent)
        return [msgspec.json.decode(frames.encode(frame)) for frame in merged]

    def _subscribed(self, recovered: bool, reply_id: str | None) -> FrameDict:
        return {
            "type": "subscribed", "id": reply_id, "session": SESSION, "epoch": f"e{self.epoch}", "at": self.sent,
            "head": self.written, "recovered": recovered, "active": self._active(),
        }  # fmt: skip

    def _active(self) -> list[FrameDict]:
        active: dict[str, FrameDict] = {}
        for body in self.log[: self.written]:
            event = msgspec.json.decode(body)
            if event["type"] == "end":
                active.pop(event["generation"], None)
            elif "attempt" in event:
                active[event["generation"]] = {
                    "generation": event["generation"], "attempt": event["attempt"], "state": "streaming",
                }  # fmt: skip
        return list(active.values())


class Given:
    """What one reader was given of one answer."""

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.reader = Reader()
        self.parts: list[str | FrameDict] = []
        self.end: FrameDict | None = None

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    def look(self, view: SessionView) -> None:
        for item in self.reader.news(view.generations.get(self.generation)):
            assert self.end is None, "nothing follows the end"
            match item:
                case Text(text):
                    assert text
                    self.parts.append(text)
                case Data(_, value, at):
                    self.parts.append({"value": value, "at": at})
                case Restart():
                    self.parts = []
                case End(frame):
                    self.end = frame


class Changes(SubscriptionListener):
    """What a following that is seldom read was given, put together again by the plainest rules."""

    def __init__(self) -> None:
        self.backlog = PendingChanges()
        self.view = SessionView(SESSION)
        self.last = 0

    def applied(self, frame: FrameDict) -> None:
        self.backlog.add(frame)

    def rebuilding(self, frame: FrameDict) -> None:
        self.backlog.restart(Rebuilt(frame["epoch"], frame["at"], frame["head"]))

    def read(self) -> None:
        while (change := self.backlog.take()) is not None:
            if isinstance(change, Rebuilt):
                self.view.forget()
                self.last = self.view.last = change.at
                self.view.waiting = False
                continue
            assert isinstance(change, Applied), change
            assert change.first == self.last + 1
            self.last = change.seq
            merged: dict[str, Any] = {"type": "catchup", "session": SESSION, "from": change.first, "seq": change.seq}
            assert self.view.apply({**merged, "events": change.events}) == "applied"


def texts(log: list[Body]) -> dict[str, dict[int, str]]:
    """generation → attempt → all that the provider wrote in it."""
    written: dict[str, dict[int, str]] = {}
    for body in log:
        event = msgspec.json.decode(body)
        if event["type"] in ("tokens", "restart", "status", "data", "reasoning", "end"):
            attempts = written.setdefault(event["generation"], {})
            attempts[event["attempt"]] = attempts.get(event["attempt"], "") + (
                event["text"] if event["type"] == "tokens" else ""
            )
    return written


def order(log: list[Body], generation: str) -> list[str | FrameDict]:
    """Text and data of its last attempt, as the log has them."""
    parts: list[str | FrameDict] = []
    for body in log:
        event = msgspec.json.decode(body)
        if event["type"] == "restart" and event["generation"] == generation:
            parts = []
        elif event["type"] in ("tokens", "data") and event["generation"] == generation:
            parts.append(event.get("text") or {"value": event["value"], "at": event["at"]})
    return in_order(parts)


def corrupted(frame: FrameDict) -> FrameDict:
    """The same frame with another text of the same length, if it has any."""

    def lie(event: FrameDict) -> FrameDict:
        return {**event, "text": "x" * len(event["text"])} if event["type"] == "tokens" else event

    return {**lie(frame), "events": [lie(event) for event in frame["events"]]} if "events" in frame else lie(frame)


async def play(log: list[Body], script: list[str], upto: list[int]) -> None:
    gateway, channel = (
        Gateway(log),
        Subscription(SESSION, start="start", cursor=None, answer_within_s=10, lost_after_s=lambda: 60),
    )
    changes = Changes()
    channel.listeners.add(changes)
    written = texts(log)
    given = {name: Given(name) for name in ("g1", "g2", "g3")}
    lied = False
    seeks = iter(upto * (len(script) + 1))

    def take(frame: FrameDict) -> None:
        channel.handle_frame(frame)

    def look() -> None:
        for one in given.values():
            one.look(channel.view)
            attempts = written.get(one.generation, {0: ""})
            assert lied or any(text.startswith(one.text) for text in attempts.values())

    def asked(recovers: bool = True) -> None:
        """Whatever the channel wants to say reaches the gateway."""
        if channel.ask_at < float("inf"):
            take(gateway.answer(msgspec.json.decode(channel.subscribe(0.0)), recovers))

    channel.connected()
    for step in script:
        if step == "look":
            look()
            changes.read()
        elif step == "cut":
            channel.lost()
            channel.connected()
            asked()
        elif step == "new epoch" and gateway.subscribed:
            take(gateway.lose_everything())
        elif step == "unanswered":
            channel.subscribe(0.0)
        elif step == "catchup" and gateway.subscribed:
            for frame in gateway.catchup(min(len(log), gateway.sent + next(seeks))):
                take(frame)
        elif gateway.subscribed and (event := gateway.live()) is not None and step != "drop":
            lied = lied or step == "lie"
            take(corrupted(event) if step == "lie" else event)
            if step == "repeat":
                take(event)
        asked()
    channel.lost()  # no rule can tell that the very last frame is missing; a connection that loses one breaks
    channel.connected()
    for _ in range(20):  # the network calms down
        asked()
        for frame in gateway.catchup(len(log)):
            take(frame)
    if lied:  # a lie in an answer without `end` is never found out: read it again
        channel.rewind()
        asked()
        for frame in gateway.catchup(len(log)):
            take(frame)
    look()
    changes.read()
    assert channel.view.last == len(log)
    for name, attempts in written.items():
        last = attempts[max(attempts)]
        assert given[name].text.encode() == last.encode() or script.count("lie") > 3  # then lies are shown in the end
        assert channel.view.generations[name].text.encode() == last.encode()
        assert changes.view.generations[name].text == last
        for shown in (channel.view.generations[name], changes.view.generations[name]):
            assert in_order([_placed(part) for part in shown.parts]) == order(log, name)
        assert lied or in_order(given[name].parts) == order(log, name)
        assert (given[name].end is None) == (channel.view.generations[name].end is None)


def _placed(part: str | FrameDict) -> str | FrameDict:
    return part if isinstance(part, str) else {"value": part["value"], "at": part["at"]}


@given(logs(), st.lists(st.sampled_from(FAULTS), max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_whatever_the_wire_does_the_texts_since_the_last_restart_are_the_providers(
    log: list[Body], script: list[str], upto: list[int]
) -> None:
    asyncio.run(play(log, script, upto))
