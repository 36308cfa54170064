"""`relay send`: ask one question and stream the answer into the terminal.

stdout gets the answer's text and nothing else. What the connection goes through is the client's business.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

from relay.client import Answer, Data, End, RelayError, Restart, Status, Text, connect
from relay.protocol.view import Frame
from relay.screen import Screen

FIRST_CONNECT_WITHIN_S = 5.0
RECONNECT_WITHIN_S = 120.0

EXIT_COMPLETE, EXIT_FAILED, EXIT_STOPPED = 0, 1, 130


class Question:
    """One submit and its answer. `ask` returns the exit code."""

    def __init__(self, url: str, submit: Frame) -> None:
        self._url = url
        self._submit = submit
        self._stop = asyncio.Event()
        self._screen = Screen()

    async def ask(self) -> int:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupted)
        self._screen.state("connecting")
        async with AsyncExitStack() as stack:
            try:
                relay = await stack.enter_async_context(connect(self._url, give_up_after_s=FIRST_CONNECT_WITHIN_S))
                relay.give_up_after_s = RECONNECT_WITHIN_S
                answer = await relay.submit(**self._submit)
                stopping = asyncio.create_task(self._stop_when_asked(answer), name="stop")
                stack.push_async_callback(_cancelled, stopping)
                return self._finish(await self._show(answer))
            except RelayError as error:
                return self._screen.done(EXIT_FAILED, str(error))

    async def _show(self, answer: Answer) -> Frame:
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
                    return frame
        raise AssertionError("an answer ends with its End")

    def _finish(self, end: Frame) -> int:
        if end["reason"] == "complete":
            return self._screen.done(EXIT_COMPLETE)
        if end["reason"] == "stopped":
            return self._screen.done(EXIT_STOPPED, "stopped")
        return self._screen.done(EXIT_FAILED, end["error"]["message"])

    def _interrupted(self) -> None:
        """The first Ctrl-C stops the answer, the second leaves."""
        if self._stop.is_set():
            self._screen.say("\nrelay: left; the answer goes on without you")
            os._exit(EXIT_STOPPED)
        self._stop.set()
        self._screen.say("\nrelay: stopping; Ctrl-C again leaves")

    async def _stop_when_asked(self, answer: Answer) -> None:
        """Asked before it was accepted: it is stopped as soon as it is."""
        await self._stop.wait()
        try:
            await answer.stop()
        except RelayError as error:
            self._screen.say(f"relay: {error}")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
