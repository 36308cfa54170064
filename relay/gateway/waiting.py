"""Waits for the end of one generation, without a stream: `?wait=`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.types import Receive

from relay.auth.identity import Access
from relay.errors import ClientError
from relay.follow.broadcast import Burst
from relay.follow.follower import Follower
from relay.gateway.deadlines import within_deadline
from relay.gateway.event_stream import until_disconnected
from relay.gateway.gateway import Gateway
from relay.protocol import events

_LOST_EVERY_S = 2.0


class _EndListener:
    """Gets the session's events like a viewer, and only notes that there may be news."""

    def __init__(self, generation: str) -> None:
        self.news = asyncio.Event()
        self._generation = generation

    def feed(self, burst: Burst) -> None:
        for payload in burst.payloads:
            header = events.read_header(payload)
            if header.type == "end" and header.generation == self._generation:
                self.news.set()

    def restart(self) -> None:
        self.news.set()

    def degraded(self) -> None: ...

    def restored(self) -> None: ...

    def unsubscribed(self) -> None:
        self.news.set()


async def until_ended(
    gateway: Gateway, session: str, generation: str, wait_s: float, receive: Receive, access: Access
) -> bool:
    """True once it has ended; False after `wait_s`, or if the client leaves or the gateway drains before that.

    Raises ClientError: `not_found` (it was deleted meanwhile), `forbidden` (and made by somebody else), `unavailable`.
    """
    async with within_deadline("wait"):
        follower = await gateway.followers.acquire(session, access=access)
    over = [
        asyncio.create_task(asyncio.sleep(wait_s), name="wait"),
        asyncio.create_task(until_disconnected(receive), name="hang-up"),
        asyncio.create_task(gateway.draining.wait(), name="draining"),
    ]
    try:
        return await _ended(gateway, follower, generation, over, access)
    finally:
        gateway.followers.release(follower)
        for task in over:
            task.cancel()
        await asyncio.gather(*over, return_exceptions=True)


async def _ended(
    gateway: Gateway, follower: Follower, generation: str, over: Sequence[asyncio.Task[object]], access: Access
) -> bool:
    listener = _EndListener(generation)
    try:
        while True:
            listener.news.clear()
            follower.broadcast.viewers.add(listener)
            follower.broadcast.keeping_up.add(listener)  # each time: a new epoch of the log removes everybody
            async with within_deadline("wait"):
                span = await gateway.session_log.span(follower.session, generation, access.sub)
            is_awaited = generation in follower.active or generation in follower.missing  # it comes back, or is ended
            if span is None and (follower.deleted or not is_awaited):
                raise ClientError("not_found", _gone(follower))
            if span is not None and span.last is not None:
                return True
            news = asyncio.create_task(listener.news.wait(), name="news")
            # A generation that Redis has lost may be given up without an event.
            every_s = _LOST_EVERY_S if generation in follower.missing else None
            try:
                await asyncio.wait([news, *over], timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
                await asyncio.gather(news, return_exceptions=True)
            if any(task.done() for task in over) and not listener.news.is_set():
                return False
    finally:
        follower.broadcast.viewers.discard(listener)
        follower.broadcast.keeping_up.discard(listener)


def _gone(follower: Follower) -> str:
    return "The session was deleted." if follower.deleted else "There is no such generation in this session any more."
