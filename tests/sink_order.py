"""Seqs at the sinks: whatever a test is about, what leaves for a client is in order, with no hole and nothing twice.

Every sink of the gateway is watched, in the tests' own process and in the gateways that scenarios start (hooks/). What
clients are shown is judged elsewhere; a client may forgive, or ask again, before anybody notices.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

Report = Callable[[str], None]


class _Frame(msgspec.Struct):
    type: str = ""
    session: str | None = None
    seq: int | None = None
    first: int | None = msgspec.field(default=None, name="from")
    at: int | None = None


_decode = msgspec.json.Decoder(_Frame).decode


class Order:
    """What one sink has sent: the last seq of each session that is subscribed there."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def complaint(self, payload: bytes) -> str:
        """What is wrong with this frame as the next one; "" for nothing."""
        try:
            frame = _decode(payload)
        except msgspec.MsgspecError:
            return ""  # a sink's own tests send anything
        if frame.session is None:
            return ""
        if frame.type == "subscribed" and frame.at is not None:
            self._last[frame.session] = frame.at
        elif frame.type == "unsubscribed":
            self._last.pop(frame.session, None)
        elif frame.seq is not None:
            return self._take(frame.session, frame.type, frame.seq if frame.first is None else frame.first, frame.seq)
        return ""

    def _take(self, session: str, kind: str, first: int, last: int) -> str:
        before = self._last.get(session)
        if before is None:
            return f"{kind} {first} … {last} of {session}, which is not subscribed"
        self._last[session] = max(before, last)
        return f"{kind} {first} … {last} of {session} behind {before}" if first != before + 1 or last < first else ""


_orders: WeakKeyDictionary[Any, Order] = WeakKeyDictionary()
_inside: list[Any] = []  # sinks in whose `burst` we are: it may send each payload by itself


def watch(module: ModuleType, report: Report) -> None:
    """Have every sink class of a module watched, for as long as the process lives."""
    kinds: list[Any] = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    for kind in kinds:
        is_sink = vars(kind).keys() >= {"send", "burst"} and not getattr(kind, "_is_protocol", False)
        if kind.__module__ == module.__name__ and is_sink:
            kind.send = _watched_send(kind.send, report)
            kind.burst = _watched_burst(kind.burst, report)


def _watched_send(send: Callable[[Any, bytes], None], report: Report) -> Callable[[Any, bytes], None]:
    @functools.wraps(send)
    def watched(sink: Any, payload: bytes) -> None:
        if sink not in _inside:
            _judge(sink, [payload], report)
        send(sink, payload)

    return watched


def _watched_burst(burst: Callable[[Any, Any], None], report: Report) -> Callable[[Any, Any], None]:
    @functools.wraps(burst)
    def watched(sink: Any, live: Any) -> None:
        _judge(sink, live.payloads, report)
        _inside.append(sink)
        try:
            burst(sink, live)
        finally:
            _inside.pop()

    return watched


def _judge(sink: Any, payloads: list[bytes], report: Report) -> None:
    order = _orders.setdefault(sink, Order())
    for payload in payloads:
        if complaint := order.complaint(payload):
            report(f"{type(sink).__name__}: {complaint}")
