"""A client that trusts nobody: it follows the contract's rules, and counts every frame that should not have come.

On one subscription the server sends everything once and in order. So a frame that the rules would drop is doubled, and
events missing in a gap are lost; if they come after all, they were reordered.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from relay.bench.figures import Tally
from relay.client.address import shown, websocket_address
from relay.errors import RelayError
from relay.protocol.view import FrameDict, SessionView

_MAX_FRAME_BYTES = 32 * 1024 * 1024
_BACKOFF_S = (0.1, 3.0)


@dataclass
class ShownAnswer:
    """One answer on one screen; loop times in seconds."""

    first_at: float | None = None
    last_at: float | None = None
    ended_at: float = 0.0
    end: FrameDict = field(default_factory=dict)  # empty until it came
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Viewer:
    """One session on one screen, over one connection after the other. `run` it until you cancel it."""

    def __init__(self, url: str, session: str, tally: Tally, token: str = "") -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session = session
        self._tally = tally
        self._view = SessionView(session)
        self._shown: dict[str, ShownAnswer] = {}
        self._missing = range(0)  # seqs missing in a gap, until the next subscription
        self._replies: dict[str, asyncio.Future[FrameDict | None]] = {}
        self._connection: ClientConnection | None = None
        self._clock = asyncio.get_running_loop().time
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Follow the session until cancelled. `ready` has a RelayError if the gateway refuses us."""
        try:
            address = websocket_address(self._url)
        except ValueError:
            return self._refused(f"--url {shown(self._url)} is not an address")
        failures = 0
        while True:
            try:
                async with connect(
                    address,
                    subprotocols=[Subprotocol("relay.v1.json")],
                    additional_headers=self._headers,
                    compression=None,
                    proxy=None,
                    max_size=_MAX_FRAME_BYTES,
                    ping_interval=None,
                ) as self._connection:
                    failures = 0
                    await self._send(self._view.subscribe())
                    async for raw in self._connection:
                        await self._take(msgspec.json.decode(raw))
            except ConnectionClosed as closed:
                if closed.rcvd is not None and 4500 <= closed.rcvd.code < 5000:
                    return self._refused(f"the gateway closed the connection: {closed.rcvd.reason}")
            except InvalidURI:  # of a redirect
                return self._refused(f"the gateway at {shown(self._url)} cannot be reached")
            except (InvalidHandshake, OSError) as error:
                if not self.ready.done():
                    return self._refused(f"the gateway at {shown(self._url)} cannot be reached: {error}")
            failures += 1
            self._disconnected()
            await asyncio.sleep(random.uniform(0, min(_BACKOFF_S[1], _BACKOFF_S[0] * 2 ** min(failures, 8))))

    async def submit(self, request_id: str, content: str, queue: str) -> FrameDict:
        """The reply, `accepted` or `error`; sent again on a new connection if the old one broke."""
        command = {"type": "submit", "id": request_id, "session": self._session, "request_id": request_id}
        while True:
            reply: asyncio.Future[FrameDict | None] = asyncio.get_running_loop().create_future()
            self._replies[request_id] = reply
            await self._send({**command, "content": content, "queue": queue})
            frame = await reply
            if frame is not None:
                return frame
            await asyncio.sleep(_BACKOFF_S[0])

    async def ended(self, generation: str) -> ShownAnswer:
        """Wait for the end; returns how the answer went on this screen, and forgets it."""
        shown = self._shown.setdefault(generation, ShownAnswer())
        await shown.ended.wait()
        del self._shown[generation]
        self._view.generations.pop(generation, None)
        return shown

    async def _take(self, frame: FrameDict) -> None:
        reply = self._replies.pop(frame.get("id") or "", None)
        if reply is not None and not reply.done():
            reply.set_result(frame)
        if frame["type"] == "degraded":
            self._tally.degraded += 1
        if frame["type"] == "error":
            await self._on_error(frame, answered=reply is not None)
        before, waiting = self._view.last, self._view.waiting
        outcome = self._view.apply(frame)
        if frame["type"] == "subscribed" and outcome == "applied":
            self._missing = range(0)
            if not self.ready.done():
                self.ready.set_result(None)
        elif "seq" in frame:
            self._judge(frame, outcome, before, waiting)
            await self._go_on(frame, outcome)

    async def _on_error(self, frame: FrameDict, *, answered: bool) -> None:
        self._tally.errors[frame["code"]] += 1
        if answered:
            return  # the submitter decides
        if not frame["retryable"]:
            self._refused(f"{frame['code']}: {frame['message']}")
            return
        await asyncio.sleep(frame.get("retry_after_s") or 1)
        await self._send(self._view.subscribe())

    def _judge(self, frame: FrameDict, outcome: str, before: int, waiting: bool) -> None:
        wrong = self._tally.wrong
        self._tally.frames += 1
        last: int = frame["seq"]
        first: int = frame["from"] if frame["type"] == "catchup" else last
        if waiting:
            late = len(range(max(first, self._missing.start), min(last + 1, self._missing.stop)))
            wrong["reordered"] += late
            wrong["lost"] -= late
        elif outcome == "gap":
            self._missing = range(before + 1, first)
            wrong["lost"] += len(self._missing)
        elif outcome == "dropped":
            wrong["doubled"] += last + 1 - first
        elif outcome == "mismatch":
            wrong["wrong_text"] += 1

    async def _go_on(self, frame: FrameDict, outcome: str) -> None:
        if outcome in ("applied", "mismatch"):
            for event in frame["events"] if frame["type"] == "catchup" else [frame]:
                self._note(event)
        if outcome == "mismatch":
            self._view.forget()
        if outcome in ("gap", "mismatch"):
            await self._send(self._view.subscribe())

    def _note(self, event: FrameDict) -> None:
        if event["type"] not in ("tokens", "end"):
            return
        shown = self._shown.setdefault(event["generation"], ShownAnswer())
        now = self._clock()
        if event["type"] == "end":
            shown.end, shown.ended_at = event, now
            shown.ended.set()
            return
        self._tally.tokens += event["count"]
        if shown.last_at is not None:
            self._tally.gap.add(now - shown.last_at)
        shown.first_at, shown.last_at = shown.first_at or now, now

    async def _send(self, command: dict[str, Any]) -> None:
        """A command that does not arrive is sent again after the next connect."""
        if self._connection is None:
            self._disconnected()
            return
        try:
            await self._connection.send(msgspec.json.encode(command), text=True)
        except ConnectionClosed:
            self._disconnected()

    def _disconnected(self) -> None:
        if self._connection is not None and self.ready.done():
            self._tally.reconnects += 1
        self._connection = None
        for reply in self._replies.values():
            if not reply.done():
                reply.set_result(None)
        self._replies.clear()

    def _refused(self, sentence: str) -> None:
        self._disconnected()
        if not self.ready.done():
            self.ready.set_exception(RelayError(sentence))
            self.ready.exception()  # mark it as retrieved: once one viewer is refused, nobody awaits the others
