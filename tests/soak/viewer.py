"""A viewer under soak: it reconnects with its cursor for as long as it is wanted, and judges whatever comes."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from websockets.exceptions import InvalidHandshake, WebSocketException

from relay.protocol.view import FrameDict, Generation, SessionView
from tests.scenarios.client import Client
from tests.soak.figures import Tally

REPLY_S = 8.0
_KEPT = 4  # ended answers; a soak is long


class End(NamedTuple):
    """An answer that has ended, as somebody shows it; `question` as often as it is shown."""

    reason: str
    code: str
    text: str
    question: str


def ended(view: SessionView, shown: Generation) -> End:
    assert shown.end is not None
    questions = [event["content"] for event in view.messages if event["generation"] == shown.generation]
    code = (shown.end.get("error") or {}).get("code", "")
    return End(shown.end["reason"], code, shown.text, " and ".join(questions))


class Viewer(Client):
    """`follow` runs until it is cancelled. What a frame breaks is told to the tally at once."""

    def __init__(self, session: str, name: str, codec: str, address: Callable[[], str], tally: Tally) -> None:
        super().__init__("http://none", session, codec)
        self.name = name
        self.gateway_url = ""
        self._address = address
        self._tally = tally
        self._again = asyncio.Event()
        self._served = False  # whether the connection has brought a subscription
        self._last: deque[str] = deque(maxlen=8)
        self._ended_twice: set[str] = set()

    async def follow(self) -> None:
        failures = 0
        while True:
            self.gateway_url = self._address()
            self.url = self.gateway_url.replace("http", "ws", 1) + "/v1/ws"
            try:
                await self._follow_once()
            except (OSError, EOFError, TimeoutError, WebSocketException, InvalidHandshake):
                pass  # it comes back
            finally:
                await self._hang_up()
            failures = 0 if self._served else failures + 1
            self._tally.reconnects += 1
            await asyncio.sleep(random.uniform(0.05, min(3.0, 0.3 * 2 ** min(failures, 4))))

    async def ask(self, **command: Any) -> FrameDict:
        """The reply to a command that bears a repeat, however often it takes; errors that may pass are waited out."""
        while True:
            try:
                reply = await asyncio.wait_for(await self.begin(**command), REPLY_S)
                if reply["type"] != "error" or not reply["retryable"]:
                    return reply
            except (AssertionError, OSError, TimeoutError, WebSocketException):
                pass  # not connected just now, or not any more
            await asyncio.sleep(0.2)

    async def outcome(self, generation: str, patience_s: float | None) -> End | None:
        """How it ended, once it has; None if nothing has been shown of it for so long.

        Without patience it waits until it is given up.
        """
        now = asyncio.get_running_loop().time
        missed_at = now()
        while True:
            if (end := self.end_of(generation)) is not None:
                return end
            if generation in self.view.generations or patience_s is None:
                missed_at = now()
            elif now() - missed_at > patience_s and self.served:
                return None
            try:
                async with asyncio.timeout(1), self.news:
                    await self.news.wait()
            except TimeoutError:
                pass  # time for another look at the clock

    def end_of(self, generation: str) -> End | None:
        """How an answer has ended, as it shows it now."""
        shown = self.view.generations.get(generation)
        return ended(self.view, shown) if shown is not None and shown.end is not None else None

    @property
    def served(self) -> bool:
        """Whether it is connected, and subscribed there."""
        return self.connection is not None and self._served and not self.view.waiting

    @property
    def unended(self) -> set[str]:
        """Answers that it shows, and whose end is still to come."""
        return {name for name, shown in self.view.generations.items() if shown.end is None}

    def standing(self) -> str:
        """Where it is and what it has seen, in words."""
        way = f"connected to {self.url}" if self.connection is not None else "not connected"
        return f"{self.name}, {way}, at {self.view.cursor}, waiting {self.view.waiting}: {' | '.join(self._last)}"

    def cut_now(self) -> None:
        """The connection is gone, nobody says goodbye."""
        if self.connection is not None:
            self.connection.transport.abort()

    def take(self, frame: FrameDict, raw: bytes = b"") -> None:
        if frame.get("session") == self.session and "seq" in frame and self.view.waiting:
            return  # of an earlier subscription
        before = (self.view.epoch, self.view.last, self.wrong.total())
        super().take(frame, raw)
        self.frames.clear()
        self.raw.clear()
        if frame.get("session") != self.session:
            return
        self._tally.frames += 1
        self._last.append(_brief(frame))
        if self.wrong.total() > before[2]:
            self._judge_wrong(before)
        self._judge_ends()
        self.view.prune(_KEPT)

    def _judge_wrong(self, before: tuple[str | None, int, int]) -> None:
        (outcome,) = self.wrong
        self.wrong.clear()
        promise = {"gap": "lost", "dropped": "doubled", "mismatch": "mismatch"}[outcome]
        self._tally.breaks(promise, f"{self.name} stood at {before[:2]}; its last frames: {' | '.join(self._last)}")
        if outcome == "mismatch":
            self.view.forget()
        self._again.set()

    def _judge_ends(self) -> None:
        for event in self.after_end:
            self._tally.breaks("after_end", f"{self.name}: {_brief(event)}; its last frames: {' | '.join(self._last)}")
        self.after_end.clear()
        for generation, ends in self.ends.items():
            if ends > 1 and generation not in self._ended_twice:
                self._ended_twice.add(generation)
                self._tally.breaks(
                    "second_end", f"{self.name}: {generation}; its last frames: {' | '.join(self._last)}"
                )

    async def _follow_once(self) -> None:
        self._served = False
        await self.connect()
        assert self._reader is not None
        while not self._reader.done():
            self._again.clear()
            reply = await asyncio.wait_for(await self.begin(**self.view.subscribe()), REPLY_S)
            if reply["type"] == "error":
                await asyncio.sleep(0.3)
                continue
            self._served = True
            again = asyncio.create_task(self._again.wait())
            await asyncio.wait([self._reader, again], return_when=asyncio.FIRST_COMPLETED)
            again.cancel()
        self._reader.result()

    async def _hang_up(self) -> None:
        if self.connection is not None:
            await self.cut()


def _brief(frame: FrameDict) -> str:
    named = {name: frame[name] for name in ("from", "seq", "at", "head", "recovered", "epoch") if name in frame}
    events = frame.get("events", [frame])
    what = [
        f"{event['type']}@{event.get('attempt', '')}:{event.get('index', '')}+{event.get('count', '')}"
        for event in events
    ]
    return f"{frame['type']}{named} {' '.join(what[:6])}"
