"""One WebSocket connection: commands in, frames out.

Commands for one session are carried out in the order in which they came; those for different sessions run side by
side, so that a slow submit never holds up a stop elsewhere. At most MAX_IN_FLIGHT run at a time: beyond that we stop
reading. Each is answered within ANSWER_WITHIN_S of when it was read, including its wait for those before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, assert_never

from starlette.datastructures import Headers

from relay import logging, metrics
from relay.auth.identity import foreign
from relay.auth.refusals import AccessRefused
from relay.errors import ClientError
from relay.follow.follower import Follower
from relay.gateway.authentication import Authentication
from relay.gateway.codecs import Codec
from relay.gateway.deadlines import ANSWER_WITHIN_S, answer_deadline, within_deadline
from relay.gateway.follower_pool import FollowerPool
from relay.gateway.greeting import Greeting
from relay.gateway.pulse import LiveSink, Pulse
from relay.gateway.replies import Replies
from relay.gateway.submissions import Submissions
from relay.gateway.viewer import Viewer
from relay.protocol import commands, frames
from relay.protocol.commands import Hello, Ping, Refresh, Stop, Submit, Subscribe, Unsubscribe
from relay.protocol.words import new_id

MAX_IN_FLIGHT = 64
MAX_BYTES_BEFORE_WELCOME = 16 * 1024  # of a command, where auth is on

_failing = logging.RateLimitedLog(logging.get_logger("connection"), "command_failed")
_not_drained = logging.RateLimitedLog(logging.get_logger("connection"), "drain_failed")

Message = MutableMapping[str, Any]


class Connection:
    """Drives one connection from `welcome` to its close. `run` owns every task that it starts."""

    def __init__(
        self,
        sink: LiveSink,
        codec: Codec,
        followers: FollowerPool,
        submissions: Submissions,
        limits: dict[str, float],
        authentication: Authentication,
        *,
        on_welcome: Callable[[], None] = lambda: None,
        language: str | None,
        heartbeat_s: float,
        stall_s: float,
    ) -> None:
        self._id = new_id("c")
        self._sink = sink
        self._codec = codec
        self._followers = followers
        self._submissions = submissions
        self._limits = limits
        self._features = list(authentication.features)
        self._on_welcome = on_welcome
        self._replies = Replies(sink)
        self._greeting = Greeting(authentication, self._replies, self._welcome, self._drop_what_is_not_allowed)
        self._language = language
        self._pulse = Pulse(sink, heartbeat_s, stall_s)
        self._heartbeat_s = heartbeat_s
        self._viewers: dict[str, Viewer] = {}
        self._followed: set[str] = set()  # sessions that are followed or about to be: what the limit counts
        self._tasks: set[asyncio.Task[None]] = set()  # commands in flight
        self._last_command: dict[str, asyncio.Task[None]] = {}  # session → its last command, to keep the order
        self._free = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._closing: asyncio.Task[None] | None = None  # when draining: closes once every command is answered

    async def run(self, receive: Callable[[], Awaitable[Message]], headers: Headers, ticket: str | None = None) -> None:
        """Run until the client has gone. `headers`, `ticket`: of the handshake, which has been accepted."""
        metrics.connections.inc()
        self._pulse.start()
        try:
            await self._greeting.begin(headers, ticket)
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    return
                raw = message.get(self._codec.carrier)
                if raw is None:
                    self._sink.close(1003, f"{self._codec.subprotocol} speaks {self._codec.carrier}")
                    return
                await self._handle(raw)
                await self._sink.room()
        finally:
            metrics.connections.dec()
            self._pulse.stop()
            try:
                await self._finish()
            finally:
                self._greeting.close()

    def drain(self, reconnect_in_ms: int, close: Callable[[], None]) -> None:
        """Tell the client when to come back; `close` is called once its earlier commands are answered."""
        self._replies.send(frames.Draining(reconnect_in_ms=reconnect_in_ms))
        if self._tasks:
            closing = self._close_when_answered(set(self._tasks), close)
            self._closing = asyncio.create_task(closing, name=f"drain {self._id}")
        else:
            close()

    async def _close_when_answered(self, asked: set[asyncio.Task[None]], close: Callable[[], None]) -> None:
        """`asked`: the commands as of the drain; all may be answered before the first step here."""
        try:
            await asyncio.wait(asked, timeout=ANSWER_WITHIN_S)
            close()
        except Exception as error:  # otherwise this connection would hold up the shutdown without a trace
            metrics.bugs.labels("connection").inc()
            _not_drained.unexpected(error, connection=self._id)

    async def _handle(self, raw: str | bytes) -> None:
        try:
            fields = self._read(raw)
        except ClientError as error:
            is_small = not self._greeting.is_over or len(raw) <= 4 * MAX_BYTES_BEFORE_WELCOME
            self._refuse_unread(error, self._codec.peek(raw) if is_small else {})
            return
        reply_id = commands.reply_id(fields)
        try:
            command = commands.check(fields, self._limits)
        except ClientError as error:
            self._refuse_unread(error, fields)
            return
        metrics.commands.labels(fields["type"]).inc()
        if self._greeting.is_over and not isinstance(command, Hello):
            self._replies.refuse(AccessRefused("unauthenticated", "Say hello with a token first."), reply_id)
            return
        match command:
            case Ping(t=t):
                self._pong(reply_id, t)
            case Hello():
                await self._greeting.hello(command, reply_id)
            case Refresh():
                await self._in_order("", self._refresh(command, reply_id))  # keys may have to be fetched
            case Subscribe() | Unsubscribe() | Submit() | Stop():
                ignored = commands.ignored(fields) if isinstance(command, Submit) else []
                await self._in_order(command.session, self._carry_out(command, reply_id, answer_deadline(), ignored))
            case _:
                assert_never(command)

    def _read(self, raw: str | bytes) -> commands.Fields:
        max_bytes = self._limits["max_command_bytes"]
        if self._greeting.is_over:
            max_bytes = min(max_bytes, MAX_BYTES_BEFORE_WELCOME)
            if len(raw) > 4 * max_bytes:  # a stranger's: not even looked at
                raise ClientError("too_large", "The command is too large to come before welcome.")
        if self._codec.json_bytes(raw, max_bytes) > max_bytes:
            what = "what may come before welcome" if self._greeting.is_over else "max_command_bytes"
            raise ClientError("too_large", f"The command is larger than {what}.")
        return self._codec.read(raw)

    def _refuse_unread(self, error: ClientError, fields: commands.Fields) -> None:
        """Refuse what is not a valid command, with the id and session that could be read from it."""
        metrics.commands.labels("refused").inc()
        session = fields.get("session")
        self._replies.refuse(error, commands.reply_id(fields), session if isinstance(session, str) else None)

    async def _in_order(self, session: str, work: Coroutine[Any, Any, None]) -> None:
        await self._free.acquire()
        before = self._last_command.get(session)

        async def turn() -> None:
            try:
                if before is not None:
                    await asyncio.wait([before])
                await work
            finally:
                work.close()
                self._free.release()
                if self._last_command.get(session) is task:
                    del self._last_command[session]

        task = self._last_command[session] = asyncio.create_task(turn(), name=f"command {self._id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self, command: Refresh, reply_id: str | None) -> None:
        try:
            await self._greeting.refresh(command, reply_id)
        except Exception as error:
            self._report_bug(error, reply_id)

    def _report_bug(self, error: Exception, reply_id: str | None, session: str | None = None) -> None:
        """The client gets a calm sentence, the log the traceback."""
        metrics.bugs.labels("command").inc()
        _failing.unexpected(error, connection=self._id, session=session)
        self._replies.refuse(ClientError("internal", "Something went wrong here."), reply_id, session)

    async def _carry_out(
        self, command: Subscribe | Unsubscribe | Submit | Stop, reply_id: str | None, by: float, ignored: list[str]
    ) -> None:
        try:
            match command:
                case Subscribe():
                    await self._subscribe(command, reply_id, by)
                case Unsubscribe():
                    await self._unsubscribe(command.session)
                    self._replies.send(frames.Unsubscribed(id=reply_id, session=command.session))
                case Submit():
                    access = self._greeting.access("submit", command.session)
                    generation, duplicate = await self._submissions.submit(command, access, self._language, by)
                    self._replies.send(
                        frames.Accepted(
                            id=reply_id,
                            session=command.session,
                            generation=generation,
                            duplicate=duplicate,
                            ignored=ignored or None,
                        )
                    )
                case Stop():
                    access = self._greeting.access("stop", command.session)
                    already = await self._submissions.stop(command.session, command.generation, access, by)
                    self._replies.send(
                        frames.Stopping(
                            id=reply_id, session=command.session, generation=command.generation, already_ended=already
                        )
                    )
                case _:
                    assert_never(command)
        except ClientError as error:
            self._replies.refuse(error, reply_id, command.session)
        except Exception as error:
            self._report_bug(error, reply_id, command.session)

    async def _subscribe(self, command: Subscribe, reply_id: str | None, by: float) -> None:
        """The earlier subscription to this session goes on until the new one can begin, so an error loses nothing."""
        session = command.session
        access = self._greeting.access("read", session)
        if session not in self._followed and len(self._followed) >= self._limits["max_subscriptions"]:
            raise ClientError("too_many_subscriptions", "max_subscriptions sessions are followed already.")
        self._followed.add(session)
        try:
            async with within_deadline("subscribe", by):
                follower = await self._followers.acquire(session, command.cursor, access=access)
            try:
                self._check_access(session, follower)  # the token may be another by now
            except ClientError:
                self._followers.release(follower)
                raise
        except BaseException:
            if session not in self._viewers:
                self._followed.discard(session)
            raise
        self._followed.add(session)  # again: a deletion may have removed the earlier subscription meanwhile
        earlier = self._viewers.get(session)
        if earlier is not None:
            earlier.close()
        viewer = self._viewers[session] = Viewer(follower, self._sink, self._deleted)
        viewer.begin(command.cursor, command.start, reply_id, earlier=earlier)
        metrics.subscriptions.inc()
        if earlier is not None:
            await self._release_viewer(earlier)

    def _check_access(self, session: str, follower: Follower) -> None:
        """Raises ClientError: `forbidden`, `unauthenticated`."""
        access = self._greeting.access("read", session)
        if access.sub is not None and access.sub != follower.sub:
            raise foreign()

    async def _drop_what_is_not_allowed(self) -> None:
        """A newer token may allow less."""
        for session in list(self._viewers):
            viewer = self._viewers.get(session)
            if viewer is None:
                continue  # it has left while others were dropped
            try:
                self._check_access(session, viewer.follower)
            except ClientError as error:
                self._replies.refuse(error, None, session)
                await self._unsubscribe(session)
                self._replies.send(frames.Unsubscribed(session=session))

    async def _unsubscribe(self, session: str) -> None:
        self._followed.discard(session)
        viewer = self._viewers.pop(session, None)
        if viewer is not None:
            await self._release_viewer(viewer)

    async def _release_viewer(self, viewer: Viewer) -> None:
        metrics.subscriptions.dec()
        self._followers.release(viewer.follower)
        await viewer.aclose()

    def _deleted(self, viewer: Viewer) -> None:
        """The session was deleted, and this viewer ends with it; a later `subscribe` makes a new one."""
        session = viewer.follower.session
        if self._viewers.get(session) is viewer:
            del self._viewers[session]
            self._followed.discard(session)
            task = asyncio.create_task(self._release_viewer(viewer), name=f"give back {session}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _finish(self) -> None:
        """Still carry out every command, within its time: a stop sent just before a disconnect counts."""
        try:
            if self._closing is not None:
                self._closing.cancel()
                await asyncio.gather(self._closing, return_exceptions=True)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=ANSWER_WITHIN_S)
        finally:  # also when cancelled
            for task in self._tasks:
                task.cancel()
            while self._tasks or self._viewers:  # a deletion may still be releasing a viewer
                await asyncio.gather(*self._tasks, return_exceptions=True)
                for session in list(self._viewers):
                    await self._unsubscribe(session)

    def _welcome(self, reply_id: str | None, expires_at: float | None) -> frames.Welcome:
        self._on_welcome()
        return frames.Welcome(
            id=reply_id,
            connection=self._id,
            protocol="relay.v1",
            heartbeat_s=self._heartbeat_s,
            limits=self._limits,
            features=self._features,
            expires_at=expires_at,
        )

    def _pong(self, reply_id: str | None, t: Any) -> None:
        try:
            self._replies.send(frames.Pong(id=reply_id, t=t))
        except RecursionError:  # encoding takes more stack than reading did
            self._replies.refuse(ClientError("bad_message", "The command is nested too deeply."), reply_id)
