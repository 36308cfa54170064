"""A viewer: one subscription of one connection. A cursor into a follower, never a queue."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from relay import logging, metrics
from relay.errors import StorageError
from relay.gateway.sinks import Sink
from relay.log.follower import Burst, Follower, Trimmed
from relay.protocol import frames
from relay.protocol.frames import Subscribed
from relay.protocol.words import Cursor

_RETRY_S = 0.5

log = logging.get("viewer")


class Viewer:
    """Everything after its cursor reaches the sink once and in order.

    A viewer keeps up (the follower feeds it) or catches up (its task reads what it lacks, as fast as the sink has
    room); it changes from the second to the first in one step without an await, so that nothing falls in between.
    """

    def __init__(self, follower: Follower, sink: Sink) -> None:
        self._follower = follower
        self._sink = sink
        self._cursor = 0
        self._life = 0  # counts restarts: what was read for an earlier one is not sent any more
        self._task: asyncio.Task[None] | None = None

    async def prepare(self, cursor: Cursor | None) -> None:
        """What must be known before `begin`. Raises StorageError."""
        if cursor is not None and not self._follower.honours(cursor.epoch, cursor.seq):
            await self._follower.look()  # another gateway may have shown this client more than we have heard of

    def begin(self, cursor: Cursor | None, start: str, reply_id: str | None) -> None:
        """Answer with `subscribed` and let the frames follow."""
        follower = self._follower
        recovered = cursor is not None and follower.honours(cursor.epoch, cursor.seq)
        if recovered and cursor is not None:
            at = cursor.seq
        else:
            at = follower.frontier if start == "live" and cursor is None else 0
        follower.viewers.add(self)
        self._subscribed(at, recovered, reply_id)

    def feed(self, burst: Burst) -> None:
        if self._sink.writable():
            self._sink.burst(burst)
            self._cursor = burst.last
        else:
            self._follower.keeping_up.discard(self)
            self._catch_up()

    def restart(self) -> None:
        self._subscribed(0, False, None)

    def close(self) -> None:
        """Send nothing more, from this moment on."""
        self._follower.viewers.discard(self)
        self._follower.keeping_up.discard(self)
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        self.close()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _subscribed(self, at: int, recovered: bool, reply_id: str | None) -> None:
        follower = self._follower
        self._cursor = at
        self._life += 1
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
        self._follower.keeping_up.discard(self)
        if not self._keep_up():
            self._catch_up()

    def _keep_up(self) -> bool:
        if self._cursor != self._follower.flushed or not self._sink.writable():
            return False
        self._follower.keeping_up.add(self)
        return True

    def _catch_up(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._catching_up(), name=f"catch-up {self._follower.session}")

    async def _catching_up(self) -> None:
        while True:
            await self._sink.room()
            if self._keep_up():
                return
            try:
                await self._replay()
            except Trimmed:
                self._subscribed(0, False, None)
            except StorageError as error:
                metrics.storage_errors.labels("viewer").inc()
                log.warning("replay_failed", session=self._follower.session, detail=str(error))
                await asyncio.sleep(_RETRY_S)
            except Exception:  # a viewer that stops in silence would look like a frozen answer
                metrics.bugs.labels("viewer").inc()
                log.exception("catch_up_failed", session=self._follower.session)
                self._sink.close(1011, "internal error")
                return

    async def _replay(self) -> None:
        life = self._life
        async with aclosing(self._follower.replay(self._cursor)) as replay:
            async for seq, frame in replay:
                await self._sink.room()
                if life != self._life:
                    return
                self._sink.send(frame)
                self._cursor = seq
