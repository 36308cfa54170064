"""`relay tail`: shows a session on the terminal, or as lines of JSON, until Ctrl-C."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import assert_never

import msgspec

from relay.client import (
    Applied,
    Data,
    End,
    Following,
    Item,
    Lost,
    Reader,
    Rebuilt,
    RelayError,
    Restart,
    Status,
    Text,
    connect,
)
from relay.commands.errors import sentence
from relay.commands.terminal import Terminal, WaitNotice
from relay.protocol import events
from relay.protocol.view import SessionView
from relay.protocol.words import Start

FIRST_CONNECT_WITHIN_S = 5.0
_MAX_REMEMBERED = 1000  # answers remembered as shown: more than a view keeps

EXIT_LEFT, EXIT_FAILED = 0, 1


class Tail:
    """`run` returns the exit code; it ends only when the session cannot be followed any more."""

    def __init__(self, url: str, session: str, *, start: Start, as_json: bool, token: str = "") -> None:
        self._url = url
        self._token = token
        self._session = session
        self._start = start
        self._as_json = as_json
        self._screen = Terminal()
        self._waiting = WaitNotice(self._screen)  # to follow

    async def run(self) -> int:
        self._screen.state("connecting")
        async with AsyncExitStack() as stack:
            try:
                opening = connect(
                    self._url, token=self._token, give_up_after_s=FIRST_CONNECT_WITHIN_S, on_status=self._told
                )
                relay = await stack.enter_async_context(opening)
                relay.give_up_after_s = None
                self._waiting.asked()
                following = await stack.enter_async_context(relay.follow(self._session, start=self._start))
                self._waiting.answered()
                self._screen.state("following")
                await self._lines(following) if self._as_json else await self._transcript(following)
            except RelayError as error:
                self._waiting.answered()
                self._screen.line()
                return self._screen.done(EXIT_FAILED, sentence(error))
            except asyncio.CancelledError:  # Ctrl-C
                self._waiting.answered()
                self._screen.done(EXIT_LEFT)
                raise
        return EXIT_LEFT

    async def _lines(self, following: Following) -> None:
        async for change in following:
            if isinstance(change, Status):
                self._screen.state(change.state, change.detail)
            else:
                self._screen.lines("".join(lines(change)))

    async def _transcript(self, following: Following) -> None:
        transcript = TranscriptPrinter(self._screen, following.view, live=self._start == "live")
        async for change in following:
            if isinstance(change, Rebuilt):
                transcript.rebuilding(change.head)
            transcript.look(following.status)

    def _told(self, status: Status) -> None:
        self._waiting.told(status.state, status.detail)


def lines(change: Applied | Rebuilt | Lost) -> list[str]:
    """Each event as JSON with its `seq`; if several seqs came as one change, each event has `from` and `seq`."""
    if isinstance(change, Rebuilt):
        return [_line({"type": "rebuilt", "epoch": change.epoch, "at": change.at})]
    if isinstance(change, Lost):
        return [_line({"type": "lost", "generations": change.generations})]
    span = {"seq": change.seq} if change.first == change.seq else {"from": change.first, "seq": change.seq}
    return [_line({**span, **event}) for event in change.events]


def _line(fields: dict[str, object]) -> str:
    return msgspec.json.encode(fields).decode() + "\n"


class TranscriptPrinter:
    """Questions and answers one after the other, in the order in which they began, however they overlap.

    While one answer is shown, the others wait in the view; nothing of them is lost.
    """

    def __init__(self, screen: Terminal, view: SessionView, *, live: bool) -> None:
        self._screen = screen
        self._view = view
        self._live = live
        self._told: dict[str, None] = {}
        self._current: str | None = None
        self._reader = Reader()
        self._rebuilt_at = 0  # nothing is shown until the view is rebuilt up to there

    def rebuilding(self, head: int) -> None:
        self._rebuilt_at = head

    def look(self, status: Status) -> None:
        """Show what is new. `status`: of the following."""
        if self._view.waiting or self._view.last < self._rebuilt_at:
            self._screen.state(status.state, status.detail)
            return
        if self._rebuilt_at:
            self._rebuilt_at = 0
            self._rebuilt()
        blocked_by = status.state if status.state != "following" else ""
        while (name := self._current or self._next()) is not None:
            interrupted = "interrupted" if name in self._view.interrupted else ""
            if name not in self._view.generations and name not in self._view.missing:
                self._screen.line()
                self._screen.note("the relay has lost this answer")
                self._finished(name)
                continue
            for item in self._reader.news(self._view.generations.get(name), blocked_by or interrupted, status.detail):
                self._show(item)
            if not self._reader.ended:
                return
            self._finished(name)
        self._screen.state(status.state, status.detail)

    def _next(self) -> str | None:
        """Begin with the next answer: its question first."""
        name = next((name for name in self._view.generations if name not in self._told), None)
        if name is not None:
            self._current, self._reader = name, Reader()
            for message in self._view.messages:
                if message["generation"] == name:
                    self._screen.write("".join(f"> {line}\n" for line in message["content"].splitlines()))
        return name

    def _rebuilt(self) -> None:
        """With `live`, do not show what had ended before, just because the log was read again."""
        if self._live:
            for name, shown in self._view.generations.items():
                if shown.end is not None and name != self._current:
                    self._remember(name)
        current = self._current
        if current is not None and current not in self._view.generations and current not in self._view.missing:
            self._finished(current)  # lost with its log

    def _show(self, item: Item) -> None:
        match item:
            case Text(text):
                self._screen.write(text)
            case Restart():
                self._screen.restart()
            case Status(state, detail):
                self._screen.state(state, detail)
            case Data():
                pass  # shown by pages, not by a terminal
            case End(frame):
                self._screen.line()
                if (end := events.end_of(frame)).reason != "complete":
                    self._screen.note(end.why)
            case _:
                assert_never(item)

    def _finished(self, name: str) -> None:
        self._screen.line()
        self._screen.write("\n")
        self._remember(name)
        self._current = None

    def _remember(self, name: str) -> None:
        self._told[name] = None
        while len(self._told) > _MAX_REMEMBERED:
            del self._told[next(iter(self._told))]
