"""The bytes on the wire, literally: a change here is a change of the contract."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from relay.protocol import events, frames
from relay.protocol.events import AnyEvent, EventType
from relay.protocol.frames import (
    Accepted,
    Active,
    Catchup,
    Degraded,
    Draining,
    ErrorFrame,
    Frame,
    Heartbeat,
    Pong,
    Refreshed,
    Restored,
    Stopping,
    Subscribed,
    TokenExpiring,
    Unsubscribed,
    Welcome,
)

# Every frame, with all its fields and with as few as it can have.
FRAMES: list[tuple[Frame, bytes]] = [
    (
        Welcome(connection="c_1", protocol="relay.v1", heartbeat_s=0.5, limits={}, expires_at=1800000000.0),
        b'{"type":"welcome","connection":"c_1","protocol":"relay.v1","heartbeat_s":0.5,"limits":{},'
        b'"expires_at":1800000000.0}',
    ),
    (Refreshed(id="1", expires_at=1800000000.5), b'{"type":"refreshed","id":"1","expires_at":1800000000.5}'),
    (Refreshed(), b'{"type":"refreshed"}'),
    (TokenExpiring(expires_in_s=59.5), b'{"type":"token_expiring","expires_in_s":59.5}'),
    (
        Welcome(id="1", connection="c_1", protocol="relay.v1", heartbeat_s=15.0, limits={"stall_s": 60, "x": 0.5}),
        b'{"type":"welcome","id":"1","connection":"c_1","protocol":"relay.v1","heartbeat_s":15.0,'
        b'"limits":{"stall_s":60,"x":0.5}}',
    ),
    (
        Welcome(connection="c_1", protocol="relay.v1", heartbeat_s=0.5, limits={}, features=["options"]),
        b'{"type":"welcome","connection":"c_1","protocol":"relay.v1","heartbeat_s":0.5,"limits":{},'
        b'"features":["options"]}',
    ),
    (
        Welcome(connection="c_1", protocol="relay.v1", heartbeat_s=0.5, limits={}),
        b'{"type":"welcome","connection":"c_1","protocol":"relay.v1","heartbeat_s":0.5,"limits":{}}',
    ),
    (
        Subscribed(id="2", session="s", epoch="e", at=3, head=9, recovered=True, active=[Active("g", 2, "streaming")]),
        b'{"type":"subscribed","id":"2","session":"s","epoch":"e","at":3,"head":9,"recovered":true,'
        b'"active":[{"generation":"g","attempt":2,"state":"streaming"}]}',
    ),
    (
        Subscribed(session="s", epoch="e", at=0, head=0, recovered=False, active=[]),
        b'{"type":"subscribed","session":"s","epoch":"e","at":0,"head":0,"recovered":false,"active":[]}',
    ),
    (Unsubscribed(id="3", session="s"), b'{"type":"unsubscribed","id":"3","session":"s"}'),
    (Unsubscribed(session="s"), b'{"type":"unsubscribed","session":"s"}'),
    (
        Accepted(id="4", session="s", generation="g", duplicate=False),
        b'{"type":"accepted","id":"4","session":"s","generation":"g","duplicate":false}',
    ),
    (
        Accepted(session="s", generation="g", duplicate=True),
        b'{"type":"accepted","session":"s","generation":"g","duplicate":true}',
    ),
    (
        Accepted(session="s", generation="g", duplicate=True, ignored=["temperature"]),
        b'{"type":"accepted","session":"s","generation":"g","duplicate":true,"ignored":["temperature"]}',
    ),
    (
        Stopping(id="5", session="s", generation="g", already_ended=False),
        b'{"type":"stopping","id":"5","session":"s","generation":"g","already_ended":false}',
    ),
    (Pong(id="6", t={"any": [1, None]}), b'{"type":"pong","id":"6","t":{"any":[1,null]}}'),
    (Pong(t=0), b'{"type":"pong","t":0}'),
    (Pong(), b'{"type":"pong"}'),
    (Heartbeat(), b'{"type":"heartbeat"}'),
    (Draining(reconnect_in_ms=1500), b'{"type":"draining","reconnect_in_ms":1500}'),
    (Degraded(session="s"), b'{"type":"degraded","session":"s"}'),
    (Restored(session="s"), b'{"type":"restored","session":"s"}'),
    (
        ErrorFrame(id="7", code="unavailable", message="Später.", retryable=True, retry_after_s=1.5, session="s"),
        b'{"type":"error","id":"7","code":"unavailable","message":"Sp\xc3\xa4ter.","retryable":true,'
        b'"retry_after_s":1.5,"session":"s"}',
    ),
    (
        ErrorFrame(code="bad_message", message="No.", retryable=False),
        b'{"type":"error","code":"bad_message","message":"No.","retryable":false}',
    ),
    (
        Catchup(session="s", from_seq=4, seq=9, events=[msgspec.Raw(b'{"type":"x"}'), msgspec.Raw(b'{"type":"y"}')]),
        b'{"type":"catchup","session":"s","from":4,"seq":9,"events":[{"type":"x"},{"type":"y"}]}',
    ),
    (
        Catchup(session="s", from_seq=1, seq=1, events=[]),
        b'{"type":"catchup","session":"s","from":1,"seq":1,"events":[]}',
    ),
]

EVENTS: list[tuple[events.Event, bytes]] = [
    (
        events.Message("m_1", "user", "Hi \"you\"\n\u2028", "g"),
        b'{"type":"message","message_id":"m_1","role":"user","content":"Hi \\"you\\"\\n\xe2\x80\xa8","generation":"g"}',
    ),
    (
        events.Status("g", 1, "queued"),
        b'{"type":"status","generation":"g","attempt":1,"state":"queued"}',
    ),
    (
        events.Status("g", 2, "retrying", "openai"),
        b'{"type":"status","generation":"g","attempt":2,"state":"retrying","detail":"openai"}',
    ),
    (
        events.Tokens("g", 1, 0, 3, "Hé 😀"),
        b'{"type":"tokens","generation":"g","attempt":1,"index":0,"count":3,"text":"H\xc3\xa9 \xf0\x9f\x98\x80"}',
    ),
    (
        events.Reasoning("g", 1, 7, 1, "\x00"),
        b'{"type":"reasoning","generation":"g","attempt":1,"index":7,"count":1,"text":"\\u0000"}',
    ),
    (
        events.Data("g", 1, "citations", [{"url": "u"}], 12),
        b'{"type":"data","generation":"g","attempt":1,"name":"citations","value":[{"url":"u"}],"at":12}',
    ),
    (
        events.Data("g", 1, "flag", None),
        b'{"type":"data","generation":"g","attempt":1,"name":"flag","value":null}',
    ),
    (
        events.Restart("g", 3, "worker_lost"),
        b'{"type":"restart","generation":"g","attempt":3,"reason":"worker_lost"}',
    ),
    (
        events.End(
            "g", 1, "complete", 3, 11, 3648157241, events.Timings(377, 4, 305), "length", "demo", "m-1",
            events.Usage(1, 3), "m_1",
        ),
        b'{"type":"end","generation":"g","attempt":1,"reason":"complete","count":3,"text_bytes":11,"crc32":3648157241,'
        b'"timings_ms":{"total":377,"queued":4,"first_token":305},"finish":"length","provider":"demo","model":"m-1",'
        b'"usage":{"input_tokens":1,"output_tokens":3},"message_id":"m_1"}',
    ),
    (
        events.End("g", 1, "failed", 0, 0, 0, events.Timings(9), error=events.Failure("storage", "Sorry.", True)),
        b'{"type":"end","generation":"g","attempt":1,"reason":"failed","count":0,"text_bytes":0,"crc32":0,'
        b'"timings_ms":{"total":9},"error":{"code":"storage","message":"Sorry.","retryable":true}}',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "encoded"), FRAMES, ids=lambda value: type(value).__name__)
def test_a_frame_has_these_bytes(frame: Frame, encoded: bytes) -> None:
    assert frames.encode(frame) == encoded


def test_every_kind_of_frame_is_pinned_here() -> None:
    assert {type(frame) for frame, _ in FRAMES} == set(Frame.__subclasses__())


@pytest.mark.parametrize(("event", "encoded"), EVENTS, ids=lambda value: type(value).__name__)
def test_an_event_has_these_bytes(event: events.Event, encoded: bytes) -> None:
    assert events.encode(event) == encoded


def test_every_kind_of_event_is_pinned_here() -> None:
    assert {type(event) for event, _ in EVENTS} == set(events.Event.__subclasses__()) == set(get_args(AnyEvent))


def test_every_kind_of_event_is_known_by_its_name() -> None:
    assert sorted(str(kind.__struct_config__.tag) for kind in get_args(AnyEvent)) == sorted(get_args(EventType))
    assert [events.known(name) for name in get_args(EventType)] == [*get_args(EventType)]
    assert events.known("future") is None


def test_an_end_has_what_the_log_knows_of_it_and_then_what_its_writer_does() -> None:
    members = [field.encode_name for field in msgspec.structs.fields(events.EndMembers)]
    assert [field.encode_name for field in msgspec.structs.fields(events.End)][-len(members) :] == members


def test_the_members_that_writers_give_have_these_bytes() -> None:
    assert events.STOPPED == b"{}"
    assert events.completed("demo", "length", "m-1", events.Usage(1, 3), "m_1") == (
        b'{"finish":"length","provider":"demo","model":"m-1","usage":{"input_tokens":1,"output_tokens":3},'
        b'"message_id":"m_1"}'
    )
    assert events.completed(None, "stop", None, None, "m_1") == b'{"finish":"stop","message_id":"m_1"}'
    assert events.failed("too_long", "Sorry.", retryable=False, provider="demo") == (
        b'{"provider":"demo","error":{"code":"too_long","message":"Sorry.","retryable":false}}'
    )


def test_an_end_of_a_later_release_can_be_read() -> None:
    frame = {"type": "end", "session": "s", "seq": 9, "generation": "g", "attempt": 1, "reason": "paused", "count": 0}
    frame |= {"text_bytes": 0, "crc32": 0, "timings_ms": {"total": 1, "spent": 2}, "finish": "tired", "new": {}}
    frame |= {"error": {"code": "out_of_tea", "message": "Sorry.", "retryable": True, "until": "five"}}
    end = events.end_of(frame)
    assert (end.reason, end.finish, end.error) == ("paused", "tired", events.Failure("out_of_tea", "Sorry.", True))


def test_a_live_frame_is_the_body_with_session_and_seq_in_front() -> None:
    body = events.encode(events.Tokens("g", 1, 0, 1, "Hi"))
    assert events.live_frame("user:1", 9007199254740991, body) == (
        b'{"session":"user:1","seq":9007199254740991,'
        b'"type":"tokens","generation":"g","attempt":1,"index":0,"count":1,"text":"Hi"}'
    )


def test_a_live_frame_leaves_the_bodys_own_bytes_alone() -> None:
    assert events.live_frame("s", 1, b'{ "type":"future", "x":1.50}') == (
        b'{"session":"s","seq":1, "type":"future", "x":1.50}'
    )


def test_a_header_of_any_event_can_be_read() -> None:
    assert events.read_header(b'{"type":"future"}') == events.Header("future")
    assert events.read_header(b'{"type":"end","generation":"g","attempt":2,"count":5,"error":{"code":"x"}}') == (
        events.Header("end", "g", 2, count=5)
    )
    assert events.read_header(events.encode(events.Tokens("g", 1, 4, 2, "ab"))) == (
        events.Header("tokens", "g", 1, 4, 2, "ab")
    )
    assert events.read_header(events.encode(events.Status("g", 1, "thinking"))) == (
        events.Header("status", "g", 1, state="thinking")
    )
