"""A feed: what one server publishes, on one connection that is made again whenever it is lost.

It hands on in order what the connection received, and hides no loss: whenever it may have missed something, it
subscribes again and says so.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from logging import ERROR
from typing import Any, Protocol

import hiredis
from redis.crc import key_slot

from relay import logging, metrics, timeouts
from relay.redis.address import Endpoint, RedisAddress
from relay.redis.errors import is_permission_denied, missing_right, missing_right_text
from relay.redis.resp_connection import RespConnection, connect_resp, credentials

PING_AFTER_S = 0.3
LOST_AFTER_S = 1.0  # of silence: whoever listens had better look himself
DEAD_AFTER_S = 2.5  # then another connection is tried
BLIP_S = 0.3  # a connection that is made again within this was not missed by anybody
_CHECK_S = 0.1
_CONNECT_TIMEOUT_S = 2.0
_BACKOFF_S = (0.05, 1.0)
# A Redis whose disk is full refuses a PING, but no subscription: it lives.
_LIVE_PING_ERRORS = ("MISCONF ",)
_TRANSIENT_ERRORS = ("CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN")

logger = logging.get_logger("subscription")


class FeedListener(Protocol):
    """Who has a feed. Called on the event loop; must not block or raise."""

    def acknowledged(self, name: bytes) -> None: ...

    def message(self, name: bytes, payload: bytes) -> None: ...

    def silent(self) -> None:
        """Nothing is heard of the server, or it cannot be reached; said again and again."""

    def lost(self, names: Iterable[bytes]) -> None:
        """For these channels there may be no messages for a while; said once."""

    def rejected(self, names: Iterable[bytes], *, moved: bool) -> None:
        """The server will not publish these, now or (`moved`) any more; they are not of this feed any more."""

    def moved(self, slot: int, host: str, port: int, reported_by: Endpoint) -> None:
        """The server said who has this slot."""


class ServerFeed:
    """The channels asked of one server."""

    def __init__(self, address: RedisAddress, endpoint: Endpoint, sharded: bool, listener: FeedListener) -> None:
        self.endpoint = endpoint
        self.channels: set[bytes] = set()
        self._address = address
        self._verbs = (b"SSUBSCRIBE", b"SUNSUBSCRIBE") if sharded else (b"SUBSCRIBE", b"UNSUBSCRIBE")
        self._listener = listener
        self._logger = logger.bind(server=f"{endpoint.host}:{endpoint.port}")
        # A connection that is lost or refused again and again begins well each time.
        self._lost_again, self._failing, self._refusals = (
            logging.FailureLog(self._logger, event, settled_s=logging.SETTLED_S)
            for event in ("subscription_lost", "subscription_failed", "subscription_refused")
        )
        self._asked: set[bytes] = set()  # and not answered yet
        self._leaving: Counter[bytes] = Counter()  # unsubscribed by us, not answered yet
        self._connection: RespConnection | None = None
        self._unheard: set[bytes] = set()  # since a connection was lost, and not told of that yet
        self._blip: timeouts.Timer | None = None
        self._task = asyncio.create_task(self._run(), name=f"feed {endpoint.host}:{endpoint.port}")

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._blip is not None:
            self._blip.stop()

    def subscribe(self, name: bytes) -> None:
        self.channels.add(name)
        if self._connection is not None:
            self._asked.add(name)
            self._connection.send(self._verbs[0], name)

    def unsubscribe(self, name: bytes) -> None:
        self.channels.discard(name)
        if self._connection is not None:
            self._leaving[name] += 1
            self._connection.send(self._verbs[1], name)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with timeouts.timeout(_CONNECT_TIMEOUT_S):
                    wire = await connect_resp(self._address, self.endpoint, self._reply)
                await self._watch(wire)
                if wire.has_replied:
                    failures = 0
            except (OSError, TimeoutError) as error:
                self._failing.failed(str(error)[:200], error=type(error).__name__)
            except Exception as error:  # a feed that dies in silence would leave its listeners without a word
                metrics.bugs.labels("subscription").inc()
                self._failing.unexpected(error)
            failures += 1
            self._listener.silent()
            ceiling = min(_BACKOFF_S[1], _BACKOFF_S[0] * 2 ** min(failures, 8))
            await asyncio.sleep(random.uniform(ceiling / 2, ceiling))

    async def _watch(self, wire: RespConnection) -> None:
        """Return when the connection is lost; lose it ourselves when it has been silent for too long."""
        loop = asyncio.get_running_loop()
        pinged_at = told_at = wire.heard_at
        try:
            self._begin(wire)
            while not wire.lost.done():
                await asyncio.wait([wire.lost], timeout=_CHECK_S)
                if wire.has_replied and not self._asked:
                    for trouble in (self._lost_again, self._failing, self._refusals):
                        trouble.succeeded()
                silent_s = loop.time() - wire.heard_at
                if silent_s > PING_AFTER_S and pinged_at < wire.heard_at + PING_AFTER_S:
                    pinged_at = loop.time()
                    wire.send(b"PING")
                # Silence that was not asked about says nothing: this process may have been busy itself.
                unanswered_s = loop.time() - pinged_at + PING_AFTER_S if pinged_at > wire.heard_at else 0
                if unanswered_s > DEAD_AFTER_S:
                    break
                if unanswered_s > LOST_AFTER_S:
                    self._listener.silent()
                    if wire.has_replied and told_at <= wire.heard_at:
                        told_at = loop.time()
                        self._listener.lost(tuple(self.channels))
        finally:
            self._connection = None
            wire.abort()
        metrics.subscriber_losses.inc()
        reason = wire.lost.result() if wire.lost.done() else "silent"
        self._lost_again.failed(reason, channels=len(self.channels))
        if wire.has_replied:  # else there was nothing to lose since they were told last
            self._unheard |= self.channels
            self._blip = self._blip or timeouts.Timer(self._lost)
            if self._blip.due is None:
                self._blip.start(BLIP_S)

    def _lost(self) -> None:
        """Those that were acknowledged again by now look because of that: one look for each channel, not two."""
        unheard, self._unheard = self._unheard, set()
        self._listener.lost(unheard)

    def _begin(self, wire: RespConnection) -> None:
        self._connection = wire
        if identity := credentials(self._address.options):
            wire.send("AUTH", *identity)  # what it says to a wrong password comes as a reply
        self._leaving.clear()
        self._asked = set(self.channels)
        for name in self.channels:
            wire.send(self._verbs[0], name)

    def _reply(self, reply: Any) -> None:
        if self._connection is not None and not isinstance(reply, hiredis.ReplyError):
            self._connection.has_replied = True
        if isinstance(reply, list) and len(reply) == 3:
            kind, name, value = reply
            if kind in (b"message", b"smessage"):
                self._listener.message(name, value)
            elif kind in (b"subscribe", b"ssubscribe") and name in self.channels:
                self._asked.discard(name)
                self._unheard.discard(name)
                self._listener.acknowledged(name)
            elif kind in (b"unsubscribe", b"sunsubscribe"):
                self._unsubscribed(name)
        elif isinstance(reply, hiredis.ReplyError) and not str(reply).startswith(_LIVE_PING_ERRORS):
            self._refused(reply)

    def _unsubscribed(self, name: bytes) -> None:
        """We asked for it, or the channel's slot went to another server."""
        if name in self._leaving:
            self._leaving[name] -= 1
            if not self._leaving[name]:
                del self._leaving[name]
        elif name in self.channels:
            self._reject([name], moved=True)

    def _refused(self, refusal: hiredis.ReplyError) -> None:
        """An error does not say to which command; a server that is asked again answers again."""
        code, *rest = str(refusal).split(" ")
        if code == "MOVED":
            slot, where = int(rest[0]), rest[1].rpartition(":")
            self._listener.moved(slot, where[0], int(where[2]), self.endpoint)
            self._reject([name for name in self._asked if key_slot(name) == slot], moved=True)
            return
        if code in _TRANSIENT_ERRORS:
            self._reject(list(self._asked), moved=False)
            return
        self._refusals.failed(
            missing_right_text(missing_right(refusal)) if is_permission_denied(refusal) else str(refusal)[:200], ERROR
        )
        if self._connection is not None:
            self._connection.abort()

    def _reject(self, names: list[bytes], *, moved: bool) -> None:
        self.channels.difference_update(names)
        self._asked.difference_update(names)
        self._listener.rejected(names, moved=moved)
