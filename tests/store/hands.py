"""Workers' hands on one answer, and what the log may hold of it whatever they do: written down apart from the log."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal

from relay.protocol import events
from relay.store.session.replies import Claim, WriteOutcome
from relay.store.session.session_log import Append, SessionLog
from relay_workers.writing.batching import Batch, Totals
from relay_workers.writing.writer import ControlEvent
from tests.store.in_memory import LEASE_MS, Clock

Fate = Literal["ok", "lost", "fails", "late"]
Call = Callable[[], Awaitable[WriteOutcome]]


class ExpectedAnswer:
    """One generation as it has to be. `holders`: everybody who ever claimed it; only the last may write."""

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.attempt = 1
        self.tokens: list[str] = []
        self.controls: list[bytes] = []
        self.ended: str | None = None
        self.ender: WorkerModel | None = None
        self.leased_until_ms = 0
        self.holders: list[WorkerModel] = []

    @property
    def text(self) -> str:
        return "".join(self.tokens)


class WorkerModel:
    """One claim's writer, as delivery.py is one: one write in flight, numbered after the last that was acknowledged.

    `left`: writes not acknowledged. `gone`: it was refused, and has let go.
    """

    def __init__(self, log: SessionLog, clock: Clock, answer: ExpectedAnswer, claim: Claim) -> None:
        self.left: deque[Batch | ControlEvent] = deque()
        self.gone = False
        self._log = log
        self._clock = clock
        self._answer = answer
        self._fence = claim.fence
        self._attempt = claim.attempt
        self._said: list[str] = []
        self._totals = Totals()
        self._done = 0
        self._noted = 0
        answer.holders.append(self)
        answer.leased_until_ms = clock.now_ms + LEASE_MS
        if claim.shown:
            self.restarts()

    @property
    def rightful(self) -> bool:
        return self._answer.holders[-1] is self

    # What it wants to write

    def says(self, texts: list[str]) -> None:
        before, index = self._totals, len(self._said)
        self._totals = before.extended("tokens", "".join(texts))
        self._said = [*self._said, *texts]
        self.left.append(Batch("tokens", self._attempt, index, texts, before, self._totals))

    def notes(self) -> None:
        self._noted += 1
        note = f"{self._noted} of {self._fence}"
        body = events.encode(events.Data(self._answer.generation, self._attempt, "note", note))
        self.left.append(ControlEvent("data", body))

    def restarts(self) -> None:
        """Void what waits, but not the write in hand: that may have landed."""
        while len(self.left) > 1:
            self.left.pop()
        self._attempt += 1
        self._said, self._totals = [], Totals()
        event = events.Restart(self._answer.generation, self._attempt, "provider_failed")
        self.left.append(ControlEvent("restart", events.encode(event), attempt=self._attempt))

    def divides(self, *, singles: bool) -> None:
        """The write in hand is in doubt: from here on it goes in parts."""
        if not self.left or not isinstance(head := self.left[0], Batch) or len(head.texts) == 1:
            return
        self.left.popleft()
        parts = list(head.singles()) if singles else list(head.split(len(head.texts) // 2))
        self.left.extendleft(reversed(parts))

    # How it goes

    async def tries(self, fate: Fate) -> Call | None:
        """One try of the write in hand; the call, if it is still on its way or may come a second time."""
        if self.gone or not self.left:
            return None
        write, number = self.left[0], self._done + 1

        async def call() -> WriteOutcome:
            outcome = await self._send(write, number)
            self._note(write, outcome)
            return outcome

        if fate in ("ok", "lost"):
            outcome = await call()
            if fate == "ok":
                self._acknowledged(write, outcome)
        return None if fate == "fails" else call

    async def ends(self, fate: Fate) -> Call | None:
        if self.gone or self.left:
            return None
        said = len(self._said)

        async def call() -> WriteOutcome:
            answer = self._answer
            outcome = await self._log.end("s", answer.generation, self._fence, "complete", b"{}", said, "a")
            if outcome.what == "written":
                assert self.rightful
                assert answer.ended is None
                answer.ended, answer.ender = "complete", self
            elif outcome.what == "repeated":
                assert answer.ender is self
            else:
                self._refused(outcome)
            return outcome

        if fate in ("ok", "lost"):
            outcome = await call()
            self.gone = self.gone or fate == "ok"
            assert fate == "lost" or outcome.what != "behind"
        return None if fate == "fails" else call

    async def _send(self, write: Batch | ControlEvent, number: int) -> WriteOutcome:
        generation = self._answer.generation
        if isinstance(write, ControlEvent):
            control = Append(write.kind, write.body, index=write.attempt)
            return await self._log.append("s", generation, self._fence, number, LEASE_MS, control)
        count, text = len(write.texts), write.text
        event = events.Tokens(generation, write.attempt, write.index, count, text)
        batch = Append("tokens", events.encode(event), write.index, count, text, *write.after)
        return await self._log.append("s", generation, self._fence, number, LEASE_MS, batch)

    def _note(self, write: Batch | ControlEvent, outcome: WriteOutcome) -> None:
        """What a write has come to, whoever still waits for it, is what it may come to."""
        answer = self._answer
        if outcome.what == "repeated":
            return
        if outcome.what != "written":
            self._refused(outcome)
            return
        assert self.rightful, "written under a fence that another claim has raised"
        assert answer.ended is None, "written after the end"
        answer.leased_until_ms = self._clock.now_ms + LEASE_MS
        if isinstance(write, ControlEvent):
            assert write.body not in answer.controls, "written twice"
            answer.controls.append(write.body)
            if write.kind == "restart":
                assert write.attempt > answer.attempt
                answer.attempt, answer.tokens = write.attempt, []
            return
        assert (write.attempt, write.index) == (answer.attempt, len(answer.tokens)), "doubled, or not in order"
        answer.tokens += write.texts
        assert write.after.crc32 == zlib.crc32(answer.text.encode())

    def _refused(self, outcome: WriteOutcome) -> None:
        if outcome.what == "stale":
            assert not self.rightful
        elif outcome.what == "ended":
            assert self._answer.ended is not None
        else:
            assert outcome.what == "behind", outcome

    def _acknowledged(self, write: Batch | ControlEvent, outcome: WriteOutcome) -> None:
        if outcome.what not in ("written", "repeated"):
            assert outcome.what in ("stale", "ended"), f"{outcome} to the write in hand, though nothing was lost"
            self.gone = True
            return
        if self.rightful and isinstance(write, Batch) and write.attempt == self._answer.attempt:
            assert self._answer.tokens[write.index : write.index + len(write.texts)] == write.texts
        self._done += 1
        self.left.popleft()
