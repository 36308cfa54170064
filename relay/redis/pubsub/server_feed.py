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
from relay.redis.address import Address, Endpoint
from relay.redis.errors import denied, lacks, missing_right
from relay.redis.resp_connection import Wire, connect, credentials

PING_AFTER_S = 0.3
LOST_AFTER_S = 1.0  # of silence: whoever listens had better look himself
DEAD_AFTER_S = 2.5  # then another connection is tried
BLIP_S = 0.3  # a connection that is made again within this was not missed by anybody
_CHECK_S = 0.1
_CONNECT_TIMEOUT_S = 2.0
_BACKOFF_S = (0.05, 1.0)
# A Redis whose disk is full refuses a PING, but no subscription: it lives.
_ANSWERS_TO_A_PING = ("MISCONF ",)
_NOT_NOW = ("CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN")

log = logging.get("subscription")


class Hears(Protocol):
    """Who has a feed. Called on the event loop; must not block or raise."""

    def acknowledged(self, name: bytes) -> None: ...

    def message(self, name: bytes, payload: bytes) -> None: ...

    def silent(self) -> None:
        """Nothing is heard of the server, or it cannot be reached; said again and again."""

    def lost(self, names: Iterable[bytes]) -> None:
        """For these channels there may be no messages for a while; said once."""

    def turned_away(self, names: Iterable[bytes], *, moved: bool) -> None:
        """The server will not publish these, now or (`moved`) any more; they are not of this feed any more."""

    def moved(self, slot: int, host: str, port: int, said_by: Endpoint) -> None:
        """The server said who has this slot."""


class Feed:
    """The channels asked of one server."""

    def __init__(self, address: Address, endpoint: Endpoint, sharded: bool, hears: Hears) -> None:
        self.endpoint = endpoint
        self.channels: set[bytes] = set()
        self._address = address
        self._verbs = (b"SSUBSCRIBE", b"SUNSUBSCRIBE") if sharded else (b"SUBSCRIBE", b"UNSUBSCRIBE")
        self._hears = hears
        self._log = log.bind(server=f"{endpoint.host}:{endpoint.port}")
        # A connection that is lost or refused again and again begins well each time.
        self._lost_again, self._failing, self._refusals = (
            logging.Trouble(self._log, event, settled_s=logging.SETTLED_S)
            for event in ("subscription_lost", "subscription_failed", "subscription_refused")
        )
        self._asked: set[bytes] = set()  # and not answered yet
        self._leaving: Counter[bytes] = Counter()  # unsubscribed by us, not answered yet
        self._wire: Wire | None = None
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
        if self._wire is not None:
            self._asked.add(name)
            self._wire.send(self._verbs[0], name)

    def unsubscribe(self, name: bytes) -> None:
        self.channels.discard(name)
        if self._wire is not None:
            self._leaving[name] += 1
            self._wire.send(self._verbs[1], name)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with timeouts.timeout(_CONNECT_TIMEOUT_S):
                    wire = await connect(self._address, self.endpoint, self._reply)
                await self._watch(wire)
                if wire.served:
                    failures = 0
            except (OSError, TimeoutError) as error:
                self._failing.failed(str(error)[:200], error=type(error).__name__)
            except Exception as error:  # a feed that dies in silence would leave its listeners without a word
                metrics.bugs.labels("subscription").inc()
                self._failing.broke(error)
            failures += 1
            self._hears.silent()
            ceiling = min(_BACKOFF_S[1], _BACKOFF_S[0] * 2 ** min(failures, 8))
            await asyncio.sleep(random.uniform(ceiling / 2, ceiling))

    async def _watch(self, wire: Wire) -> None:
        """Return when the connection is lost; lose it ourselves when it has been silent for too long."""
        loop = asyncio.get_running_loop()
        pinged_at = told_at = wire.heard_at
        try:
            self._begin(wire)
            while not wire.lost.done():
                await asyncio.wait([wire.lost], timeout=_CHECK_S)
                if wire.served and not self._asked:
                    for trouble in (self._lost_again, self._failing, self._refusals):
                        trouble.over()
                silent_s = loop.time() - wire.heard_at
                if silent_s > PING_AFTER_S and pinged_at < wire.heard_at + PING_AFTER_S:
                    pinged_at = loop.time()
                    wire.send(b"PING")
                # Silence that was not asked about says nothing: this process may have been busy itself.
                unanswered_s = loop.time() - pinged_at + PING_AFTER_S if pinged_at > wire.heard_at else 0
                if unanswered_s > DEAD_AFTER_S:
                    break
                if unanswered_s > LOST_AFTER_S:
                    self._hears.silent()
                    if wire.served and told_at <= wire.heard_at:
                        told_at = loop.time()
                        self._hears.lost(tuple(self.channels))
        finally:
            self._wire = None
            wire.abort()
        metrics.subscriber_losses.inc()
        reason = wire.lost.result() if wire.lost.done() else "silent"
        self._lost_again.failed(reason, channels=len(self.channels))
        if wire.served:  # else there was nothing to lose since they were told last
            self._unheard |= self.channels
            self._blip = self._blip or timeouts.Timer(self._lost)
            if self._blip.due is None:
                self._blip.start(BLIP_S)

    def _lost(self) -> None:
        """Those that were acknowledged again by now look because of that: one look for each channel, not two."""
        unheard, self._unheard = self._unheard, set()
        self._hears.lost(unheard)

    def _begin(self, wire: Wire) -> None:
        self._wire = wire
        if identity := credentials(self._address.options):
            wire.send("AUTH", *identity)  # what it says to a wrong password comes as a reply
        self._leaving.clear()
        self._asked = set(self.channels)
        for name in self.channels:
            wire.send(self._verbs[0], name)

    def _reply(self, reply: Any) -> None:
        if self._wire is not None and not isinstance(reply, hiredis.ReplyError):
            self._wire.served = True
        if isinstance(reply, list) and len(reply) == 3:
            kind, name, value = reply
            if kind in (b"message", b"smessage"):
                self._hears.message(name, value)
            elif kind in (b"subscribe", b"ssubscribe") and name in self.channels:
                self._asked.discard(name)
                self._unheard.discard(name)
                self._hears.acknowledged(name)
            elif kind in (b"unsubscribe", b"sunsubscribe"):
                self._left(name)
        elif isinstance(reply, hiredis.ReplyError) and not str(reply).startswith(_ANSWERS_TO_A_PING):
            self._refused(reply)

    def _left(self, name: bytes) -> None:
        """We asked for it, or the channel's slot went to another server."""
        if name in self._leaving:
            self._leaving[name] -= 1
            if not self._leaving[name]:
                del self._leaving[name]
        elif name in self.channels:
            self._turn_away([name], moved=True)

    def _refused(self, refusal: hiredis.ReplyError) -> None:
        """An error does not say to which command; a server that is asked again answers again."""
        code, *rest = str(refusal).split(" ")
        if code == "MOVED":
            slot, where = int(rest[0]), rest[1].rpartition(":")
            self._hears.moved(slot, where[0], int(where[2]), self.endpoint)
            self._turn_away([name for name in self._asked if key_slot(name) == slot], moved=True)
            return
        if code in _NOT_NOW:
            self._turn_away(list(self._asked), moved=False)
            return
        self._refusals.failed(lacks(missing_right(refusal)) if denied(refusal) else str(refusal)[:200], ERROR)
        if self._wire is not None:
            self._wire.abort()

    def _turn_away(self, names: list[bytes], *, moved: bool) -> None:
        self.channels.difference_update(names)
        self._asked.difference_update(names)
        self._hears.turned_away(names, moved=moved)
