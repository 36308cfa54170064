"""One subscription connection to Redis for a whole process, on a hiredis reader.

Pub/sub is only a hint: this class promises no message, but never hides a loss. After `acknowledged` every message
that this connection received is handed on in order; whenever the connection may have missed some, `acknowledged`
comes again. redis-py's PubSub re-subscribes by itself and says nothing; a half-open one notices nothing; and it costs
three times the CPU per message (46 µs against 13.5, measured).
"""

from __future__ import annotations

import asyncio
import random
import ssl
from typing import Any, Protocol

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from relay import logging, metrics

PING_AFTER_S = 0.3
LOST_AFTER_S = 1.0  # of silence: whoever listens had better look himself
DEAD_AFTER_S = 2.5  # then another connection is tried
_CHECK_S = 0.1
_CONNECT_TIMEOUT_S = 2.0
_BACKOFF_S = (0.05, 1.0)
# A Redis whose disk is full, that loads its data or has lost its master refuses a PING, but no subscription: it lives.
_ANSWERS_TO_A_PING = ("MISCONF ", "LOADING ", "MASTERDOWN ")

log = logging.get("subscription")


class Listener(Protocol):
    """What a channel's follower hears. Called on the event loop; must not block or raise."""

    def acknowledged(self) -> None:
        """Subscribed, for the first time or again: anything before this moment may have been missed."""

    def message(self, payload: bytes) -> None: ...

    def lost(self) -> None:
        """Nothing is heard of Redis here: hints may not come for a while. `acknowledged` need not follow."""


class Source(Protocol):
    """Where a follower's hints come from."""

    async def subscribe(self, channel: str, listener: Listener) -> None:
        """Returns once the subscription is in force; `acknowledged` has been called by then."""

    def unsubscribe(self, channel: str, listener: Listener) -> None:
        """Nothing more for this listener; a later one of the same channel is left alone."""


class Subscriber:
    """The process's subscription connection: connects, re-connects with backoff, and checks that it is alive."""

    def __init__(self, url: str, *, sharded: bool = False) -> None:
        self._address: dict[str, Any] = dict(parse_url(url))
        self._verbs = (b"SSUBSCRIBE", b"SUNSUBSCRIBE") if sharded else (b"SUBSCRIBE", b"UNSUBSCRIBE")
        self._listeners: dict[bytes, Listener] = {}
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}
        self._wire: _Wire | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="subscriber")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def subscribe(self, channel: str, listener: Listener) -> None:
        """One listener per channel. Waits for the acknowledgement as long as its caller lets it."""
        name = channel.encode()
        self._listeners[name] = listener
        acknowledged = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(acknowledged)
        if self._wire is not None:
            self._wire.send(self._verbs[0], name)
        await acknowledged

    def unsubscribe(self, channel: str, listener: Listener) -> None:
        name = channel.encode()
        if self._listeners.get(name) is not listener:
            return
        del self._listeners[name]
        for waiting in self._waiting.pop(name, []):
            waiting.cancel()
        if self._wire is not None:
            self._wire.send(self._verbs[1], name)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    wire = await self._connect()
                await self._watch(wire)
                if wire.served:
                    failures = 0
            except (OSError, TimeoutError, hiredis.HiredisError) as error:
                log.warning("subscription_failed", error=type(error).__name__, detail=str(error)[:200])
            failures += 1
            ceiling = min(_BACKOFF_S[1], _BACKOFF_S[0] * 2 ** min(failures, 8))
            await asyncio.sleep(random.uniform(ceiling / 2, ceiling))

    async def _connect(self) -> _Wire:
        loop = asyncio.get_running_loop()
        address = self._address
        if path := address.get("path"):
            _, wire = await loop.create_unix_connection(lambda: _Wire(self._reply), path)
        else:
            tls = _tls(address) if address.get("connection_class") is SSLConnection else None
            host, port = address.get("host", "localhost"), address.get("port", 6379)
            _, wire = await loop.create_connection(lambda: _Wire(self._reply), host, port, ssl=tls)
        if password := address.get("password"):
            user = [address["username"].encode()] if address.get("username") else []
            wire.send(b"AUTH", *user, password.encode())
        for name in self._listeners:
            wire.send(self._verbs[0], name)
        self._wire = wire
        return wire

    async def _watch(self, wire: _Wire) -> None:
        """Return when the connection is lost; lose it ourselves when it has been silent for too long."""
        loop = asyncio.get_running_loop()
        pinged_at = told_at = wire.heard_at
        try:
            while not wire.lost.done():
                await asyncio.wait([wire.lost], timeout=_CHECK_S)
                silent_s = loop.time() - wire.heard_at
                if silent_s > PING_AFTER_S and pinged_at < wire.heard_at + PING_AFTER_S:
                    pinged_at = loop.time()
                    wire.send(b"PING")
                # Silence that was not asked about says nothing: this process may have been busy itself.
                unanswered_s = loop.time() - pinged_at + PING_AFTER_S if pinged_at > wire.heard_at else 0
                if unanswered_s > DEAD_AFTER_S:
                    break
                if wire.served and unanswered_s > LOST_AFTER_S and told_at <= wire.heard_at:
                    told_at = loop.time()
                    self._tell_lost()
        finally:
            self._wire = None
            wire.abort()
        if wire.served:  # else there was nothing to lose since they were told last
            self._tell_lost()
        metrics.subscriber_losses.inc()
        reason = wire.lost.result() if wire.lost.done() else "silent"
        log.warning("subscription_lost", channels=len(self._listeners), reason=reason)

    def _tell_lost(self) -> None:
        for listener in tuple(self._listeners.values()):
            listener.lost()

    def _reply(self, reply: Any) -> None:
        if self._wire is not None and not isinstance(reply, hiredis.ReplyError):
            self._wire.served = True
        if isinstance(reply, list) and len(reply) == 3:
            kind, name, value = reply
            if kind in (b"message", b"smessage"):
                if (listener := self._listeners.get(name)) is not None:
                    listener.message(value)
            elif kind in (b"subscribe", b"ssubscribe") and (listener := self._listeners.get(name)) is not None:
                listener.acknowledged()
                for waiting in self._waiting.pop(name, []):
                    if not waiting.done():
                        waiting.set_result(None)
        elif isinstance(reply, hiredis.ReplyError) and not str(reply).startswith(_ANSWERS_TO_A_PING):
            log.error("subscription_refused", detail=str(reply)[:200])
            if self._wire is not None:
                self._wire.abort()


def _tls(address: dict[str, Any]) -> ssl.SSLContext:
    """The same context that redis-py makes of the URL's ssl_… options."""
    options = {name: value for name, value in address.items() if name.startswith("ssl_")}
    context: ssl.SSLContext = SSLConnection(**options).ssl_context.get()
    return context


class _Wire(asyncio.Protocol):
    """Bytes to replies and commands to bytes; RESP2, which every server speaks without being asked."""

    def __init__(self, on_reply: Any) -> None:
        self._on_reply = on_reply
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self.heard_at = loop.time()
        self.served = False  # a proxy, or a Redis that is full, takes a connection only to close it
        self.lost: asyncio.Future[str] = loop.create_future()

    def send(self, *command: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub says a 1-tuple

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._time()
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._on_reply(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(type(exc).__name__ if exc else "closed")
