"""The answer: asks one provider after the other until one has finished it, and hands on what they say.

No token waits for Redis in here; only a call does, where the lease is in doubt. Whoever cancels `ask` closes the
provider's stream.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from relay import metrics
from relay.logging import Logger
from relay.settings import Settings
from workers.batching import Kind
from workers.failover import Course, Rules
from workers.flushing import Diverged, Flusher
from workers.lease import Lease
from workers.lineup import Seat
from workers.mending import Mender
from workers.providers.base import (
    Data,
    Finished,
    Mark,
    Part,
    Prompt,
    ProviderError,
    Reasoning,
    Text,
    Whole,
    describe,
)
from workers.upstream import Upstream

_ARRIVALS = 4096  # tokens whose time is remembered: more cannot be in flight when an answer is stopped

CANCEL_S = 10.0  # how long a job waits for its provider to hear that nobody wants the rest


class TooLong(Exception):
    """The answer has more than `max_answer_bytes`."""


class Answer:
    """One generation's; `ask` it once. `seat`: who was asked last. `first_token_s`: after `claimed_s`.

    `upstream`: a call of a worker that is gone, to go on with. `lease`: without it nobody is asked.
    """

    def __init__(
        self,
        candidates: list[Seat],
        flusher: Flusher,
        settings: Settings,
        *,
        upstream: Upstream | None,
        claimed_s: float,
        lease: Lease,
        log: Logger,
    ) -> None:
        self.seat = candidates[0]
        self.first_token_s: float | None = None
        self._claimed_s = claimed_s
        self._lease = lease
        self._course = Course(candidates, _rules(settings), claimed_s)
        self._flusher = flusher
        self._settings = settings
        self._log = log
        self._bytes = 0  # of the attempt
        self._arrivals: deque[float] = deque(maxlen=_ARRIVALS)
        self._upstream = upstream  # a call that goes on by itself at its provider
        self._cancelling: list[asyncio.Task[None]] = []

    async def ask(self, prompt: Callable[[], Awaitable[Prompt]]) -> Finished:
        """Raises the last provider's ProviderError; TooLong; Overflow, where what was said cannot wait for Redis."""
        if self._upstream is not None:
            if (finished := await self._resume(self._upstream)) is not None:
                return finished
            if self._flusher.shown:
                self._restart("worker_lost")
        question = await prompt()
        self._flusher.status("thinking")
        self.seat = self._course.first(time.monotonic())
        while True:
            try:
                return await self._call(self.seat.provider.stream(question))
            except ProviderError as error:
                self.cancel()
                await self._go_on(error)

    @property
    def mark(self) -> str:
        """By which another worker could go on with this call; empty where it could not."""
        return self._upstream.told(self._flusher.attempt) if self._upstream is not None else ""

    def cancel(self) -> None:
        """Nobody wants the rest of this call. Where closing its stream is not enough, its provider is told."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            self._cancelling.append(asyncio.create_task(self._cancel(upstream), name="cancel upstream"))

    async def settle(self) -> None:
        """Until every provider that was to be told has been, or has not answered in time."""
        await asyncio.gather(*self._cancelling)

    async def aclose(self) -> None:
        """Nothing of it goes on, told or not."""
        for task in self._cancelling:
            task.cancel()
        await asyncio.gather(*self._cancelling, return_exceptions=True)

    async def _resume(self, upstream: Upstream) -> Finished | None:
        """Go on where a worker that is gone left off; None: that cannot be done, and the answer is asked for anew."""
        self.seat = upstream.seat
        try:
            finished = await self._call(upstream.provider.resume(upstream.mark))
            self._log.info("resumed", provider=self.seat.name)
            return finished
        except (ProviderError, Diverged) as error:
            metrics.resumes_failed.inc()
            self._log.warning("resume_failed", provider=self.seat.name, **describe(error))
            self.cancel()
            return None

    async def _cancel(self, upstream: Upstream) -> None:
        """The answer has ended or goes on elsewhere: what fails in here costs it nothing."""
        try:
            async with asyncio.timeout(CANCEL_S):
                await upstream.provider.cancel(upstream.mark)
        except (ProviderError, TimeoutError) as error:
            self._log.warning("cancel_failed", provider=upstream.seat.name, **describe(error))
        except Exception:
            metrics.bugs.labels("cancel").inc()
            self._log.exception("cancel_failed", provider=upstream.seat.name)

    def tokens_since(self, at_s: float) -> int:
        """How many tokens have come after this moment of `time.monotonic`."""
        return sum(1 for arrived_s in self._arrivals if arrived_s > at_s)

    async def _go_on(self, error: ProviderError) -> None:
        """Turn to whoever is to be asked next; raises the error where there is nobody."""
        shown = self._flusher.shown
        step = self._course.after(self.seat, error, time.monotonic(), shown=shown)
        if step is None:
            raise error
        moment = "midway" if shown else "again" if step.seat is self.seat else "first_token"
        metrics.failovers.labels(self.seat.name, moment).inc()
        self._log.warning(
            "failover", provider=self.seat.name, to=step.seat.name, moment=moment, pause_s=round(step.pause_s, 3),
            code=error.code, status=error.status, **describe(error),
        )  # fmt: skip
        if shown:
            self._restart("provider_failed")
        else:
            self._flusher.status("retrying")
        self.seat = step.seat
        await asyncio.sleep(step.pause_s)

    def _restart(self, reason: str) -> None:
        self._flusher.restart(reason)
        self._bytes = 0

    async def _call(self, stream: AsyncGenerator[Part, None]) -> Finished:
        """One call of one provider, and what it says of that provider's health."""
        await self._lease.held()
        name, breaker = self.seat.name, self.seat.breaker
        breaker.begin(time.monotonic())
        outcome = "abandoned"
        try:
            finished = await self._read(stream)
            outcome = "complete"
            breaker.succeeded()
            return finished
        except ProviderError as error:
            outcome = error.code
            if error.is_sick and self._lease.is_held:  # else we were frozen, and not the provider
                opened = breaker.opened
                breaker.failed(time.monotonic(), error.retry_after_s)
                if breaker.opened > opened:
                    metrics.breaker_opened.labels(name).inc()
                    self._log.warning("breaker_opened", provider=name, code=error.code, status=error.status)
            raise
        finally:
            metrics.provider_calls.labels(name, outcome).inc()

    async def _read(self, stream: AsyncGenerator[Part, None]) -> Finished:
        """The deadline moves with tokens, not with bytes: pings and comments are no progress."""
        settings = self._settings
        menders: dict[Kind, Mender] = {"tokens": Mender(), "reasoning": Mender()}
        own = self.seat.provider.first_token_s
        deadline_s: float | None = time.monotonic() + (settings.first_token_timeout_s if own is None else own)
        async with aclosing(stream) as parts:
            while True:
                part = await _next(parts, deadline_s)
                if isinstance(part, Finished):
                    for kind, mender in menders.items():
                        self._tokens(kind, mender.flush())
                    if self._flusher.behind:
                        raise Diverged("less text")
                    self._upstream = None  # it has ended there, too
                    return part
                if isinstance(part, Whole):
                    deadline_s = None  # the tail's is the provider's, and a whole answer must not fail for its usage
                elif self._hand_on(part, menders):
                    deadline_s = time.monotonic() + settings.token_timeout_s
                if self._flusher.due() or not self._flusher.waits:
                    # Parts that arrived together come without a pause: let the flusher have its turn, and the deadline.
                    await _turn(deadline_s)

    def _hand_on(self, part: Text | Reasoning | Data | Mark, menders: dict[Kind, Mender]) -> bool:
        """Whether there was anything in it."""
        match part:
            case Data(name=name, value=value):
                self._room_for(self._flusher.data(name, value))
                return True
            case Text(text=text):
                return self._tokens("tokens", menders["tokens"].feed(text))
            case Reasoning(text=text):
                return self._tokens("reasoning", menders["reasoning"].feed(text))
            case Mark(mark=mark):
                self._upstream = Upstream.of(self.seat, mark)
                self._lease.renew_now()
                return False

    def _tokens(self, kind: Kind, tokens: list[str]) -> bool:
        if kind == "reasoning" and not self._settings.reasoning:
            return bool(tokens)  # progress, though it is shown to nobody: a model that thinks is no silent one
        for token in tokens:
            self._room_for(len(token.encode()))
            self._flusher.token(kind, token)
        if tokens:
            now_s = time.monotonic()
            self._arrivals.extend([now_s] * len(tokens))
            if self.first_token_s is None:
                self.first_token_s = now_s - self._claimed_s
                metrics.first_token_s.observe(self.first_token_s)
        return bool(tokens)

    def _room_for(self, own_bytes: int) -> None:
        self._bytes += own_bytes
        if self._bytes > self._settings.max_answer_bytes:
            raise TooLong


async def _next(parts: AsyncGenerator[Part, None], deadline_s: float | None) -> Part:
    try:
        async with asyncio.timeout_at(deadline_s):
            return await anext(parts)
    except TimeoutError:
        raise _late() from None
    except StopAsyncIteration:
        raise ProviderError("truncated", "the stream ended without a finish", retryable=True) from None


async def _turn(deadline_s: float | None) -> None:
    """Let everybody else go on for a moment. Who never waits is never interrupted: hence the deadline."""
    await asyncio.sleep(0)
    if deadline_s is not None and time.monotonic() > deadline_s:
        raise _late()


def _late() -> ProviderError:
    return ProviderError("provider_timeout", "no token in time", retryable=True)


def _rules(settings: Settings) -> Rules:
    return Rules(
        settings.provider_retries,
        settings.provider_retry_ms / 1000,
        settings.first_token_timeout_s,
        settings.failover == "restart",
    )
