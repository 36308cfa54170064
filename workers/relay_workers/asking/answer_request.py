"""The answer: asks one provider after the other until one has finished it, and hands on what they say.

No token waits for Redis in here; only a call does, where the lease is in doubt. Whoever cancels `ask` closes the
provider's stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from relay import metrics, timeouts
from relay.logging import Logger
from relay_workers.asking.background_call import Upstream
from relay_workers.asking.call import Call, CallLimits
from relay_workers.asking.failover import Course, Rules
from relay_workers.asking.provider_pool import Seat
from relay_workers.lease import Lease
from relay_workers.providers.base import Finished, Part, Prompt, ProviderError, describe
from relay_workers.writing.arrivals import Arrivals
from relay_workers.writing.flusher import Diverged, Flusher

CANCEL_S = 10.0  # how long a job waits for its provider to hear that nobody wants the rest


class Answer:
    """One generation's; `ask` it once. `seat`: who was asked last.

    `upstream`: a call of a worker that is gone, to go on with. `lease`: without it nobody is asked.
    """

    def __init__(
        self,
        candidates: list[Seat],
        flusher: Flusher,
        rules: Rules,
        limits: CallLimits,
        arrivals: Arrivals,
        *,
        upstream: Upstream | None,
        lease: Lease,
        log: Logger,
    ) -> None:
        self.seat = candidates[0]
        self._lease = lease
        self._course = Course(candidates, rules, arrivals.claimed_s)
        self._flusher = flusher
        self._limits = limits
        self._log = log
        self._arrivals = arrivals
        self._upstream = upstream  # a call that goes on by itself at its provider
        self._cancelling: list[asyncio.Task[None]] = []

    async def ask(self, prompt: Callable[[], Awaitable[Prompt]]) -> Finished:
        """Raises the last provider's ProviderError; TooLong; Overflow, where what was said cannot wait for Redis."""
        if self._upstream is not None:
            if (finished := await self._resume(self._upstream)) is not None:
                return finished
            if self._flusher.shown:
                self._flusher.restart("worker_lost")
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
        upstream = self._upstream  # once: the lifeline's thread asks, too
        return upstream.told(self._flusher.attempt) if upstream is not None else ""

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
            async with timeouts.timeout(CANCEL_S):
                await upstream.provider.cancel(upstream.mark)
        except (ProviderError, TimeoutError) as error:
            self._log.warning("cancel_failed", provider=upstream.seat.name, **describe(error))
        except Exception:
            metrics.bugs.labels("cancel").inc()
            self._log.exception("cancel_failed", provider=upstream.seat.name)

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
        else:
            self._flusher.status("retrying")
        self.seat = step.seat
        await asyncio.sleep(step.pause_s)

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
        seat = self.seat
        finished = await Call(
            stream,
            self._flusher,
            self._limits,
            self._arrivals,
            first_token_s=seat.provider.first_token_s,
            marked=lambda mark: self._mark(Upstream.of(seat, mark)),
        ).read()
        self._upstream = None  # it has ended there, too
        return finished

    def _mark(self, upstream: Upstream | None) -> None:
        self._upstream = upstream
        self._lease.renew_now()
