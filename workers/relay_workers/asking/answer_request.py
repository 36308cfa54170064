"""The answer request: asks one provider after the other until one finishes the answer, and passes on what they say.

No token waits for Redis in here; only a call does, if the lease may have run out. Cancelling `ask` closes the
provider's stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from relay import metrics, timeouts
from relay.logging import Logger
from relay_workers.asking.background_call import BackgroundCall
from relay_workers.asking.call import CallLimits, ProviderCall
from relay_workers.asking.failover import FailoverPlan, FailoverRules
from relay_workers.asking.provider_pool import ProviderSlot
from relay_workers.lease import Lease
from relay_workers.providers.base import Finished, Part, Prompt, ProviderError, describe
from relay_workers.providers.endpoint import Remote
from relay_workers.writing.arrivals import Arrivals
from relay_workers.writing.flusher import Diverged, Flusher

CANCEL_S = 10.0  # how long a job waits while its provider is told to stop


class AnswerRequest:
    """The request for one generation; call `ask` once. `slot`: the provider that was asked last.

    `background_call`: a lost worker's call to resume. `lease`: no provider is asked unless it is held.
    """

    def __init__(
        self,
        candidates: list[ProviderSlot],
        flusher: Flusher,
        rules: FailoverRules,
        limits: CallLimits,
        arrivals: Arrivals,
        *,
        background_call: BackgroundCall | None,
        lease: Lease,
        log: Logger,
    ) -> None:
        self.slot = candidates[0]
        self._lease = lease
        self._plan = FailoverPlan(candidates, rules, arrivals.claimed_s)
        self._flusher = flusher
        self._limits = limits
        self._logger = log
        self._arrivals = arrivals
        self._background_call = background_call
        self._cancelling: list[asyncio.Task[None]] = []

    async def ask(self, prompt: Callable[[], Awaitable[Prompt]]) -> Finished:
        """Return how the model finished. Raises the last provider's ProviderError; TooLong; Overflow, if the text is
        too much to wait for Redis.
        """
        if self._background_call is not None:
            if (finished := await self._resume(self._background_call)) is not None:
                return finished
            if self._flusher.shown:
                self._flusher.restart("worker_lost")
        question = await prompt()
        self._flusher.status("thinking")
        self.slot = self._plan.first(time.monotonic())
        while True:
            try:
                return await self._call(self.slot.provider.stream(self.slot.prompt(question)))
            except ProviderError as error:
                self.cancel()
                await self._fail_over(error)

    @property
    def mark(self) -> str:
        """The resume handle with which another worker could go on with this call; empty if it could not."""
        background_call = self._background_call  # read once: the lease thread calls this, too
        return background_call.encoded(self._flusher.attempt) if background_call is not None else ""

    def cancel(self) -> None:
        """The rest of this call is not wanted. If closing its stream is not enough, tell its provider."""
        background_call, self._background_call = self._background_call, None
        if background_call is not None:
            self._cancelling.append(asyncio.create_task(self._cancel(background_call), name="cancel upstream"))

    async def settle(self) -> None:
        """Wait until every provider that had to be told has answered, or has not done so in time."""
        await asyncio.gather(*self._cancelling)

    async def aclose(self) -> None:
        """End everything that is still running, whether the providers were told or not."""
        for task in self._cancelling:
            task.cancel()
        await asyncio.gather(*self._cancelling, return_exceptions=True)

    async def _resume(self, background_call: BackgroundCall) -> Finished | None:
        """Go on where a lost worker stopped. None: that cannot be done, so the question must be asked again."""
        self.slot = background_call.seat
        try:
            finished = await self._call(background_call.provider.resume(background_call.handle))
            self._logger.info("resumed", provider=self.slot.name)
            return finished
        except (ProviderError, Diverged) as error:
            metrics.resumes_failed.inc()
            self._logger.warning("resume_failed", provider=self.slot.name, **describe(error))
            self.cancel()
            return None

    async def _cancel(self, background_call: BackgroundCall) -> None:
        """The answer has ended or goes on elsewhere: a failure in here does not matter to it."""
        try:
            async with timeouts.timeout(CANCEL_S):
                await background_call.provider.cancel(background_call.handle)
        except (ProviderError, TimeoutError) as error:
            self._logger.warning("cancel_failed", provider=background_call.seat.name, **describe(error))
        except Exception:
            metrics.bugs.labels("cancel").inc()
            self._logger.exception("cancel_failed", provider=background_call.seat.name)

    async def _fail_over(self, error: ProviderError) -> None:
        """Move to the provider to ask next; raises the error if there is none."""
        shown = self._flusher.shown
        step = self._plan.after(self.slot, error, time.monotonic(), shown=shown)
        if step is None:
            raise error
        moment = "midway" if shown else "again" if step.seat is self.slot else "first_token"
        metrics.failovers.labels(self.slot.name, moment).inc()
        self._logger.warning(
            "failover", provider=self.slot.name, to=step.seat.name, moment=moment, pause_s=round(step.pause_s, 3),
            **describe(error),
        )  # fmt: skip
        if shown:
            self._flusher.restart("provider_failed")
        else:
            self._flusher.status("retrying")
        self.slot = step.seat
        await asyncio.sleep(step.pause_s)

    async def _call(self, stream: AsyncGenerator[Part, None]) -> Finished:
        """Make one call to one provider, and report to its breaker how it went."""
        await self._lease.held()
        name, breaker = self.slot.name, self.slot.breaker
        breaker.begin(time.monotonic())
        outcome = "abandoned"
        try:
            finished = await self._read(stream)
            outcome = "complete"
            breaker.succeeded()
            return finished
        except ProviderError as error:
            outcome = error.code
            self._explain(error)
            if error.is_sick and self._lease.is_held:  # otherwise this worker was frozen, not the provider
                opened = breaker.opened
                breaker.failed(time.monotonic(), error.retry_after_s)
                if breaker.opened > opened:
                    metrics.breaker_opened.labels(name).inc()
                    self._logger.warning("breaker_opened", provider=name, code=error.code, status=error.status)
            raise
        finally:
            metrics.provider_calls.labels(name, outcome).inc()

    def _explain(self, error: ProviderError) -> None:
        """Deadlines are kept here, so the provider has not seen every failure."""
        provider = self.slot.provider
        if isinstance(provider, Remote):
            provider.endpoint.explain(error)
        if error.said is not None:
            self._logger.debug("provider_said", provider=self.slot.name, said=error.said)

    async def _read(self, stream: AsyncGenerator[Part, None]) -> Finished:
        slot = self.slot
        finished = await ProviderCall(
            stream,
            self._flusher,
            self._limits,
            self._arrivals,
            first_token_s=slot.provider.first_token_s,
            on_resume_handle=lambda handle: self._set_background_call(BackgroundCall.of(slot, handle)),
        ).read()
        self._background_call = None  # it has ended at the provider, too
        return finished

    def _set_background_call(self, background_call: BackgroundCall | None) -> None:
        self._background_call = background_call
        self._lease.renew_now()
