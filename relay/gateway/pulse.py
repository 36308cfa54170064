"""The pulse of a connection: heartbeats for the peer, and how we notice that the peer is dead or stalled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from relay import metrics
from relay.gateway.sinks import Liveness, Sink
from relay.protocol import frames


class LiveSink(Sink, Liveness, Protocol):
    sent_at: float


@dataclass(frozen=True, slots=True)
class ViewerLimits:
    """With more than `buffer_bytes` unsent, events are merged. A viewer that takes nothing for `stall_s` is closed."""

    buffer_bytes: int
    heartbeat_s: float
    stall_s: float


class Pulse:
    """Heartbeats, and the two ways in which a connection can be dead: nothing heard, or nothing taken."""

    def __init__(self, sink: LiveSink, heartbeat_s: float, stall_s: float) -> None:
        self._sink = sink
        self._heartbeat_s = heartbeat_s
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._pinged_at = self._taken_at = self._loop.time()
        self._taken = 0

    def start(self) -> None:
        self._beat()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        now = self._loop.time()
        if self._sink.unsent_bytes() == 0 or self._sink.taken_bytes() != self._taken:
            self._taken, self._taken_at = self._sink.taken_bytes(), now
        if now - self._taken_at >= self._stall_s:
            self._close(4413, "nothing was taken for too long")
            return
        if self._sink.unsent_bytes() == 0 and now - self._sink.heard_at() >= 2 * self._heartbeat_s:
            self._close(4408, "no sign of life")
            return
        if now - self._pinged_at >= self._heartbeat_s:
            self._pinged_at = now
            self._sink.ping()
        if now - self._sink.sent_at >= self._heartbeat_s:
            self._sink.send(frames.encode(frames.Heartbeat()))
        due = min(self._sink.sent_at, self._pinged_at) + self._heartbeat_s
        self._timer = self._loop.call_later(min(max(0.01, due - now), self._stall_s / 4), self._beat)

    def _close(self, code: int, reason: str) -> None:
        metrics.closes.labels(str(code)).inc()
        self._sink.close(code, reason)
