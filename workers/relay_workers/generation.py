"""One generation, from its claim to its one end.

Three things run side by side: providers are asked, and their tokens go to the flusher (asking/answer_request.py); the
flusher writes them to the log; the lease is renewed. When one part learns that this worker may not go on (the flusher
or the lease from a refusal, the control channel from a stop), all three end, which closes the upstream request.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from relay import logging, metrics, timeouts
from relay.errors import StorageError
from relay.failure_messages import FailureMessages
from relay.protocol import events
from relay.protocol.words import FailureCode, new_id
from relay.store.queue.queue import Queue
from relay.store.session.session_log import SessionLog
from relay_workers.asking.answer_request import AnswerRequest
from relay_workers.asking.background_call import resumable_call
from relay_workers.asking.call import CallLimits, TooLong
from relay_workers.asking.failover import FailoverRules
from relay_workers.asking.history import HistoryLimits, prompt_for
from relay_workers.asking.provider_pool import ProviderPool
from relay_workers.lease import Lease
from relay_workers.lease_thread import LeaseThread, Renewal
from relay_workers.providers.base import Finished, Prompt, ProviderError, describe
from relay_workers.writing.arrivals import Arrivals
from relay_workers.writing.claimed import Claimed
from relay_workers.writing.delivery import Rejected
from relay_workers.writing.flusher import Flusher, FlushLimits, OwnershipLost
from relay_workers.writing.rebuilding import Rebuilder, RebuildLimits

_RETRY_S = 0.3

logger = logging.get_logger("generation")


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """Limits of one generation and of its parts. `sentences`: what a person reads if it fails."""

    answer_timeout_s: float
    prompt_timeout_s: float
    history: HistoryLimits
    failover: FailoverRules
    call: CallLimits
    flush: FlushLimits
    rebuild: RebuildLimits
    sentences: FailureMessages


class Generation:
    """`run` it once. Cancelling `run` closes the provider's stream and leaves the end to another worker."""

    def __init__(
        self,
        claimed: Claimed,
        providers: ProviderPool,
        session_log: SessionLog,
        queue: Queue,
        limits: GenerationLimits,
        lease_thread: LeaseThread | None = None,
    ) -> None:
        self._job, self._claim, _, self._lease_ms = claimed
        self._lease_thread = lease_thread
        self._queue = queue
        self._providers = providers
        self._session_log = session_log
        self._limits = limits
        self._logger = logger.bind(session=claimed.session, generation=claimed.generation, fence=self._claim.fence)
        self._renewing = logging.FailureLog(self._logger, "renewal_failed")
        self._stop_requested: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals = Arrivals(claimed_s=time.monotonic())
        self._request: AnswerRequest | None = None
        self._background_call = resumable_call(providers, self._claim)
        self._lease = Lease(self._lease_ms / 1000, self._claim.asked_s, self._renewing)
        self._outcome = ("", "")  # reason and error code of the end that this worker chose
        rebuilder = Rebuilder(claimed, session_log, queue, self._arrivals, limits.rebuild, _now_ms)
        resumes = self._background_call is not None
        self._flusher = Flusher(claimed, session_log, rebuilder, self._lease, limits.flush, _now_ms, resumes=resumes)

    @property
    def fence(self) -> int:
        """The fence under which this worker writes; a rebuild changes it."""
        return self._flusher.fence

    def stop(self) -> None:
        """A gateway has stopped it: its end is written already, only the provider's stream must be closed."""
        if not self._stop_requested.done():
            self._stop_requested.set_result(None)

    async def run(self) -> bool:
        """Return True if the generation has ended, here or by a stop; False if another worker has it now."""
        if self._lease_thread is not None:
            self._lease_thread.add(self._lease, self._renewal)
        try:
            ended = await self._run()
            if self._request is not None:
                await self._request.settle()
            return ended
        finally:
            if self._lease_thread is not None:
                await self._lease_thread.remove(self._lease)
            if self._request is not None:
                await self._request.aclose()

    async def _run(self) -> bool:
        if self._claim.shown and self._background_call is None:
            self._flusher.restart("worker_lost")
        if not self._flusher.shown:
            self._flusher.status("preparing")
        ownership_lost: OwnershipLost | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                helpers = [tasks.create_task(self._lease.keep(self._renew)), tasks.create_task(self._until_stopped())]
                if self._claim.fresh:
                    helpers.append(tasks.create_task(self._ensure_row()))
                await self._flush(tasks.create_task(self._produce()))
                for helper in helpers:
                    helper.cancel()
        except* OwnershipLost as refusals:
            ownership_lost = next(error for error in refusals.exceptions if isinstance(error, OwnershipLost))
        if ownership_lost is not None:
            return await self._abandon(ownership_lost.why)
        metrics.generations.labels(*self._outcome).inc()
        self._logger.info(
            "ended", fence=self.fence, reason=self._outcome[0], code=self._outcome[1], provider=self._provider
        )
        metrics.answer_s.observe(time.monotonic() - self._arrivals.claimed_s)
        return True

    async def _flush(self, producing: asyncio.Task[None]) -> None:
        """Run until the end is written. If Redis refuses a write for good, the answer ends where the log stands."""
        while True:
            try:
                return await self._flusher.run()
            except Rejected as error:
                producing.cancel()
                await asyncio.wait([producing])
                self._fail("storage", retryable=True, detail=describe(error))

    async def _produce(self) -> None:
        """Have the question answered, and end the generation whatever happens."""
        try:
            async with timeouts.timeout(self._limits.answer_timeout_s):
                self._request = AnswerRequest(
                    self._providers.candidates(self._job),
                    self._flusher,
                    self._limits.failover,
                    self._limits.call,
                    self._arrivals,
                    background_call=self._background_call,
                    lease=self._lease,
                    log=self._logger,
                )
                self._complete(await self._request.ask(self._prompt))
        except TimeoutError:
            self._fail("provider_timeout", retryable=True, detail={"deadline": "answer_timeout_s"})
        except ProviderError as error:
            self._fail(error.code, retryable=error.retryable, detail=describe(error))
        except TooLong:
            self._fail("too_long", retryable=False, detail={})
        except StorageError as error:
            self._fail("storage", retryable=True, detail=describe(error))
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            # Also a cancellation that nobody requested: it escaped from a provider's own tasks. A TaskGroup counts a
            # task that ends with one as done, and the flusher would wait for the end for ever.
            metrics.bugs.labels("generation").inc()
            self._logger.exception("generation_failed")
            self._fail("internal", retryable=True, detail=describe(error))

    async def _prompt(self) -> Prompt:
        deadline = time.monotonic() + self._limits.prompt_timeout_s
        while True:
            try:
                return await prompt_for(
                    self._job, self._claim.history, self._session_log.snapshots, self._limits.history
                )
            except StorageError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)

    def _complete(self, finished: Finished) -> None:
        message_id = new_id("m")
        usage = events.Usage(**finished.usage) if finished.usage is not None else None
        members = events.completed(self._provider, finished.finish, finished.model, usage, message_id)
        self._outcome = ("complete", "")
        self._flusher.end("complete", members, message_id)

    def _fail(self, code: FailureCode, *, retryable: bool, detail: dict[str, Any]) -> None:
        sentence = self._limits.sentences.choose(self._job.language)
        self._outcome = ("failed", code)
        self._flusher.end("failed", events.failed(code, sentence, retryable=retryable, provider=self._provider))
        self._logger.warning("failed", **{**detail, "code": code, "provider": self._provider})
        if self._request is not None:
            self._request.cancel()

    @property
    def _provider(self) -> str | None:
        """The provider that was asked last."""
        return self._request.slot.name if self._request is not None else None

    async def _ensure_row(self) -> None:
        """Redis may have lost the job since it was taken; then nobody would find it if this worker died."""
        trouble = logging.FailureLog(self._logger, "put_back_failed")
        while True:
            try:
                await self._queue.ensure_row(self._job, self._limits.rebuild.look_ms)
                trouble.succeeded()
                return
            except StorageError as error:
                metrics.storage_errors.labels("queue").inc()
                trouble.failed(error)
                await asyncio.sleep(_RETRY_S)

    def _renewal(self) -> Renewal:
        """As of now; also called in the lease thread."""
        # The count first: during a rebuild, the count of the old fence must not be paired with the new fence.
        done = self._flusher.last_acked
        return Renewal(self._job.session, self._job.generation, self._flusher.fence, done, self._resume_handle)

    async def _renew(self) -> bool:
        session, generation, fence, done, resume_handle = self._renewal()
        try:
            outcome = await self._session_log.renew(session, generation, fence, self._lease_ms, done, resume_handle)
        except StorageError as error:
            metrics.storage_errors.labels("lease").inc()
            self._renewing.failed(error)
            return False
        self._renewing.succeeded()
        if outcome.what == "ended" and self._outcome[0]:
            return False  # perhaps by our own end, whose reply was lost: its retry will show
        if self._flusher.rebuilding or fence != self._flusher.fence:
            return False  # the rebuild will show whether we may go on
        if outcome.what == "ended":
            raise OwnershipLost(outcome.what)
        if outcome.what != "written":
            self._flusher.rebuild()
        return outcome.what == "written"

    @property
    def _resume_handle(self) -> str:
        return self._request.mark if self._request is not None else self._claim.progress.resume_handle

    async def _until_stopped(self) -> None:
        await self._stop_requested
        raise OwnershipLost("ended")

    async def _abandon(self, why: str) -> bool:
        """Everything that this worker did for it is cancelled and closed by now."""
        closed_s = time.monotonic()
        metrics.abandoned.labels(why).inc()
        if why == "ended" and self._request is not None:
            self._request.cancel()
            await self._account_for_stop(closed_s)
        self._logger.info("let_go", why=why)
        return why == "ended"

    async def _account_for_stop(self, closed_s: float) -> None:
        """Measure how long the provider went on after the stop. By Redis' clock: the gateway's may differ."""
        try:
            ago_ms = await self._session_log.since_stop_ms(self._job.session, self._job.generation)
        except StorageError as error:
            metrics.storage_errors.labels("stop").inc()
            self._logger.warning("stop_unaccounted", detail=str(error))
            return
        if ago_ms is not None:  # None: it was deleted, or another worker has ended it
            ended_s = time.monotonic() - ago_ms / 1000
            metrics.stop_s.observe(max(0.0, closed_s - ended_s))
            metrics.tokens_after_stop.inc(self._arrivals.since(ended_s))


def _now_ms() -> float:
    return time.monotonic() * 1000
