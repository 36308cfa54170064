"""Submit and stop, the same for every transport. The order of the steps is the crash order of docs/design.md."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, assert_never

from relay import failure_messages, logging, metrics, timeouts
from relay.auth import identity
from relay.auth.identity import UNRESTRICTED, Access
from relay.crashpoints import crashpoint
from relay.errors import ClientError, StorageError
from relay.gateway.capabilities import Capabilities
from relay.gateway.deadlines import answer_deadline, within_deadline
from relay.gateway.follower_pool import FollowerPool
from relay.protocol import events
from relay.protocol.commands import Submit
from relay.protocol.words import new_id
from relay.redis.connections import AnyRedis
from relay.store.jobs import Job
from relay.store.queue.enqueue import JobSubmitter, NotAdmitted
from relay.store.queue.queue import Queue
from relay.store.session.replies import Admitted, Request, Stopped
from relay.store.session.session_log import SessionLog

logger = logging.get_logger("submissions")
_cleanup_failures = logging.FailureLog(logger, "tidy_failed", settled_s=logging.SETTLED_S)

_OWNER_TRIES = 5  # of a submit to a session that somebody else makes or claims in the same moment


class Accepted(NamedTuple):
    generation: str
    duplicate: bool


class Submissions:
    """Turns submits into jobs and stops into ends."""

    def __init__(
        self,
        capabilities: Capabilities,
        session_log: SessionLog,
        queue: Queue,
        redis: AnyRedis,
        followers: FollowerPool,
        *,
        look_ms: int,
        tombstone_ms: int,
    ) -> None:
        self._capabilities = capabilities
        self._session_log = session_log
        self._queue = queue
        self._submitter = JobSubmitter(session_log, queue, redis, look_ms=look_ms)
        self._followers = followers
        self._tombstone_ms = tombstone_ms

    async def submit(
        self,
        submit: Submit,
        access: Access,
        language: str | None = None,
        by: float | None = None,
    ) -> Accepted:
        """Accepted once the job is durable; any number of equal submits make one generation.

        `language`: the reader's, from the transport; one named in the submit itself takes precedence.

        Raises ClientError: `forbidden` (the session is somebody else's), `bad_message` (not on offer), `conflict`,
        `not_found` (retry_of), `rate_limited`, `unavailable`. `by`: see `within_deadline`.
        """
        async with within_deadline("submit", by):
            accepted = await self._submit(submit, _named_language(submit) or language, access)
        if (follower := self._followers.get(submit.session, UNRESTRICTED)) is not None:
            follower.expect_event()
        metrics.submits.labels("duplicate" if accepted.duplicate else "accepted").inc()
        return accepted

    async def stop(self, session: str, generation: str, access: Access, by: float | None = None) -> bool:
        """End it now; True if it had ended before. Raises ClientError: `not_found`, `unavailable`."""
        by = answer_deadline() if by is None else by
        async with within_deadline("stop", by):
            stopped = await self._session_log.stop(session, generation, access.sub)
            stopped = stopped or await self._stop_lost(session, generation, access)
        if stopped is None:
            raise ClientError("not_found", "There is no such generation in this session.")
        if not stopped.already_ended:
            await self._clean_up_after_stop(session, stopped, by)
        return stopped.already_ended

    async def delete(self, session: str, access: Access) -> None:
        """End what runs and forget the session. Raises ClientError: `not_found`, `unavailable`."""
        by = answer_deadline()
        async with within_deadline("delete", by):
            theirs = self._followers.get(session, access)
            shown = theirs.shown_to_viewers() if theirs is not None else ([], [])
            found = await self._session_log.delete(session, self._tombstone_ms, *shown, sub=access.sub)
        if found is None:
            raise ClientError("not_found", "There is no such session.")
        if (follower := self._followers.get(session, UNRESTRICTED)) is not None:
            follower.expect_event()  # so that its viewers learn of it even if the hint is lost
        running = [stopped for stopped in found if not stopped.already_ended]
        logger.info("deleted", session=session, running=len(running))
        for stopped in found:
            await self._clean_up_after_stop(session, stopped, by)

    async def _stop_lost(self, session: str, generation: str, access: Access) -> Stopped | None:
        """Stop a running answer that Redis has lost. When its worker brings it back, it finds that it has ended."""
        follower = self._followers.get(session, access)
        known = follower.last_shown(generation) if follower is not None else None
        if follower is None or known is None:
            return None
        buried = await self._session_log.bury(
            session, generation, known.attempt, events.STOPPED, "stopped", follower.sub
        )
        if buried == "buried":
            return Stopped(generation, already_ended=False)
        return await self._session_log.stop(session, generation, access.sub)  # it has just come back

    async def _submit(self, submit: Submit, language: str | None, access: Access) -> Accepted:
        for _ in range(_OWNER_TRIES):
            if (accepted := await self._try_submit(submit, language, access)) is not None:
                return accepted
        raise ClientError("unavailable", "Others are making and deleting this session at the same time.")

    async def _try_submit(self, submit: Submit, language: str | None, access: Access) -> Accepted | None:
        """None: somebody else has made the session since we read whose it is."""
        found, has_room = await asyncio.gather(
            self._session_log.look_up(submit.session, submit.request_id), self._announced(submit.queue)
        )
        sub = _owner(found, access)
        if found.deleted:
            raise ClientError("not_found", "The session in which this was asked was deleted.")
        if found.known is not None:
            return await self._accept_duplicate(submit, sub, *found.known)
        await self._capabilities.check(submit)
        if not has_room:
            raise ClientError("bad_message", "queue: there are too many queues; name one that is in use.")
        crashpoint("submit.looked_up")

        job = self._job(submit, new_id("g"), language, sub, *await self._turn(submit, access))
        admitted = await self._submitter.submit(job)
        if admitted == "foreign" and access.sub is None:
            return None
        if not isinstance(admitted, Admitted):
            raise _not_admitted(admitted, submit.queue)
        if admitted.generation == job.generation:
            return Accepted(job.generation, duplicate=False)
        return await self._accept_duplicate(submit, sub, admitted.generation, admitted.body_hash)

    async def _announced(self, queue: str) -> bool:
        """Does not announce a queue that the next step refuses: it would take room on the list, and reapers' time."""
        return self._capabilities.serves(queue) and await self._queue.announce(queue)

    async def _accept_duplicate(self, submit: Submit, sub: str, generation: str, known_hash: str) -> Accepted:
        if known_hash not in (submit.body_hash(), submit.earlier_hash()):
            raise ClientError("conflict", "request_id was used in this session for another question.")
        fields = await self._submitter.unclaimed(submit.session, generation)
        if fields is not None:
            turn = await self._session_log.user_turn(submit.session, generation)
            if turn is not None:  # None: it was removed a moment ago
                await self._submitter.enqueue(self._job(submit, generation, fields.get("language"), sub, *turn))
        elif await self._session_log.is_forgotten(submit.session, submit.request_id, generation):
            raise _answer_expired()
        return Accepted(generation, duplicate=True)

    async def _turn(self, submit: Submit, access: Access) -> tuple[str, str]:
        """message_id and content of the question."""
        if submit.retry_of is None:
            return new_id("m"), submit.user_turn
        turn = await self._session_log.user_turn(submit.session, submit.retry_of, access.sub)
        if turn is None:
            raise ClientError("not_found", "retry_of: there is no such generation in this session.")
        return turn

    def _job(
        self, submit: Submit, generation: str, language: str | None, sub: str, message_id: str, content: str
    ) -> Job:
        return Job(
            session=submit.session,
            generation=generation,
            request_id=submit.request_id,
            body_hash=submit.kept_hash(),
            queue=submit.queue,
            message_id=message_id,
            content=content,
            priority=submit.priority,
            messages=submit.messages,
            retry_of=submit.retry_of,
            provider=submit.provider,
            model=submit.model,
            max_tokens=submit.max_tokens,
            system=submit.system,
            metadata=submit.metadata,
            options=submit.options,
            language=language,
            sub=sub,
        )

    async def _clean_up_after_stop(self, session: str, stopped: Stopped, by: float) -> None:
        """Clean up after a stop, or after deleting a session with dead jobs. Both are valid without it."""
        generation = stopped.generation
        if not stopped.already_ended:
            logger.info("stopped", session=session, generation=generation, worker=stopped.owner)
            metrics.generations.labels("stopped", "").inc()
        try:
            if (left_s := by - timeouts.now()) <= 0:  # in a session with many answers, the reapers do the rest
                raise TimeoutError
            async with timeouts.timeout(left_s):
                await self._submitter.clean_up_after_stop(session, stopped)
            _cleanup_failures.succeeded()
        except (StorageError, TimeoutError) as error:
            metrics.storage_errors.labels("tidy").inc()
            _cleanup_failures.failed(error, session=session, generation=generation)


def _owner(found: Request, access: Access) -> str:
    """Whose the session is, or will be if this makes it. Raises ClientError `forbidden`.

    A token that names its session may ask in anybody's; then the job is the owner's.
    """
    if access.sub is None:
        return access.maker if found.is_free else found.sub
    if found.sub != access.sub and not (found.is_free and access.makes):
        raise identity.foreign()
    return access.sub


def _not_admitted(why: NotAdmitted, queue: str) -> ClientError:
    match why:
        case "queue_full":
            return ClientError("rate_limited", f"queue: {queue} is full.", retry_after_s=5)
        case "session_full":
            return ClientError("rate_limited", "Too many answers are running in this session.", retry_after_s=5)
        case "deleted":
            return ClientError("not_found", "The session was deleted while this was being asked.")
        case "foreign":
            return identity.foreign()
        case "forgotten":
            return _answer_expired()
        case _:
            assert_never(why)


def _answer_expired() -> ClientError:
    return ClientError("not_found", "This was answered before, and the answer is not kept any more.")


def _named_language(submit: Submit) -> str | None:
    """`metadata.language`: for clients that send no Accept-Language, or have readers of many languages."""
    named = (submit.metadata or {}).get("language")
    return failure_messages.languages(named) if isinstance(named, str) else None
