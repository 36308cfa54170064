"""One WebSocket connection: commands in, frames out.

Commands for one session are carried out in the order in which they came; those for different sessions run side by
side, so that a slow submit never holds up a stop elsewhere. At most MAX_IN_FLIGHT run at a time: beyond that we stop
reading. Each is answered within ANSWER_WITHIN_S of when it was read, including its wait for those before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, assert_never

from relay import logging, metrics
from relay.errors import ClientError
from relay.gateway.codecs import Codec
from relay.gateway.deadlines import ANSWER_WITHIN_S, answer_deadline, within_deadline
from relay.gateway.follower_pool import FollowerPool
from relay.gateway.pulse import LiveSink, Pulse
from relay.gateway.submissions import Submissions
from relay.gateway.viewer import Viewer
from relay.protocol import commands, frames
from relay.protocol.commands import Hello, Ping, Stop, Submit, Subscribe, Unsubscribe
from relay.protocol.words import FEATURES, SESSION, new_id

MAX_IN_FLIGHT = 64

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
        *,
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
        self._language = language
        self._pulse = Pulse(sink, heartbeat_s, stall_s)
        self._heartbeat_s = heartbeat_s
        self._viewers: dict[str, Viewer] = {}
        self._followed: set[str] = set()  # sessions that are followed or about to be: what the limit counts
        self._tasks: set[asyncio.Task[None]] = set()  # commands in flight
        self._last_command: dict[str, asyncio.Task[None]] = {}  # session → its last command, to keep the order
        self._free = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._closing: asyncio.Task[None] | None = None  # when draining: closes once every command is answered

    async def run(self, receive: Callable[[], Awaitable[Message]]) -> None:
        """Run until the client has gone."""
        metrics.connections.inc()
        self._welcome(None)
        self._pulse.start()
        try:
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
            await self._finish()

    def drain(self, reconnect_in_ms: int, close: Callable[[], None]) -> None:
        """Tell the client when to come back; `close` is called once its earlier commands are answered."""
        self._send(frames.Draining(reconnect_in_ms=reconnect_in_ms))
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
            self._refuse_unread(error, self._codec.peek(raw))
            return
        reply_id = commands.reply_id(fields)
        try:
            command = commands.check(fields, self._limits)
        except ClientError as error:
            self._refuse_unread(error, fields)
            return
        metrics.commands.labels(fields["type"]).inc()
        match command:
            case Ping(t=t):
                self._pong(reply_id, t)
            case Hello():
                self._welcome(reply_id)
            case Subscribe() | Unsubscribe() | Submit() | Stop():
                ignored = commands.ignored(fields) if isinstance(command, Submit) else []
                await self._in_order(command.session, self._carry_out(command, reply_id, answer_deadline(), ignored))
            case _:
                assert_never(command)

    def _read(self, raw: str | bytes) -> commands.Fields:
        max_bytes = self._limits["max_command_bytes"]
        if self._codec.json_bytes(raw, max_bytes) > max_bytes:
            raise ClientError("too_large", "The command is larger than max_command_bytes.")
        return self._codec.read(raw)

    def _refuse_unread(self, error: ClientError, fields: commands.Fields) -> None:
        """Refuse what is not a valid command, with the id and session that could be read from it."""
        metrics.commands.labels("refused").inc()
        session = fields.get("session")
        self._refuse(error, commands.reply_id(fields), session if isinstance(session, str) else None)

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

    async def _carry_out(
        self, command: Subscribe | Unsubscribe | Submit | Stop, reply_id: str | None, by: float, ignored: list[str]
    ) -> None:
        try:
            match command:
                case Subscribe():
                    await self._subscribe(command, reply_id, by)
                case Unsubscribe():
                    await self._unsubscribe(command.session)
                    self._send(frames.Unsubscribed(id=reply_id, session=command.session))
                case Submit():
                    generation, duplicate = await self._submissions.submit(command, self._language, by)
                    self._send(
                        frames.Accepted(
                            id=reply_id,
                            session=command.session,
                            generation=generation,
                            duplicate=duplicate,
                            ignored=ignored or None,
                        )
                    )
                case Stop():
                    already = await self._submissions.stop(command.session, command.generation, by)
                    self._send(
                        frames.Stopping(
                            id=reply_id, session=command.session, generation=command.generation, already_ended=already
                        )
                    )
                case _:
                    assert_never(command)
        except ClientError as error:
            self._refuse(error, reply_id, command.session)
        except Exception as error:  # our bug: the client gets a calm sentence, the log the traceback
            metrics.bugs.labels("command").inc()
            _failing.unexpected(error, connection=self._id, session=command.session)
            self._refuse(ClientError("internal", "Something went wrong here."), reply_id, command.session)

    async def _subscribe(self, command: Subscribe, reply_id: str | None, by: float) -> None:
        """The earlier subscription to this session goes on until the new one can begin, so an error loses nothing."""
        session = command.session
        if session not in self._followed and len(self._followed) >= self._limits["max_subscriptions"]:
            raise ClientError("too_many_subscriptions", "max_subscriptions sessions are followed already.")
        self._followed.add(session)
        try:
            async with within_deadline("subscribe", by):
                follower = await self._followers.acquire(session, command.cursor)
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

    def _welcome(self, reply_id: str | None) -> None:
        self._send(
            frames.Welcome(
                id=reply_id,
                connection=self._id,
                protocol="relay.v1",
                heartbeat_s=self._heartbeat_s,
                limits=self._limits,
                features=list(FEATURES),
            )
        )

    def _pong(self, reply_id: str | None, t: Any) -> None:
        try:
            self._send(frames.Pong(id=reply_id, t=t))
        except RecursionError:  # encoding takes more stack than reading did
            self._refuse(ClientError("bad_message", "The command is nested too deeply."), reply_id, None)

    def _refuse(self, error: ClientError, reply_id: str | None, session: str | None) -> None:
        metrics.errors.labels(error.code).inc()
        self._send(
            frames.ErrorFrame(
                id=reply_id,
                code=error.code,
                message=error.message,
                retryable=error.retryable,
                retry_after_s=error.retry_after_s,
                session=session if session is not None and SESSION.match(session) else None,
            )
        )

    def _send(self, frame: frames.Frame) -> None:
        self._sink.send(frames.encode(frame))
