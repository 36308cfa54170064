"""`relay send`: ask one question and stream the answer into the terminal.

stdout gets the answer's text and nothing else. The client deals with lost connections.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from typing import NoReturn, assert_never

from relay.client import (
    Answer,
    Data,
    End,
    Relay,
    RelayError,
    RequestRefused,
    Restart,
    SessionDeleted,
    Status,
    Text,
    connect,
)
from relay.commands.errors import sentence
from relay.commands.terminal import Terminal, WaitNotice
from relay.protocol import events
from relay.protocol.view import FrameDict

FIRST_CONNECT_WITHIN_S = 5.0
RECONNECT_WITHIN_S = 120.0
_LOOK_WITHIN_S = 5.0  # the time that a gateway may take to answer

EXIT_COMPLETE, EXIT_FAILED, EXIT_STOPPED = 0, 1, 130


class SendCommand:
    """One submit and its answer. `ask` returns the exit code."""

    def __init__(self, url: str, submit: FrameDict, *, token: str = "") -> None:
        self._url = url
        self._token = token
        self._submit = submit
        self._stop = asyncio.Event()
        self._over = False  # it has ended: nothing is left to stop
        self._screen = Terminal()
        self._waiting = WaitNotice(self._screen)  # to be accepted

    async def ask(self) -> int:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupted)
        self._screen.state("connecting")
        async with AsyncExitStack() as stack:
            try:
                opening = connect(
                    self._url, token=self._token, give_up_after_s=FIRST_CONNECT_WITHIN_S, on_status=self._told
                )
                relay = await stack.enter_async_context(opening)
                relay.give_up_after_s = RECONNECT_WITHIN_S
                self._waiting.asked()
                answer = await relay.submit(**self._submit)
                self._waiting.answered()
                if answer.ignored:
                    self._screen.note(f"not understood here: {', '.join(answer.ignored)}")
                stopping = asyncio.create_task(self._stop_when_asked(answer), name="stop")
                stack.push_async_callback(_cancelled, stopping)
                end = await self._show(answer)
                self._over = True
                return await self._finish(relay, answer, end)
            except RelayError as error:
                self._waiting.answered()
                self._over = True
                return self._screen.done(EXIT_FAILED, sentence(error))

    async def _show(self, answer: Answer) -> events.End:
        async for item in answer:
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
                    return events.end_of(frame)
                case _:
                    assert_never(item)
        raise AssertionError("an answer ends with its End")

    async def _finish(self, relay: Relay, answer: Answer, end: events.End) -> int:
        if end.reason == "complete":
            return self._screen.done(EXIT_COMPLETE)
        if end.reason == "stopped":
            if not self._stop.is_set() and await _is_deleted(relay, answer):
                return self._screen.done(EXIT_FAILED, str(SessionDeleted(answer.session)))
            return self._screen.done(EXIT_STOPPED, "stopped")
        unserved = end.error is not None and end.error.code == "no_worker"
        queue = f" No worker served the queue {self._submit.get('queue')}." if unserved else ""
        return self._screen.done(EXIT_FAILED, f"{end.why}{queue}")

    def _told(self, status: Status) -> None:
        self._waiting.told(status.state, status.detail)

    def _interrupted(self) -> None:
        """The first Ctrl-C stops the answer, the second leaves. Before there is an answer, the first one leaves."""
        if not self._waiting.over:
            self._leave("left before the question was accepted")
        elif self._over:
            self._leave("left")
        elif self._stop.is_set():
            self._leave("left before the stop was confirmed; perhaps the answer goes on without you")
        else:
            self._stop.set()
            self._screen.interrupted("stopping; Ctrl-C again leaves")

    def _leave(self, sentence: str) -> NoReturn:
        """Exit at once, even if a connection or a name server is still waited for."""
        self._screen.interrupted(sentence)
        os._exit(EXIT_STOPPED)

    async def _stop_when_asked(self, answer: Answer) -> None:
        await self._stop.wait()
        try:
            await answer.stop()
            self._over = True
        except RelayError as error:
            self._screen.note(str(error))


async def _is_deleted(relay: Relay, answer: Answer) -> bool:
    """A deletion ends a running answer as a stop does; only afterwards the gateway does not know it any more."""
    try:
        async with asyncio.timeout(_LOOK_WITHIN_S):
            await relay.stop(answer.session, answer.generation)
    except RequestRefused as error:
        return error.code == "not_found"
    except (RelayError, TimeoutError):
        pass  # no way to know
    return False


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
