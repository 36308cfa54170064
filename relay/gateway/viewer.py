"""A viewer: one subscription of one connection. It is a cursor into a follower, never a queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relay import logging, metrics
from relay.errors import StorageError
from relay.follow.broadcast import Burst
from relay.follow.follower import Follower
from relay.follow.replay import Trimmed
from relay.gateway.sinks import Sink
from relay.protocol import frames
from relay.protocol.frames import Subscribed
from relay.protocol.words import Cursor

# Of live events at once. More, as after an outage of Redis, comes merged: otherwise every viewer would hold all of it.
MAX_BURST_BYTES = 128 * 1024 + 1024  # one event fits
_RETRY_S = 0.5

logger = logging.get_logger("viewer")
_replay_failures = logging.FailureLog(
    logger, "replay_failed", settled_s=logging.SETTLED_S
)  # of all viewers: clients make many
_feeding, _catching_up = (logging.RateLimitedLog(logger, event) for event in ("feed_failed", "catch_up_failed"))


class Viewer:
    """Everything after its cursor reaches the sink once and in order.

    A viewer keeps up (the follower feeds it) or catches up (its task reads what it lacks, as fast as the sink has
    room). It changes from catching up to keeping up in one step without an await, so that nothing is lost in between.
    """

    def __init__(self, follower: Follower, sink: Sink, on_unsubscribed: Callable[[Viewer], None]) -> None:
        self.follower = follower
        self._sink = sink
        self._on_unsubscribed = on_unsubscribed
        self._cursor = 0
        self._version = follower.version  # of the log from which everything up to the cursor was sent
        self._restarts = 0  # counts restarts: what was read before one is not sent after it
        self._degraded = False  # `degraded` was sent, but not yet `restored`
        self._restored = False  # `restored` is due, once the client has what it lacks
        self._task: asyncio.Task[None] | None = None

    def begin(
        self, cursor: Cursor | None, start: str, reply_id: str | None, at: int = 0, *, earlier: Viewer | None = None
    ) -> None:
        """Answer with `subscribed`; the frames then follow the cursor, or `at` if the cursor is not honoured.

        `earlier`: the subscription that this one restarts; its `degraded` carries over. There must be no await between
        acquiring the follower from the pool and this call.
        """
        follower = self.follower
        recovered = cursor is not None and follower.honours(cursor.epoch, cursor.seq)
        if recovered and cursor is not None:
            at = cursor.seq
        elif start == "live" and cursor is None:
            at = follower.frontier
        elif not follower.honours(follower.epoch, at):
            at = 0
        follower.broadcast.viewers.add(self)
        self._degraded = earlier is not None and earlier._degraded
        self._restored = self._degraded and not follower.degraded
        self._subscribed(at, recovered, reply_id)
        if follower.degraded:
            self.degraded()

    def feed(self, burst: Burst) -> None:
        if self._sink.writable() and burst.size_bytes <= MAX_BURST_BYTES:
            try:
                self._sink.burst(burst)
            except Exception as error:  # a failure here must not cost other viewers their frames
                self._fail(_feeding, error)
                return
            self._cursor = burst.last
        else:
            self._version = self.follower.version
            self.follower.broadcast.keeping_up.discard(self)
            self._catch_up()

    def keeps_up(self) -> bool:
        """Whether it has been sent everything that is known here."""
        self.follower.broadcast.flush()
        return self in self.follower.broadcast.keeping_up

    def restart(self) -> None:
        self._subscribed(0, False, None)

    def degraded(self) -> None:
        self._degraded, self._restored = True, False
        self._sink.send(frames.encode(frames.Degraded(session=self.follower.session)))

    def restored(self) -> None:
        self._restored = True
        if self in self.follower.broadcast.keeping_up:
            self._tell_restored()

    def unsubscribed(self) -> None:
        self.close()
        self._sink.send(frames.encode(frames.Unsubscribed(session=self.follower.session)))
        self._on_unsubscribed(self)

    def close(self) -> None:
        """Send nothing more, from this moment on."""
        self.follower.broadcast.viewers.discard(self)
        self.follower.broadcast.keeping_up.discard(self)
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        self.close()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _subscribed(self, at: int, recovered: bool, reply_id: str | None) -> None:
        follower = self.follower
        self._cursor, self._version = at, follower.version
        self._restarts += 1
        reply = Subscribed(
            id=reply_id,
            session=follower.session,
            epoch=follower.epoch,
            at=at,
            head=follower.frontier,
            recovered=recovered,
            active=list(follower.active.values()),
        )
        self._sink.send(frames.encode(reply))
        self.follower.broadcast.keeping_up.discard(self)
        if not self._keep_up():
            self._catch_up()

    def _keep_up(self) -> bool:
        if self._cursor != self.follower.broadcast.flushed or not self._sink.writable():
            return False
        self.follower.broadcast.keeping_up.add(self)
        if self._restored:
            self._tell_restored()
        return True

    def _tell_restored(self) -> None:
        self._degraded = self._restored = False
        self._sink.send(frames.encode(frames.Restored(session=self.follower.session)))

    def _catch_up(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._catching_up(), name=f"catch-up {self.follower.session}")

    async def _catching_up(self) -> None:
        while True:
            await self._sink.room()
            if not self._sink.writable():
                return  # the connection is gone: there will be no room
            if self._keep_up():
                _replay_failures.succeeded()
                return
            restarts = self._restarts
            try:
                await self._replay()
            except Trimmed:
                if restarts == self._restarts:  # otherwise it has restarted meanwhile
                    self._subscribed(0, False, None)
            except StorageError as error:
                metrics.storage_errors.labels("viewer").inc()
                _replay_failures.failed(error, session=self.follower.session)
                await asyncio.sleep(_RETRY_S)
            except Exception as error:  # a viewer that stops silently would look like a frozen answer
                self._fail(_catching_up, error)
                return

    def _fail(self, failing: logging.RateLimitedLog, error: Exception) -> None:
        metrics.bugs.labels("viewer").inc()
        failing.unexpected(error, session=self.follower.session)
        self.follower.broadcast.keeping_up.discard(self)
        self._sink.close(1011, "internal error")

    async def _replay(self) -> None:
        restarts, replay = self._restarts, self.follower.replay(self._cursor, self._version)
        while True:
            async with self._sink.frame_lock:  # only one catch-up of a connection holds a frame at a time
                await self._sink.room()
                if not self._sink.writable():
                    return
                try:
                    seq, frame = await anext(replay)
                except StopAsyncIteration:
                    return
                if restarts != self._restarts:
                    return
                self._sink.send(frame)
                self._cursor, self._version = seq, replay.version
                del frame  # while there is no room, a viewer holds nothing but its cursor
