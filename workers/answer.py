"""The answer: asks one provider after the other until one has finished it, and hands on what they say.

Nothing in here waits for Redis. Whoever cancels `ask` closes the provider's stream.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

from relay import metrics
from relay.logging import Logger
from relay.settings import Settings
from workers.batching import Kind
from workers.failover import Course, Rules
from workers.flushing import Flusher
from workers.lineup import Seat
from workers.mending import Mender
from workers.providers.base import Data, Finished, Mark, Part, Prompt, ProviderError, Reasoning, Text, describe

_ARRIVALS = 4096  # tokens whose time is remembered: more cannot be in flight when an answer is stopped


class TooLong(Exception):
    """The answer has more than `max_answer_bytes`."""


class Answer:
    """One generation's; `ask` it once. `seat`: who was asked last. `first_token_s`: after `claimed_s`."""

    def __init__(
        self, candidates: list[Seat], flusher: Flusher, settings: Settings, claimed_s: float, log: Logger
    ) -> None:
        self.seat = candidates[0]
        self.first_token_s: float | None = None
        self._claimed_s = claimed_s
        self._course = Course(candidates, _rules(settings), claimed_s)
        self._flusher = flusher
        self._settings = settings
        self._log = log
        self._bytes = 0  # of the attempt
        self._arrivals: deque[float] = deque(maxlen=_ARRIVALS)

    async def ask(self, prompt: Prompt) -> Finished:
        """Raises the last provider's ProviderError; TooLong; Overflow, where what was said cannot wait for Redis."""
        self._flusher.status("thinking")
        self.seat = self._course.first(time.monotonic())
        while True:
            try:
                return await self._call(prompt)
            except ProviderError as error:
                await self._go_on(error)

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
            self._flusher.restart("provider_failed")
            self._bytes = 0
        else:
            self._flusher.status("retrying")
        self.seat = step.seat
        await asyncio.sleep(step.pause_s)

    async def _call(self, prompt: Prompt) -> Finished:
        """One call of one provider, and what it says of that provider's health."""
        name, breaker = self.seat.name, self.seat.breaker
        breaker.begin(time.monotonic())
        outcome = "abandoned"
        try:
            finished = await self._read(prompt)
            outcome = "complete"
            breaker.succeeded()
            return finished
        except ProviderError as error:
            outcome = error.code
            if error.is_sick:
                opened = breaker.opened
                breaker.failed(time.monotonic(), error.retry_after_s)
                if breaker.opened > opened:
                    metrics.breaker_opened.labels(name).inc()
                    self._log.warning("breaker_opened", provider=name, code=error.code, status=error.status)
            raise
        finally:
            metrics.provider_calls.labels(name, outcome).inc()

    async def _read(self, prompt: Prompt) -> Finished:
        """The deadline moves with tokens, not with bytes: pings and comments are no progress."""
        settings = self._settings
        menders: dict[Kind, Mender] = {"tokens": Mender(), "reasoning": Mender()}
        own = self.seat.provider.first_token_s
        deadline_s = time.monotonic() + (settings.first_token_timeout_s if own is None else own)
        async with aclosing(self.seat.provider.stream(prompt)) as parts:
            while True:
                part = await _next(parts, deadline_s)
                if isinstance(part, Finished):
                    for kind, mender in menders.items():
                        self._tokens(kind, mender.flush())
                    return part
                if self._hand_on(part, menders):
                    deadline_s = time.monotonic() + settings.token_timeout_s
                    if self._flusher.due():
                        # Deltas that arrived together come without a pause: let the flusher have its turn.
                        await asyncio.sleep(0)

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
            case Mark():
                return False

    def _tokens(self, kind: Kind, tokens: list[str]) -> bool:
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


async def _next(parts: AsyncGenerator[Part, None], deadline_s: float) -> Part:
    try:
        async with asyncio.timeout_at(deadline_s):
            return await anext(parts)
    except TimeoutError:
        raise ProviderError("provider_timeout", "no token in time", retryable=True) from None
    except StopAsyncIteration:
        raise ProviderError("truncated", "the stream ended without a finish", retryable=True) from None


def _rules(settings: Settings) -> Rules:
    return Rules(
        settings.provider_retries,
        settings.provider_retry_ms / 1000,
        settings.first_token_timeout_s,
        settings.failover == "restart",
    )
