"""The load itself: sessions that ask, each followed by its viewers, and what they measure."""

from __future__ import annotations

import asyncio
import secrets
from typing import NamedTuple

from relay.bench.figures import Tally
from relay.bench.viewer import Viewer
from relay.errors import RelayError
from relay.protocol import events

CONNECT_WITHIN_S = 30.0
ANSWER_WITHIN_S = 120.0
_CONNECTING_AT_ONCE = 64
_PAUSE_AFTER_FAILURE_S = 0.5


class Load(NamedTuple):
    """`answers` per session or, with `seconds`, as many as begin in that time; `viewers` include the one that asks."""

    sessions: int
    viewers: int
    answers: int
    seconds: float | None
    ramp_s: float
    queue: str


class Sessions:
    """`run` it once; `tally` is correct at any moment, even after `run` was cancelled."""

    def __init__(self, load: Load, url: str, token: str = "") -> None:
        self.tally = Tally()
        self._load = load
        self._url = url
        self._token = token
        self._clock = asyncio.get_running_loop().time
        self._began_at: float | None = None
        self._ended_at: float | None = None
        self._connecting = asyncio.Semaphore(_CONNECTING_AT_ONCE)

    def elapsed_s(self) -> float:
        """Time since all were connected; at least a millisecond, so that one can divide by it."""
        if self._began_at is None:
            return 0.001
        return max((self._ended_at or self._clock()) - self._began_at, 0.001)

    async def run(self) -> None:
        """Connect all viewers, then ask. Raises RelayError if the gateway cannot be used."""
        name = f"bench-{secrets.token_hex(4)}"
        rows = [
            [Viewer(self._url, f"{name}-{number}", self.tally, self._token) for _ in range(self._load.viewers)]
            for number in range(self._load.sessions)
        ]
        following: list[asyncio.Task[None]] = []
        try:
            await self._connect_all([viewer for row in rows for viewer in row], following)
            self._began_at = self._clock()
            async with asyncio.TaskGroup() as asking:
                for number, row in enumerate(rows):
                    asking.create_task(self._ask_all(number, row), name=f"session {number}")
        finally:
            self._ended_at = self._clock()
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)

    async def _connect_all(self, viewers: list[Viewer], following: list[asyncio.Task[None]]) -> None:
        refusal: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as connecting:
                for viewer in viewers:
                    connecting.create_task(self._connect(viewer, following), name="connect")
        except* RelayError as refusals:
            refusal = refusals.exceptions[0]  # the others say the same
        if refusal is not None:
            raise refusal

    async def _connect(self, viewer: Viewer, following: list[asyncio.Task[None]]) -> None:
        async with self._connecting:
            following.append(asyncio.create_task(viewer.run(), name="viewer"))
            try:
                await asyncio.wait_for(viewer.ready, CONNECT_WITHIN_S)
            except TimeoutError:
                raise RelayError(f"the gateway at {self._url} cannot be reached") from None

    async def _ask_all(self, number: int, viewers: list[Viewer]) -> None:
        await asyncio.sleep(self._load.ramp_s * number / self._load.sessions)
        asked = 0
        while self._more(asked):
            asked += 1
            if not await self._ask(viewers, f"r{asked}", f"Question {asked} of session {number}"):
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)

    def _more(self, asked: int) -> bool:
        if self._load.seconds is not None:
            return self.elapsed_s() < self._load.seconds
        return asked < self._load.answers

    async def _ask(self, viewers: list[Viewer], request_id: str, content: str) -> bool:
        """Ask one question and wait for its answer on every screen; returns whether it is complete."""
        self.tally.asked += 1
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                failure = await self._answer(viewers, request_id, content)
        except TimeoutError:
            failure = "unanswered"
        if failure is None:
            self.tally.complete += 1
        else:
            self.tally.failures[failure] += 1
        return failure is None

    async def _answer(self, viewers: list[Viewer], request_id: str, content: str) -> str | None:
        """Ask; returns why there is no complete answer, or None."""
        tally, asked_at = self.tally, self._clock()
        reply = await viewers[0].submit(request_id, content, self._load.queue)
        if reply["type"] != "accepted":
            return str(reply["code"])
        tally.accepted.add(self._clock() - asked_at)
        screens = await asyncio.gather(*(viewer.ended(reply["generation"]) for viewer in viewers))
        for shown in screens:
            if shown.first_at is not None:
                tally.first_token.add(shown.first_at - asked_at)
            tally.total.add(shown.ended_at - asked_at)
        end = events.end_of(screens[0].end)
        if end.reason == "complete":
            return None
        return end.error.code if end.error is not None else end.reason
