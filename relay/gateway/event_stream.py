"""Server-Sent Events: one subscription as a stream of text, for clients without a WebSocket.

Follower, viewer and pulse are the same as a WebSocket's; only the sink differs.
https://html.spec.whatwg.org/#server-sent-events
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from relay import metrics
from relay.errors import ClientError
from relay.follow.broadcast import Burst
from relay.follow.follower import Follower
from relay.gateway.caller import Caller
from relay.gateway.deadlines import reconnect_in_ms, within_deadline
from relay.gateway.gateway import Gateway
from relay.gateway.guard import Asked
from relay.gateway.http_protocol import abort_of
from relay.gateway.pulse import Pulse
from relay.gateway.sinks import BufferedSink
from relay.gateway.viewer import Viewer
from relay.protocol import events, frames
from relay.protocol.words import Cursor
from relay.store.session.replies import Span

HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx may hold events back in its buffer
]
_FIRST_COMMENT = b": relay.v1\n\n"
# Line breaks in Unicode and so for many line readers, though not in the standard; JSON escapes only those of ASCII.
_LINE_BREAKS = [(char.encode(), b"\\u%04x" % ord(char)) for char in "\x85\u2028\u2029"]
_GONE_EVERY_S = 2.0  # how often to check whether the awaited end can still come
_DRAIN_TIMEOUT_S = 1.0  # at a shutdown; a client that has not taken everything by then resumes elsewhere


class _FrameHeader(msgspec.Struct):
    """The members of a frame that decide how it is written."""

    type: str
    seq: int | None = None
    epoch: str = ""
    generation: str | None = None


_kind = msgspec.json.Decoder(_FrameHeader).decode


@dataclass(frozen=True)
class Framing:
    """A frame's JSON as an event. Only log frames carry an id; it is the same in all streams of one epoch."""

    epoch: str

    def __call__(self, payload: bytes) -> bytes:
        kind = _kind(payload)
        if kind.type == "heartbeat":
            return b": heartbeat\n\n"
        for raw, escaped in _LINE_BREAKS:
            payload = payload.replace(raw, escaped)
        lines = b"event: %s\ndata: %s\n\n" % (kind.type.encode(), payload)
        return lines if kind.seq is None else b"id: %s:%d\n%s" % (self.epoch.encode(), kind.seq, lines)


class SseSink(BufferedSink):
    """Frames as the body of one HTTP response; with `only`, just that generation and its user turn.

    It closes itself after that generation's end, and after `unsubscribed`.
    """

    def __init__(
        self,
        send: Callable[[Any], Awaitable[None]],
        buffer_bytes: int,
        only: str | None,
        ignored: list[str] | None = None,
    ) -> None:
        self.finished = False
        self._begun = False
        self._only_generation = only
        self._ignored = ignored
        self._framing = Framing("")
        super().__init__(send, buffer_bytes)

    def send(self, payload: bytes) -> None:
        kind = _kind(payload)
        if kind.type == "subscribed":
            self._framing = Framing(kind.epoch)
        if self._only_generation is not None and kind.type in ("subscribed", "catchup"):
            self._send_filtered(payload, kind.type)
            return
        if self._only_generation is not None and kind.seq is not None and kind.generation != self._only_generation:
            return  # a single missed event comes as itself, not in a catch-up
        self.put(self._framing(payload))
        metrics.frames.labels("single").inc()
        if kind.type == "unsubscribed" or (self._only_generation is not None and kind.type == "end"):
            self.close(1000, "ended")

    def burst(self, burst: Burst) -> None:
        if self._only_generation is None:
            self.put(burst.joined(self._framing))
            metrics.frames.labels("live").inc(len(burst.payloads))
            return
        for payload in burst.payloads:
            self.send(payload)

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        if code >= 4000:  # dead or stalled
            self.give_up()

    def give_up(self) -> None:
        """Drop what is unsent."""
        self._task.cancel()

    async def deliver(self, payloads: list[bytes]) -> None:
        if not self._begun:
            self._begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._send({"type": "http.response.body", "body": _FIRST_COMMENT, "more_body": True})
        body = b"".join(payloads)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self.delivered(len(body))

    async def finish(self, code: int, reason: str) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self.finished = True

    def drain(self, reconnect_in_ms: int) -> None:
        """Tell the client when to come back, also in terms of SSE, and end."""
        self.put(b"retry: %d\n" % reconnect_in_ms)
        self.send(frames.encode(frames.Draining(reconnect_in_ms=reconnect_in_ms)))
        self.close(1012, "restart")

    def turn_away(self, why: ClientError) -> None:
        """Nothing more for this token: an error that no `end` can be taken for, and the end of the stream."""
        self.put(b": %s\n\n" % why.code.encode())
        self.send(frames.encode(frames.ErrorFrame(code=why.code, message=why.message, retryable=why.retryable)))
        self.close(1000, why.code)

    def _send_filtered(self, payload: bytes, kind: str) -> None:
        if kind == "subscribed":
            subscribed = msgspec.json.decode(payload, type=frames.Subscribed)
            active = [known for known in subscribed.active if known.generation == self._only_generation]
            ignored, self._ignored = self._ignored, None  # only once: a new epoch brings another `subscribed`
            self._put_frame(msgspec.structs.replace(subscribed, active=active, ignored=ignored))
            return
        catchup = msgspec.json.decode(payload, type=frames.Catchup)
        headers = [(events.read_header(body), body) for body in catchup.events]
        wanted = [(header, body) for header, body in headers if header.generation == self._only_generation]
        if wanted:
            self._put_frame(msgspec.structs.replace(catchup, events=[body for _, body in wanted]))
        if any(header.type == "end" for header, _ in wanted):
            self.close(1000, "ended")

    def _put_frame(self, frame: frames.Frame) -> None:
        self.put(self._framing(frames.encode(frame)))
        metrics.frames.labels("single").inc()


