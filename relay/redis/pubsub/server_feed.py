"""The feed of one server: what it publishes, over one connection that is made again whenever it is lost.

It passes messages on in the order received, and hides no loss: whenever it may have missed something, it subscribes
again and reports that.
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
LOST_AFTER_S = 1.0  # of silence: listeners should read for themselves
DEAD_AFTER_S = 2.5  # then another connection is tried
BLIP_S = 0.3  # a connection that is made again within this counts as not lost
_CHECK_S = 0.1
_CONNECT_TIMEOUT_S = 2.0
_BACKOFF_S = (0.05, 1.0)
# A Redis whose disk is full refuses PING, but no subscription: it lives.
_LIVE_PING_ERRORS = ("MISCONF ",)
_TRANSIENT_ERRORS = ("CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN")

logger = logging.get_logger("subscription")


class FeedListener(Protocol):
    """The owner of a feed. Called on the event loop; must not block or raise."""

    def acknowledged(self, name: bytes) -> None: ...

    def message(self, name: bytes, payload: bytes) -> None: ...

    def silent(self) -> None:
        """The server is silent, or cannot be reached; called again and again."""

    def lost(self, names: Iterable[bytes]) -> None:
        """For these channels there may be no messages for a while; called once."""

    def rejected(self, names: Iterable[bytes], *, moved: bool) -> None:
        """The server does not publish these now, or (`moved`) any more; this feed has dropped them."""

    def moved(self, slot: int, host: str, port: int, reported_by: Endpoint) -> None:
        """The server reported which server has this slot."""


class ServerFeed:
    """Our channels on one server."""

    def __init__(self, address: RedisAddress, endpoint: Endpoint, sharded: bool, listener: FeedListener) -> None:
        self.endpoint = endpoint
        self.channels: set[bytes] = set()
        self._address = address
        self._verbs = (b"SSUBSCRIBE", b"SUNSUBSCRIBE") if sharded else (b"SUBSCRIBE", b"UNSUBSCRIBE")
        self._listener = listener
        self._logger = logger.bind(server=f"{endpoint.host}:{endpoint.port}")
        # Settled only after a while: a connection that is lost or refused again and again begins well each time.
        self._lost_again, self._failing, self._refusals = (
            logging.FailureLog(self._logger, event, settled_s=logging.SETTLED_S)
            for event in ("subscription_lost", "subscription_failed", "subscription_refused")
        )
        self._asked: set[bytes] = set()  # subscribed by us, not acknowledged yet
        self._leaving: Counter[bytes] = Counter()  # unsubscribed by us, not acknowledged yet
        self._connection: RespConnection | None = None
        self._unheard: set[bytes] = set()  # since a connection was lost; their listeners do not know yet
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
                    connection = await connect_resp(self._address, self.endpoint, self._reply)
                await self._watch(connection)
                if connection.has_replied:
                    failures = 0
            except (OSError, TimeoutError) as error:
                self._failing.failed(str(error)[:200], error=type(error).__name__)
            except Exception as error:  # a feed must not die silently: its listeners would never hear again
                metrics.bugs.labels("subscription").inc()
                self._failing.unexpected(error)
            failures += 1
            self._listener.silent()
            ceiling = min(_BACKOFF_S[1], _BACKOFF_S[0] * 2 ** min(failures, 8))
            await asyncio.sleep(random.uniform(ceiling / 2, ceiling))

    async def _watch(self, connection: RespConnection) -> None:
        """Return when the connection is lost; drop it ourselves when it has been silent for too long."""
        loop = asyncio.get_running_loop()
        pinged_at = reported_at = connection.heard_at
        try:
            self._begin(connection)
            while not connection.lost.done():
                await asyncio.wait([connection.lost], timeout=_CHECK_S)
                if connection.has_replied and not self._asked:
                    for trouble in (self._lost_again, self._failing, self._refusals):
                        trouble.succeeded()
                silent_s = loop.time() - connection.heard_at
                if silent_s > PING_AFTER_S and pinged_at < connection.heard_at + PING_AFTER_S:
                    pinged_at = loop.time()
                    connection.send(b"PING")
                # Only silence after a PING counts: this process may have been busy itself.
                unanswered_s = loop.time() - pinged_at + PING_AFTER_S if pinged_at > connection.heard_at else 0
                if unanswered_s > DEAD_AFTER_S:
                    break
                if unanswered_s > LOST_AFTER_S:
                    self._listener.silent()
                    if connection.has_replied and reported_at <= connection.heard_at:
                        reported_at = loop.time()
                        self._listener.lost(tuple(self.channels))
        finally:
            self._connection = None
            connection.abort()
        metrics.subscriber_losses.inc()
        reason = connection.lost.result() if connection.lost.done() else "silent"
        self._lost_again.failed(reason, channels=len(self.channels))
        if connection.has_replied:  # otherwise nothing could be lost since the last report
            self._unheard |= self.channels
            self._blip = self._blip or timeouts.Timer(self._lost)
            if self._blip.due is None:
                self._blip.start(BLIP_S)

    def _lost(self) -> None:
        """Report the loss, except for channels acknowledged again by now: those sync anyway, and once is enough."""
        unheard, self._unheard = self._unheard, set()
        self._listener.lost(unheard)

    def _begin(self, connection: RespConnection) -> None:
        self._connection = connection
        if identity := credentials(self._address.options):
            connection.send("AUTH", *identity)  # an error comes as a reply
        self._leaving.clear()
        self._asked = set(self.channels)
        for name in self.channels:
            connection.send(self._verbs[0], name)

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
        """We unsubscribed, or the channel's slot went to another server."""
        if name in self._leaving:
            self._leaving[name] -= 1
            if not self._leaving[name]:
                del self._leaving[name]
        elif name in self.channels:
            self._reject([name], moved=True)

    def _refused(self, refusal: hiredis.ReplyError) -> None:
        """An error reply does not name its command; a server that is asked again replies again."""
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
