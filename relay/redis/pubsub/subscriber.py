"""Subscriptions of a whole process: each channel on the server that publishes it, on one connection per server.

Pub/sub is only a hint: this class promises no message, but never hides a loss. After `acknowledged` every message that
the connection received is passed on in order; whenever it may have missed some, `acknowledged` is called again.
redis-py's PubSub subscribes again silently, does not notice a half-open connection, and costs three times the CPU per
message (46 µs against 13.5, measured).

In a Cluster only the server that has a channel's slot publishes it. The slot may move at any moment: then the channel
is subscribed on its new server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from relay import logging, metrics
from relay.redis.address import Endpoint
from relay.redis.pubsub.server_feed import ServerFeed
from relay.redis.topology import Topology

_ASSIGN_AFTER_S = 0.02  # after a change: not at once, as two servers may each report that the other one has a slot
_ASSIGN_RETRY_S = 0.25  # while no server is known for a channel's slot, or its server does not publish it now
_UNREADABLE_S = 60.0  # without a message that cannot be read; then the next one is logged again

logger = logging.get_logger("subscription")


class ChannelListener(Protocol):
    """Who listens to one channel: a follower. Called on the event loop; must not block or raise."""

    def acknowledged(self) -> None:
        """Subscribed, for the first time or again: anything before this moment may have been missed."""

    def message(self, payload: bytes) -> None: ...

    def lost(self) -> None:
        """Redis is silent: there may be no hints for a while. `acknowledged` need not follow."""


class ChannelSource(Protocol):
    """Where a follower's hints come from."""

    async def subscribe(self, channel: str, listener: ChannelListener) -> None:
        """Returns when the subscription is active; `acknowledged` has been called by then."""

    def unsubscribe(self, channel: str, listener: ChannelListener) -> None:
        """Stop calling this listener; a later one of the same channel is not affected."""


class Subscriber:
    """The process's subscriptions. `start` it before, and `aclose` it after everything else."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._listeners: dict[bytes, ChannelListener] = {}
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}
        self._assigned: dict[bytes, ServerFeed] = {}
        self._feeds: dict[Endpoint, ServerFeed] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._unreadable = logging.FailureLog(logger, "message_failed", settled_s=_UNREADABLE_S)

    def start(self) -> None:
        self._topology.on_change(self._assign_soon)
        self._topology.refresh()

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._listeners.clear()
        await asyncio.gather(*(feed.aclose() for feed in self._feeds.values()), *self._leaving)

    async def subscribe(self, channel: str, listener: ChannelListener) -> None:
        """One listener per channel. It waits for the acknowledgement without a limit; the caller sets one."""
        name = channel.encode()
        self._listeners[name] = listener
        acknowledged = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(acknowledged)
        if (feed := self._assigned.get(name)) is not None:
            feed.subscribe(name)
        else:
            self._assign(name)
        await acknowledged

    def unsubscribe(self, channel: str, listener: ChannelListener) -> None:
        name = channel.encode()
        if self._listeners.get(name) is not listener:
            return
        del self._listeners[name]
        for waiting in self._waiting.pop(name, []):
            waiting.cancel()
        if (feed := self._assigned.pop(name, None)) is not None:
            feed.unsubscribe(name)

    # Called by feeds

    def message(self, name: bytes, payload: bytes) -> None:
        if (listener := self._listeners.get(name)) is None:
            return
        try:
            listener.message(payload)
            self._unreadable.succeeded()
        except Exception as error:  # perhaps not our message; it must not cost all others their connection
            metrics.bugs.labels("subscription").inc()
            self._unreadable.unexpected(error, channel=name.decode(errors="replace"))
            listener.lost()

    def acknowledged(self, name: bytes) -> None:
        if (listener := self._listeners.get(name)) is not None:
            listener.acknowledged()
        for waiting in self._waiting.pop(name, []):
            if not waiting.done():
                waiting.set_result(None)

    def lost(self, names: Iterable[bytes]) -> None:
        for name in names:
            if (listener := self._listeners.get(name)) is not None:
                listener.lost()

    def silent(self) -> None:
        self._topology.refresh()

    def rejected(self, names: Iterable[bytes], *, moved: bool) -> None:
        for name in names:
            self._assigned.pop(name, None)
        self._topology.refresh()
        self._assign_soon(_ASSIGN_AFTER_S if moved else _ASSIGN_RETRY_S)

    def moved(self, slot: int, host: str, port: int, reported_by: Endpoint) -> None:
        self._topology.moved(slot, host, port, reported_by)

    # Which feed has which channel

    def _assign_soon(self, after_s: float = _ASSIGN_AFTER_S) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._assign_all)

    def _assign_all(self) -> None:
        self._timer = None
        for name in tuple(self._listeners):
            self._assign(name)
        slot_map = self._topology.slot_map
        gone = self._feeds.keys() - slot_map.masters() if slot_map is not None else ()
        for endpoint in gone:
            task = asyncio.create_task(self._feeds.pop(endpoint).aclose(), name="leaving a feed")
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _assign(self, name: bytes) -> None:
        """Subscribe to a channel on the server that publishes it, unless that has been done."""
        slot_map = self._topology.slot_map
        owner = slot_map.owner(name) if slot_map is not None else None
        assigned = self._assigned.get(name)
        if slot_map is None or owner is None:
            self._topology.refresh()
            self._assign_soon(_ASSIGN_RETRY_S)
        elif assigned is None or assigned.endpoint != owner:
            if assigned is not None:
                assigned.unsubscribe(name)
            if owner not in self._feeds:
                self._feeds[owner] = ServerFeed(self._topology.address, owner, slot_map.sharded, self)
            self._assigned[name] = self._feeds[owner]
            self._assigned[name].subscribe(name)
