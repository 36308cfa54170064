"""`relay send`: ask one question and stream the answer into the terminal.

Follows the contract's client rules through protocol/view.py; a cut connection is resumed by cursor, a submit or stop
that was not answered is sent again. stdout gets the answer's text and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from relay.protocol.view import Frame, SessionView
from relay.protocol.words import new_id

FIRST_CONNECT_WITHIN_S = 5.0
RECONNECT_WITHIN_S = 120.0
_BACKOFF_S = (0.1, 3.0)
_MAX_FRAME_BYTES = 32 * 1024 * 1024

EXIT_COMPLETE, EXIT_FAILED, EXIT_STOPPED = 0, 1, 130
_STATES = {"queued": "waiting for a worker", "preparing": "preparing", "thinking": "thinking", "retrying": "retrying"}


class Question:
    """One submit and its answer. `ask` returns the exit code."""

    def __init__(self, url: str, submit: Frame) -> None:
        self._url = url.replace("http", "ws", 1).rstrip("/") + "/v1/ws"
        self._shown_url = url
        self._submit = {"type": "submit", "id": "submit", "request_id": new_id("r"), **submit}
        self._view = SessionView(submit["session"])
        self._generation: str | None = None
        self._stop = asyncio.Event()
        self._accepted = asyncio.Event()
        self._screen = Screen()
        self._seen = False  # whether the gateway was ever reached

    async def ask(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        gave_up_at = loop.time() + FIRST_CONNECT_WITHIN_S
        failures = 0
        while True:
            try:
                async with connect(
                    self._url,
                    subprotocols=[Subprotocol("relay.v1.json")],
                    proxy=None,
                    max_size=_MAX_FRAME_BYTES,
                ) as websocket:
                    failures, gave_up_at = 0, loop.time() + RECONNECT_WITHIN_S
                    self._seen = True
                    code = await self._converse(websocket)
                    if code is not None:
                        return code
            except InvalidURI:
                return self._screen.give_up(f"--url {self._shown_url} is not an address")
            except InvalidHandshake as error:
                if not self._seen or loop.time() >= gave_up_at:  # a proxy may answer while the gateway restarts
                    return self._screen.give_up(f"{self._shown_url} refused the connection: {error}")
            except ConnectionClosed as closed:
                gave_up_at = loop.time() + RECONNECT_WITHIN_S
                if closed.rcvd is not None and 4500 <= closed.rcvd.code < 5000:
                    return self._screen.give_up(f"the gateway closed the connection: {closed.rcvd.reason}")
            except OSError:
                if loop.time() >= gave_up_at:
                    return self._screen.give_up(f"the gateway at {self._shown_url} cannot be reached")
            failures += 1
            self._screen.state("reconnecting" if self._seen else "connecting")
            await asyncio.sleep(random.uniform(0, min(_BACKOFF_S[1], _BACKOFF_S[0] * 2 ** min(failures, 8))))

    def _interrupted(self) -> None:
        """The first Ctrl-C stops the answer, the second leaves."""
        if self._stop.is_set():
            self._screen.leave()
            os._exit(EXIT_STOPPED)
        self._stop.set()
        self._screen.stopping()

    async def _converse(self, websocket: ClientConnection) -> int | None:
        """One connection's worth: the exit code, or None to reconnect."""
        await _send(websocket, self._view.subscribe(start="live"))
        stopping = asyncio.create_task(self._send_stop(websocket), name="stop")
        try:
            async for raw in websocket:
                frame: Frame = msgspec.json.decode(raw)
                code = await self._on_frame(websocket, frame)
                if code is not None:
                    return code
            return None
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)

    async def _on_frame(self, websocket: ClientConnection, frame: Frame) -> int | None:
        outcome = self._view.apply(frame)
        if outcome == "gap":
            await _send(websocket, self._view.subscribe())
        elif outcome == "mismatch":
            self._view.forget()
            await _send(websocket, self._view.subscribe())
        match frame["type"]:
            case "subscribed" if self._generation is None:
                await _send(websocket, self._submit)
            case "subscribed" if not frame["recovered"]:
                self._screen.rebuilt()
            case "accepted" if frame.get("id") == "submit":
                self._generation = frame["generation"]
                self._accepted.set()
            case "error" if frame.get("id") in ("submit", "stop") or not frame.get("id"):
                return await self._on_error(websocket, frame)
        return self._show() if outcome == "applied" else None

    async def _on_error(self, websocket: ClientConnection, frame: Frame) -> int | None:
        if not frame["retryable"]:
            return self._screen.give_up(f"{frame['code']}: {frame['message']}")
        await asyncio.sleep(frame.get("retry_after_s") or 1)
        if frame.get("id") == "submit":
            await _send(websocket, self._submit)
        elif frame.get("id") == "stop":
            await self._send_stop(websocket)
        else:
            await _send(websocket, self._view.subscribe())
        return None

    async def _send_stop(self, websocket: ClientConnection) -> None:
        await self._stop.wait()
        await self._accepted.wait()  # stopped before it was accepted: it is stopped as soon as it is
        session = self._view.session
        await _send(websocket, {"type": "stop", "id": "stop", "session": session, "generation": self._generation})

    def _show(self) -> int | None:
        shown = self._view.generations.get(self._generation or "")
        if shown is None:
            return None
        self._screen.answer(shown.attempt, shown.texts)
        end = shown.end
        if end is None:
            self._screen.state(_STATES.get(shown.state, ""))
            return None
        if end["reason"] == "complete":
            return self._screen.done(EXIT_COMPLETE)
        if end["reason"] == "stopped":
            return self._screen.done(EXIT_STOPPED, "stopped")
        return self._screen.done(EXIT_FAILED, end["error"]["message"])


class Screen:
    """stdout for the text, stderr for everything else; a person at a terminal sees states, a pipe does not."""

    def __init__(self) -> None:
        self._person = sys.stderr.isatty()
        self._attempt = 1
        self._parts = 0  # of the answer's texts that are printed
        self._printed = 0  # characters
        self._state = ""

    def answer(self, attempt: int, texts: list[str]) -> None:
        if attempt > self._attempt:
            self._attempt, self._parts, self._printed = attempt, 0, 0
            self._say("\nrelay: the answer begins again")
        new = "".join(texts[self._parts :])
        if self._parts == 0:
            new = new[self._printed :]
        self._parts = len(texts)
        if new:
            self.state("")
            self._printed += len(new)
            sys.stdout.buffer.write(new.encode())
            sys.stdout.buffer.flush()

    def rebuilt(self) -> None:
        """The texts come again from their beginning; what is printed stays."""
        self._parts = 0

    def state(self, state: str) -> None:
        """A word about what is going on, gone when text comes."""
        if self._person and state != self._state and not (state and self._printed):
            sys.stderr.write(f"\r\x1b[K{state + ' …' if state else ''}")
            sys.stderr.flush()
        self._state = state

    def done(self, code: int, note: str = "") -> int:
        self.state("")
        if sys.stdout.isatty():
            sys.stdout.write("\n")
            sys.stdout.flush()
        if note:
            self._say(f"relay: {note}")
        return code

    def give_up(self, sentence: str) -> int:
        return self.done(EXIT_FAILED, sentence)

    def stopping(self) -> None:
        self._say("\nrelay: stopping; Ctrl-C again leaves")

    def leave(self) -> None:
        self._say("\nrelay: left; the answer goes on without you")

    @staticmethod
    def _say(sentence: str) -> None:
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()


async def _send(websocket: ClientConnection, command: dict[str, Any]) -> None:
    await websocket.send(msgspec.json.encode(command), text=True)