class EventStream:
    """The ASGI response that streams a session, or one of its generations (then the session must exist).

    `ignored`: fields ignored of the submit that made that generation, for its `subscribed`.
    Raises ClientError before the first byte: `unavailable`, `not_found`, `forbidden` (FollowerPool.acquire).
    """

    def __init__(
        self,
        gateway: Gateway,
        asked: Asked,
        cursor: Cursor | None,
        start: str,
        generation: str | None = None,
        ignored: list[str] | None = None,
    ) -> None:
        self._gateway = gateway
        self._session = asked.session
        self._access = asked.access
        self._identity = asked.identity
        self._cursor = cursor
        self._start = start
        self._only_generation = generation
        self._ignored = ignored
        self._since = ("", 0)  # epoch, and seq of that generation's first event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with within_deadline("events"):
            lent = await self._acquire_follower()
        if lent is None:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        follower, at = lent
        try:
            self._gateway.authentication.checked(self._identity)  # it may have been revoked meanwhile
        except ClientError:
            self._gateway.followers.release(follower)
            raise
        limits = self._gateway.viewer_limits
        sink = SseSink(send, limits.buffer_bytes, self._only_generation, self._ignored)
        viewer = Viewer(follower, sink, lambda _: None)
        pulse = Pulse(sink, limits.heartbeat_s, limits.stall_s)
        caller = Caller(self._gateway.authentication, sink.turn_away)
        with metrics.event_streams.track_inprogress(), metrics.subscriptions.track_inprogress():
            try:
                caller.speaks_for(self._identity)
                viewer.begin(self._cursor, self._start, None, at)
                pulse.start()
                await self._until_over(viewer, sink, receive)
            finally:
                pulse.stop()
                caller.close()
                self._gateway.followers.release(follower)
                try:
                    await viewer.aclose()
                finally:  # a server may cancel more than once
                    await sink.aclose()
                    if not sink.finished:
                        _abort(scope)

    async def _acquire_follower(self) -> tuple[Follower, int] | None:
        """A follower, and the seq after which to begin; None: everything that was asked for is past."""
        followers = self._gateway.followers
        if self._only_generation is None:
            return await followers.acquire(self._session, self._cursor, access=self._access), 0
        there, log, sub = False, self._gateway.session_log, self._access.sub
        while (span := await log.span(self._session, self._only_generation, sub)) is not None:
            if self._is_past(span):
                return None
            there = True
            cursor = self._cursor if self._cursor is not None and self._cursor.epoch == span.epoch else None
            follower = await followers.acquire(self._session, cursor or Cursor(span.epoch, 0), access=self._access)
            if follower.epoch == span.epoch:  # in another epoch its end would never come
                self._since = span.epoch, span.first
                if self._start != "live" or self._cursor is not None or self._awaits(follower):
                    return follower, span.first - 1
                followers.release(follower)  # it has ended since
                return None
            followers.release(follower)
        if not followers.is_missing(self._session, self._only_generation, self._access):
            what = "The session was deleted." if there else "There is no such generation in this session."
            raise ClientError("not_found", what)
        self._start = "start"  # Redis has lost it: all of it will come back, or it will be ended
        return await followers.acquire(self._session, self._cursor, access=self._access), 0

    def _awaits(self, follower: Follower) -> bool:
        """Whether the end of that generation is still to come, after what the follower has."""
        epoch, first = self._since
        begins_there = follower.epoch == epoch and first > follower.frontier
        return self._only_generation is not None and (begins_there or follower.awaits_end(self._only_generation))

    def _is_past(self, span: Span) -> bool:
        """Whether the client has seen the end already, or asks only for what comes after it."""
        cursor = self._cursor
        if span.last is None:
            return False
        if cursor is None:
            return self._start == "live"
        return cursor.epoch == span.epoch and cursor.seq >= span.last

    async def _until_over(self, viewer: Viewer, sink: SseSink, receive: Receive) -> None:
        """Run until everything is sent, nothing more can come, the client has gone, or this gateway is draining."""
        draining = asyncio.create_task(self._gateway.draining.wait(), name="draining")
        others = [
            asyncio.create_task(sink.gone.wait(), name="sink"),
            asyncio.create_task(until_disconnected(receive), name="hang-up"),
        ]
        try:
            every_s = _GONE_EVERY_S if self._only_generation is not None else None
            while not (await asyncio.wait([draining, *others], timeout=every_s, return_when=asyncio.FIRST_COMPLETED))[
                0
            ]:
                self._close_if_gone(viewer, sink)
            if draining.done():
                sink.drain(reconnect_in_ms())
                await asyncio.wait(others, timeout=_DRAIN_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
                sink.give_up()
        finally:
            for task in (draining, *others):
                task.cancel()
            await asyncio.gather(draining, *others, return_exceptions=True)

    def _close_if_gone(self, viewer: Viewer, sink: SseSink) -> None:
        """Close the stream if the generation was forgotten or lost meanwhile: then no end will come."""
        if viewer.keeps_up() and sink.closing is None and not self._awaits(viewer.follower):
            gone = frames.ErrorFrame(
                code="not_found",
                message="There is no such generation in this session any more.",
                retryable=False,
                session=self._session,
            )
            sink.send(frames.encode(gone))
            sink.close(1000, "gone")


async def until_disconnected(receive: Receive) -> None:
    """Return when the client has gone. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _abort(scope: Scope) -> None:
    """Cut a connection whose peer takes nothing; otherwise the server would wait for it."""
    abort = abort_of(scope)
    if abort is not None:
        abort()
