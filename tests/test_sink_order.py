"""The watch on the sinks notices what it is there for, here and in the processes of scenarios."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

from relay.follow.broadcast import Burst
from relay.gateway import event_stream, sinks
from relay.gateway.codecs import JSON
from tests.scenarios.processes import WATCHING
from tests.sink_order import Order

BEGUN = b'{"type":"subscribed","session":"s","epoch":"e","at":4,"head":9,"recovered":true,"active":[]}'


def live(seq: int, session: str = "s") -> bytes:
    return b'{"session":"%s","seq":%d,"type":"status"}' % (session.encode(), seq)


def catchup(first: int, last: int) -> bytes:
    return b'{"type":"catchup","session":"s","from":%d,"seq":%d,"events":[]}' % (first, last)


@pytest.mark.parametrize(
    ("frames", "wrong"),
    [
        ([BEGUN, live(5), catchup(6, 8), live(9)], 0),
        ([BEGUN, live(5), BEGUN, live(5)], 0),
        ([BEGUN, b'{"type":"degraded","session":"s"}', b'{"type":"heartbeat"}', live(5)], 0),
        ([BEGUN, live(6)], 1),  # a hole
        ([BEGUN, live(5), live(5)], 1),  # twice
        ([BEGUN, catchup(4, 6)], 1),  # a part of it twice
        ([BEGUN, live(5), catchup(6, 8), live(7)], 1),
        ([live(5)], 1),
        ([BEGUN, b'{"type":"unsubscribed","session":"s"}', live(5)], 1),
        ([BEGUN, live(5, "t")], 1),
    ],
)
def test_it_complains_of_what_is_not_the_next_frame_of_its_session(frames: list[bytes], wrong: int) -> None:
    order = Order()
    assert len([frame for frame in frames if order.complaint(frame)]) == wrong


@pytest.mark.parametrize("kind", ["AsgiSink", "SseSink", "SseSink of one generation"])
async def test_sinks_are_watched_in_whatever_way_they_are_fed(
    seqs_in_order_at_every_sink: list[str], kind: str
) -> None:
    async def taken(_: Any) -> None:
        await asyncio.sleep(0)

    only = "g1" if kind.endswith("generation") else None
    sink = sinks.AsgiSink(taken, JSON, 1000) if kind == "AsgiSink" else event_stream.SseSink(taken, 1000, only)
    for payload in [BEGUN, live(5)]:
        sink.send(payload)
    sink.burst(Burst(6, [live(6), live(7)]))
    assert seqs_in_order_at_every_sink == []
    sink.burst(Burst(7, [live(7), live(8)]))
    sink.send(live(10))
    assert len(seqs_in_order_at_every_sink) == 2
    seqs_in_order_at_every_sink.clear()
    await sink.aclose()


@pytest.mark.parametrize("kind", ["sinks.TransportSink", "sinks.BufferedSink", "event_stream.SseSink"])
def test_gateways_of_scenarios_watch_theirs(kind: str) -> None:
    program = f"from relay.gateway import event_stream, sinks; print({kind}.burst.__wrapped__.__name__)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(WATCHING)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("burst", "")
