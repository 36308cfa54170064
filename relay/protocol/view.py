"""What a client knows of one session, and the rules by which frames change it. Pure; the model for every client.

`apply` takes a decoded frame and returns what to do next: nothing, subscribe again with the cursor (a gap), or
subscribe without one (a checksum that does not match: the only way this state can be wrong).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Set
from typing import Any, Literal, assert_never

import msgspec

from relay.protocol import events
from relay.protocol.words import Cursor

ApplyOutcome = Literal["applied", "dropped", "gap", "mismatch"]
FrameDict = dict[str, Any]


class Generation:
    """One answer as a client shows it.

    `parts`: its texts and data in the order in which they came; `texts` and `data` have one kind each. `detail`: of the
    status in `state`. `partial`: its beginning was never seen, as the client joined later.
    """

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.attempt = 1
        self.state = "queued"
        self.detail = ""
        self.parts: list[str | FrameDict] = []
        self.texts: list[str] = []
        self.reasonings: list[str] = []
        self.data: list[FrameDict] = []
        self.count = 0
        self.partial = False
        self.end: FrameDict | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasonings)

    def restart(self, attempt: int) -> None:
        self.attempt = attempt
        self.state, self.detail = "retrying", ""
        self.parts, self.texts, self.reasonings, self.data = [], [], [], []
        self.count, self.partial = 0, False

    def proves(self, end: FrameDict) -> bool:
        """Whether the text shown is exactly what the model wrote."""
        encoded = self.text.encode()
        shown = (self.count, len(encoded), zlib.crc32(encoded))
        return self.partial or shown == (end["count"], end["text_bytes"], end["crc32"])


class SessionView:
    """One session's state and cursor. `prefix`: of the ids of its `subscribe` commands; differs for each view on a
    connection.

    `interrupted`: answers that the new epoch lacks, and that may come back; `lost`: those that were given up.
    `head`: the log's head when the subscription began.
    """

    def __init__(self, session: str, prefix: str = "subscribe-") -> None:
        self.session = session
        self._prefix = prefix
        self.epoch: str | None = None
        self.last = 0
        self.head = 0
        self.waiting = True  # for the reply to `subscribe`: until then, log frames belong to an earlier subscription
        self.live = False
        self._asked = 0
        self._resumed = False  # from a saved cursor: what came before it is not known here
        self.unproven: set[str] = set()  # generations whose text does not match what the server reported
        self.messages: list[FrameDict] = []
        self.generations: dict[str, Generation] = {}
        self._interrupted: dict[str, None] = {}  # this and the next two: the oldest first
        self._awaited: dict[str, bool] = {}  # still to come, or to come again → whether it was seen before
        self._lost: dict[str, None] = {}
        self._outlived: set[str] = set()  # generations that were forgotten before their questions

    @property
    def cursor(self) -> Cursor | None:
        return Cursor(self.epoch, self.last) if self.epoch is not None else None

    @property
    def interrupted(self) -> Set[str]:
        return self._interrupted.keys()

    @property
    def lost(self) -> Set[str]:
        return self._lost.keys()

    @property
    def missing(self) -> list[str]:
        """Answers that the log should have, and has not shown so far."""
        return [*self._interrupted, *self._awaited]

    @property
    def rebuilding(self) -> bool:
        """Whether only a part of the log is here yet, and the rest is on its way."""
        return self.epoch is None or self.last < self.head

    def resume(self, cursor: Cursor) -> None:
        """Begin at a cursor saved earlier, without the state that belonged to it."""
        self.epoch, self.last, self._resumed = cursor.epoch, cursor.seq, cursor.seq > 0

    def subscribe(self, *, start: str = "start") -> FrameDict:
        """The command that begins, or resumes, following this session."""
        self.waiting = True
        self.live = start == "live"
        self._asked += 1
        command: FrameDict = {"type": "subscribe", "id": f"{self._prefix}{self._asked}", "session": self.session}
        if self.cursor is not None:
            command["cursor"] = msgspec.to_builtins(self.cursor)
        elif self.live:
            command["from"] = "live"
        return command

    def forget(self) -> None:
        """Drop cursor and state: the next `subscribe` brings everything."""
        self._awaited |= dict.fromkeys(self._unfinished(), True)
        self.epoch, self.last, self._resumed = None, 0, False
        self.messages, self.generations, self.unproven, self._outlived = [], {}, set(), set()

    def expect(self, name: str) -> None:
        """This generation was accepted: the log has it, or will have it."""
        if name not in self.generations and name not in self._interrupted:
            self._lost.pop(name, None)
            self._awaited.setdefault(name, False)

    def give_up(self, names: Iterable[str]) -> list[str]:
        """`limits.lost_after_s` have passed without a sign of these: those still missing are lost. Returns them."""
        given_up = set(names)
        lost = [name for name in self.missing if name in given_up]
        for name in lost:
            self._came(name)
            self._lost[name] = None
        return lost

    def prune(self, keep: int) -> None:
        """Forget the oldest ended generations beyond `keep`, with their questions; unfinished ones stay.

        The wire does not say which question a retry answers. So while a retry is shown, the newest `keep` questions of
        forgotten generations stay: its own is among them. Of the lost ones, the newest `keep` are remembered.
        """
        self._lost = dict.fromkeys(list(self._lost)[-keep:])
        ended = [name for name, shown in self.generations.items() if shown.end is not None]
        if len(ended) <= keep:
            return
        for name in ended[:-keep]:
            del self.generations[name]
            self.unproven.discard(name)
        self._prune_questions({*self._outlived, *ended[:-keep]}, keep)

    def _prune_questions(self, forgotten: set[str], keep: int) -> None:
        asked = [event["generation"] for event in self.messages]
        a_retry_is_shown = not self.generations.keys() <= set(asked)
        outlived = [name for name in asked if name in forgotten][-keep:] if a_retry_is_shown else []
        self._outlived, dropped = set(outlived), forgotten.difference(outlived)
        self.messages = [event for event in self.messages if event["generation"] not in dropped]

    def apply(self, frame: FrameDict) -> ApplyOutcome:
        """Apply one frame of this session; all others are dropped."""
        if frame.get("session") != self.session:
            return "dropped"
        if frame["type"] == "subscribed":
            return self._subscribed(frame)
        if "seq" not in frame or self.waiting:
            return "dropped"
        last: int = frame["seq"]
        merged = frame["type"] == "catchup"
        first: int = frame["from"] if merged else last
        if first != self.last + 1:
            return "dropped" if last <= self.last else "gap"
        outcomes = [self._take(event) for event in (frame["events"] if merged else [frame])]
        self.last = last
        return "mismatch" if "mismatch" in outcomes else "applied"

    def _take(self, event: FrameDict) -> ApplyOutcome:
        outcome = self._event(event)
        if outcome == "mismatch":
            self.unproven.add(event["generation"])
        return outcome

    def _subscribed(self, frame: FrameDict) -> ApplyOutcome:
        if self.waiting and self._asked and frame.get("id") != f"{self._prefix}{self._asked}":
            return "dropped"  # it belongs to an earlier subscription; the reply to the last one is still to come
        active = {known["generation"]: known for known in frame["active"]}
        if not frame["recovered"]:
            self.forget()
            self._reconcile(active)
        self.epoch, self.last, self.head, self.waiting = frame["epoch"], frame["at"], frame["head"], False
        if self.live and not frame["recovered"] and frame["at"] > 0:  # at 0 everything follows from the beginning
            for known in active.values():
                self._generation(known["generation"], known["attempt"]).partial = True
        return "applied"

    def _reconcile(self, active: Iterable[str]) -> None:
        """The log is another one: what was seen will come again, or is interrupted."""
        seen = [*self._interrupted, *(name for name, seen in self._awaited.items() if seen)]
        back = [name for name in (*seen, *self._lost) if name in active]
        for name in (*seen, *back):
            self._came(name)
        self._awaited |= dict.fromkeys(back, True)
        self._interrupted |= dict.fromkeys(name for name in seen if name not in active)

    def _unfinished(self) -> list[str]:
        return [name for name, shown in self.generations.items() if shown.end is None]

    def _came(self, name: str) -> None:
        """It is neither missing nor lost any more."""
        self._interrupted.pop(name, None)
        self._awaited.pop(name, None)
        self._lost.pop(name, None)

    def _event(self, event: FrameDict) -> ApplyOutcome:
        kind = events.known(event["type"])
        if kind is None:
            return "applied"  # from a later release; its seq counts
        if kind == "message":
            if not any(known["message_id"] == event["message_id"] for known in self.messages):
                self.messages.append(event)  # once, even if it had to be written again
            return "applied"
        shown = self._generation(event["generation"], event["attempt"])
        match kind:
            case "status":
                shown.state, shown.detail = event["state"], event.get("detail") or ""
            case "tokens":
                return self._tokens(shown, event)
            case "reasoning":
                shown.reasonings.append(event["text"])
            case "data":
                shown.data.append(event)
                shown.parts.append(event)
            case "restart":
                pass  # its higher attempt has already voided what was shown
            case "end":
                shown.state, shown.detail, shown.end = event["reason"], "", event
                return "applied" if shown.proves(event) else "mismatch"
            case _:
                assert_never(kind)
        return "applied"

    def _tokens(self, shown: Generation, event: FrameDict) -> ApplyOutcome:
        shown.state, shown.detail = "streaming", ""
        if shown.partial and not shown.texts:
            shown.count = event["index"]
            shown.partial = event["index"] > 0  # 0: its beginning was seen after all
        agrees = shown.count == event["index"]
        shown.texts.append(event["text"])
        shown.parts.append(event["text"])
        shown.count += event["count"]
        return "applied" if agrees else "mismatch"

    def _generation(self, name: str, attempt: int) -> Generation:
        """The generation as of `attempt`: a higher one voids what was shown, with or without its `restart`."""
        shown = self.generations.get(name)
        if shown is None:
            shown = self.generations[name] = Generation(name)
            if self._resumed:
                shown.attempt, shown.partial = attempt, True
        self._came(name)
        if attempt > shown.attempt:
            shown.restart(attempt)
        return shown
