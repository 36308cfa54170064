"""One generation, from its claim to its one end.

Three things run side by side: the provider's stream is read and its tokens are handed to the flusher; the flusher
writes them to the log; the lease is renewed. Whoever learns that this worker may not go on (the flusher or the lease
by a refusal, the control channel by word of a stop) ends all three, and that closes the upstream request.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

import msgspec

from relay import logging, metrics
from relay.errors import StorageError
from relay.log.jobs import Job
from relay.log.queue import Queue
from relay.log.reaper import look_ms
from relay.log.replies import Claim, Outcome, Rebuilt
from relay.log.session_log import SessionLog
from relay.protocol.words import new_id
from relay.settings import Settings
from workers.batching import Kind
from workers.delivery import Patience, Rejected
from workers.flushing import Flusher, LetGo
from workers.history import prompt_for
from workers.mending import Mender
from workers.providers.base import Data, Finished, Part, Prompt, Provider, ProviderError, Reasoning, Text, describe
from workers.writing import Place

_RETRY_S = 0.3

log = logging.get("generation")


class _Failed(Exception):
    """This answer ends `failed` with this code."""

    def __init__(self, code: str, *, retryable: bool) -> None:
        super().__init__(code)
        self.code = code
        self.retryable = retryable


class Generation:
    """`run` it once. Cancelling `run` closes the provider's stream and leaves the end to somebody else."""

    def __init__(
        self,
        job: Job,
        claim: Claim,
        worker: str,
        provider: Provider,
        session_log: SessionLog,
        queue: Queue,
        settings: Settings,
    ) -> None:
        self._job = job
        self._worker = worker
        self._queue = queue
        self._claim = claim
        self._provider = provider
        self._session_log = session_log
        self._settings = settings
        self._lease_ms = int(settings.lease_s * 1000)
        self._log = log.bind(session=job.session, generation=job.generation, fence=claim.fence)
        self._told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._told_at: float | None = None
        self._claimed_at = time.monotonic()
        self._first_token_s: float | None = None
        self._text_bytes = 0
        self._outcome = ("", "")  # reason and error code of the end that we said
        self._flusher = Flusher(
            session_log,
            job.session,
            job.generation,
            claim.fence,
            claim.attempt,
            Place((claim.epoch,), claim.head),
            restore=self._restore,
            lease_ms=self._lease_ms,
            batch_size=settings.batch_size,
            batch_linger_ms=settings.batch_linger_ms,
            patience=Patience(
                retries=settings.flush_retries,
                retry_ms=settings.flush_retry_ms,
                retry_max_ms=settings.retry_max_ms,
                spill_bytes=settings.spill_bytes,
                lost_after_ms=settings.lost_after_s * 1000,
            ),
            now_ms=lambda: time.monotonic() * 1000,
        )

    @property
    def fence(self) -> int:
        """Under which this worker writes; a rebuild changes it."""
        return self._flusher.fence

    def stop(self) -> None:
        """A gateway says that it was stopped: its end is written already, only the stream is left to close."""
        if not self._told.done():
            self._told_at = time.monotonic()
            self._told.set_result(None)

    async def run(self) -> bool:
        """True if the generation has ended, by us or by a stop; False if another worker has it now."""
        if self._claim.shown:
            self._flusher.restart("worker_lost")
        self._flusher.status("preparing")
        let_go: LetGo | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                helpers = [tasks.create_task(self._keep_lease()), tasks.create_task(self._listen())]
                await self._flush(tasks.create_task(self._produce()))
                for helper in helpers:
                    helper.cancel()
        except* LetGo as refusals:
            let_go = next(error for error in refusals.exceptions if isinstance(error, LetGo))
        if let_go is not None:
            return self._let_go(let_go.why)
        metrics.generations.labels(*self._outcome).inc()
        self._log.info(
            "ended", fence=self.fence, reason=self._outcome[0], code=self._outcome[1], provider=self._provider.name
        )
        metrics.answer_s.observe(time.monotonic() - self._claimed_at)
        return True

    async def _flush(self, producing: asyncio.Task[None]) -> None:
        """Until the end is written. What Redis refuses for good ends the answer where the log stands."""
        while True:
            try:
                return await self._flusher.run()
            except Rejected as error:
                producing.cancel()
                await asyncio.wait([producing])
                self._fail("storage", retryable=True, detail=describe(error))

    async def _produce(self) -> None:
        """Read the provider to its finish and say the last word, whatever happens."""
        try:
            async with asyncio.timeout(self._settings.answer_timeout_s):
                finished = await self._stream(await self._prompt())
            self._complete(finished)
        except TimeoutError:
            self._fail("provider_timeout", retryable=True, detail={"deadline": "answer_timeout_s"})
        except ProviderError as error:
            self._fail(error.code, retryable=error.retryable, detail={**describe(error), "status": error.status})
        except _Failed as error:
            self._fail(error.code, retryable=error.retryable, detail={})
        except StorageError as error:
            self._fail("storage", retryable=True, detail=describe(error))
        except Exception as error:
            metrics.bugs.labels("generation").inc()
            self._log.exception("generation_failed")
            self._fail("internal", retryable=True, detail=describe(error))

    async def _prompt(self) -> Prompt:
        asked, ours = self._job.provider, self._provider.name
        if asked is not None and asked != ours:
            raise ProviderError("provider_error", f"{asked} was asked for, {ours} is on offer", retryable=False)
        deadline = time.monotonic() + self._settings.first_token_timeout_s
        while True:
            try:
                return await prompt_for(self._job, self._claim.history, self._session_log.snapshots, self._settings)
            except StorageError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _stream(self, prompt: Prompt) -> Finished:
        """Every delta to the flusher; returns the provider's finish. No await in here is for Redis."""
        self._flusher.status("thinking")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.first_token_timeout_s
        menders: dict[Kind, Mender] = {"tokens": Mender(), "reasoning": Mender()}
        async with aclosing(self._provider.stream(prompt)) as parts:
            while True:
                part = await self._next(parts, deadline)
                if isinstance(part, Finished):
                    for kind, mender in menders.items():
                        self._hand_on(kind, mender.flush())
                    return part
                assert not isinstance(part, Data)
                kind = _kind(part)
                tokens = menders[kind].feed(part.text)
                if tokens:
                    self._hand_on(kind, tokens)
                    deadline = loop.time() + self._settings.token_timeout_s
                    if self._flusher.due():
                        # Deltas that arrived together come without a pause: let the flusher have its turn.
                        await asyncio.sleep(0)
                    if self._first_token_s is None:
                        self._first_token_s = time.monotonic() - self._claimed_at
                        metrics.first_token_s.observe(self._first_token_s)

    async def _next(self, parts: Any, deadline: float) -> Part:
        """The next part; the deadline moves with tokens, not with bytes: pings and comments are no progress."""
        try:
            async with asyncio.timeout_at(deadline):
                part: Part = await anext(parts)
                return part
        except TimeoutError:
            raise ProviderError("provider_timeout", "no token in time", retryable=True) from None
        except StopAsyncIteration:
            raise ProviderError("truncated", "the stream ended without a finish", retryable=True) from None

    def _hand_on(self, kind: Kind, tokens: list[str]) -> None:
        for token in tokens:
            self._text_bytes += len(token.encode())
            if self._text_bytes > self._settings.max_answer_bytes:
                raise _Failed("too_long", retryable=False)
            self._flusher.token(kind, token)

    def _complete(self, finished: Finished) -> None:
        message_id = new_id("m")
        members = {
            "finish": finished.finish,
            "provider": self._provider.name,
            "model": finished.model,
            "usage": finished.usage,
            "message_id": message_id,
        }
        self._outcome = ("complete", "")
        self._flusher.end("complete", _encode(members), message_id)

    def _fail(self, code: str, *, retryable: bool, detail: dict[str, Any]) -> None:
        error = {"code": code, "message": self._settings.sentences.choose(self._job.language), "retryable": retryable}
        self._outcome = ("failed", code)
        self._flusher.end("failed", _encode({"provider": self._provider.name, "error": error}))
        self._log.warning("failed", code=code, provider=self._provider.name, **detail)

    async def _restore(self, fence: int, place: Place) -> Rebuilt | Outcome:
        """Redis has lost this generation, or a part of it. Its row first: should we die now, a reaper finds it."""
        job, times = self._job, dict(self._claim.times)
        if self._first_token_s is not None:
            times["first"] = times["claimed"] + int(self._first_token_s * 1000)
        await self._queue.announce(job.queue)
        look = look_ms(self._settings.lease_s, self._settings.queue_timeout_s)
        await self._queue.enqueue(job, look, held=True)
        return await self._session_log.rebuild(job, fence, self._worker, self._lease_ms, place.epochs, place.seq, times)

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            fence = self._flusher.fence
            try:
                outcome = await self._session_log.renew(
                    self._job.session, self._job.generation, fence, self._lease_ms, self._flusher.done
                )
            except StorageError as error:
                metrics.storage_errors.labels("lease").inc()
                self._log.warning("renewal_failed", detail=str(error))
                continue
            if outcome.what == "ended" and self._outcome[0]:
                return  # by our own end, perhaps, whose reply was lost: its retry tells
            if self._flusher.rebuilding or fence != self._flusher.fence:
                continue  # the rebuild tells whether we may go on
            if outcome.what == "ended":
                raise LetGo(outcome.what)
            if outcome.what != "written":
                self._flusher.rebuild()

    async def _listen(self) -> None:
        await self._told
        raise LetGo("ended")

    def _let_go(self, why: str) -> bool:
        """Everything of ours is cancelled and closed by now."""
        if self._told_at is not None:
            metrics.stop_s.observe(time.monotonic() - self._told_at)
        metrics.abandoned.labels(why).inc()
        self._log.info("let_go", why=why)
        return why == "ended"


def _kind(part: Text | Reasoning) -> Kind:
    return "tokens" if isinstance(part, Text) else "reasoning"


def _encode(members: dict[str, Any]) -> bytes:
    return msgspec.json.encode({name: value for name, value in members.items() if value is not None})
