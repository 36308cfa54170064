"""A session without any machinery: the lives of its log as lists, a server that only knows the contract, and screens
at the far end of a network that loses, doubles and reorders what was sent."""

from __future__ import annotations

from typing import Any

import msgspec

from relay.protocol import events, frames
from relay.protocol.compact import catchups
from relay.protocol.view import FrameDict, SessionView
from tests.protocol.logs import SESSION, Body, Story, in_order


class Life:
    """One epoch of the log. `shown[seq]`: what a viewer shows who saw every event up to there, one by one."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.entries: dict[int, Body] = {}
        self.head = 0
        self.floor = 0
        self.shown: list[dict[str, Any]] = []
        self._view = SessionView(SESSION)
        self._view.apply({**self.subscribed(0, recovered=False), "id": self._view.subscribe()["id"]})
        self.shown.append(state(self._view))

    def write(self, body: Body) -> None:
        self.head += 1
        self.entries[self.head] = body
        frame = msgspec.json.decode(events.live_frame(SESSION, self.head, body))
        assert self._view.apply(frame) == "applied"
        self.shown.append(state(self._view))

    def honours(self, cursor: dict[str, Any] | None) -> bool:
        if cursor is None or cursor["epoch"] != self.epoch:
            return False
        seq: int = cursor["seq"]
        return seq == 0 or self.floor <= seq <= self.head

    def subscribed(self, at: int, *, recovered: bool, active: list[FrameDict] | None = None) -> FrameDict:
        return {
            "type": "subscribed", "session": SESSION, "epoch": self.epoch, "at": at, "head": self.head,
            "recovered": recovered, "active": active or [],
        }  # fmt: skip

    def live(self, after: int, upto: int) -> list[bytes]:
        return [events.live_frame(SESSION, seq, self.entries[seq]) for seq in range(after + 1, upto + 1)]

    def merged(self, after: int, upto: int, room: int) -> list[bytes]:
        """As catchups whose bound leaves `room` bytes beyond the largest event."""
        entries = [(seq, body) for seq, body in sorted(self.entries.items()) if after < seq <= upto]
        bound = max((len(body) for _, body in entries), default=0) + 310 + room
        return [frames.encode(frame) for frame in catchups(SESSION, after, entries, upto, bound)]

    def trim(self, generation: str, piece_bytes: int) -> None:
        """Merge an ended generation's batches where the first of each piece stood; drop what a restart voided."""
        own = {seq: body for seq, body in self.entries.items() if events.read_header(body).generation == generation}
        attempt = max(events.read_header(body).attempt for body in own.values())
        pieces: dict[str, int] = {}
        for seq, body in sorted(own.items()):
            header = events.read_header(body)
            if header.type == "data":
                pieces.clear()
            if header.type not in ("tokens", "reasoning"):
                continue
            first = pieces.get(header.type)
            if header.attempt == attempt and (first is None or len(self.entries[first]) + len(body) > piece_bytes):
                pieces[header.type] = seq
                continue
            if header.attempt == attempt and first is not None:
                self.entries[first] = _joined(self.entries[first], body)
            del self.entries[seq]
            self.floor = max(self.floor, seq)


def _joined(one: Body, other: Body) -> Body:
    first, second = msgspec.json.decode(one), msgspec.json.decode(other)
    return msgspec.json.encode(
        {**first, "count": first["count"] + second["count"], "text": first["text"] + second["text"]}
    )


class Screen:
    """One viewer with its subscription. `wire`: frames of it that were sent and have not come yet."""

    def __init__(self, life: Life, *, start: str = "start") -> None:
        self.view = SessionView(SESSION)
        self.life = life  # that the server last told it of
        self.sent = 0
        self.wire: list[bytes] = []
        self.start = start
        self.asked: FrameDict | None = None
        self.ask()

    @property
    def whole(self) -> bool:
        """Whether it shows everything from the beginning."""
        return not any(shown.partial for shown in self.view.generations.values())

    def ask(self) -> None:
        self.asked = self.view.subscribe(start=self.start)

    def answer(self, life: Life, stories: dict[str, Story]) -> None:
        """The server's reply; of the earlier subscription nothing follows it."""
        assert self.asked is not None
        cursor = self.asked.get("cursor")
        recovered = life.honours(cursor)
        live = self.start == "live" and cursor is None
        at = cursor["seq"] if recovered and cursor else life.head if live else 0
        reply = life.subscribed(at, recovered=recovered, active=_active(stories))
        self._begin(life, {**reply, "id": self.asked["id"]})
        self.asked = None

    def tell(self, life: Life, stories: dict[str, Story]) -> None:
        """Unasked: what it has is void."""
        if self.asked is None:
            self._begin(life, life.subscribed(0, recovered=False, active=_active(stories)))

    def send(self, upto: int, *, merge: bool, room: int) -> None:
        if self.asked is not None or upto <= self.sent:
            return
        trimmed = self.sent < self.life.floor
        if trimmed and self.sent:
            return  # it has to be told anew
        upto = self.life.head if trimmed else min(upto, self.life.head)
        self.wire += self.life.merged(self.sent, upto, room) if merge or trimmed else self.life.live(self.sent, upto)
        self.sent = upto

    def take(self, frame: bytes) -> None:
        """What comes is applied; on a gap or a mismatch it asks again."""
        outcome = self.view.apply(msgspec.json.decode(frame))
        if outcome == "mismatch":
            self.view.forget()
        if outcome in ("gap", "mismatch"):
            self.ask()

    def _begin(self, life: Life, frame: FrameDict) -> None:
        self.life, self.sent, self.wire = life, frame["at"], []
        assert self.view.apply(frame) == "applied"


def _active(stories: dict[str, Story]) -> list[FrameDict]:
    return [
        {"generation": name, "attempt": story.attempt, "state": "streaming" if story.texts else "queued"}
        for name, story in stories.items()
        if not story.ended
    ]


def state(view: SessionView) -> dict[str, Any]:
    """What a person sees: everything but how it came."""
    return {
        "messages": [_bare(event) for event in view.messages],
        "generations": {
            name: (
                shown.attempt, shown.state, shown.count, shown.text, shown.reasoning,
                in_order(shown.parts), shown.end and _bare(shown.end),
            )
            for name, shown in view.generations.items()
        },
    }  # fmt: skip


def _bare(event: FrameDict) -> FrameDict:
    return {name: value for name, value in event.items() if name not in ("session", "seq")}
