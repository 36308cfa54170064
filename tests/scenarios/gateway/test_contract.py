"""The wire contract at its edges: what a gateway answers to good, odd and hostile clients."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.fakes.provider import Script
from tests.scenarios import credentials
from tests.scenarios.client import Client, check
from tests.scenarios.processes import TIMEOUT_S, until
from tests.scenarios.world import Gateway, World

pytestmark = pytest.mark.also_with_auth

Frame = dict[str, Any]


def _address(gateway: Gateway) -> str:
    return gateway.url.replace("http", "ws", 1) + "/v1/ws"


async def _receive(websocket: ClientConnection) -> Frame:
    frame: Frame = json.loads(await asyncio.wait_for(websocket.recv(), 10))
    return frame


async def test_a_connection_begins_with_welcome_and_every_reply_carries_its_id(relay: World) -> None:
    gateway = await relay.gateway()
    async with connect(_address(gateway), proxy=None) as websocket:
        welcome = await _receive(websocket)
        assert (welcome["type"], welcome["protocol"]) == ("welcome", "relay.v1")
        assert welcome["heartbeat_s"] == 15
        assert welcome["limits"].keys() >= {
            "max_command_bytes", "max_content_bytes", "max_frame_bytes", "max_answer_bytes", "max_subscriptions",
            "stall_s", "lost_after_s", "session_ttl_s",
        }  # fmt: skip
        talk: list[tuple[Frame, Frame]] = [
            ({"type": "ping", "id": "1", "t": [1, {"a": None}]}, {"type": "pong", "id": "1", "t": [1, {"a": None}]}),
            ({"type": "ping"}, {"type": "pong"}),
            ({"type": "hello", "id": "2"}, {**welcome, "id": "2"}),
            (
                {"type": "unsubscribe", "id": "3", "session": "never"},
                {"type": "unsubscribed", "id": "3", "session": "never"},
            ),
        ]
        for command, reply in talk:
            await websocket.send(json.dumps(command))
            assert await _receive(websocket) == reply


BAD: list[tuple[str, str, str | None]] = [
    ("nonsense", "bad_message", None),
    ("[1]", "bad_message", None),
    ('"\\ud83d"', "bad_message", None),
    ("[" * 5000 + "]" * 5000, "bad_message", None),
    ('{"id":"a"}', "bad_message", "a"),
    ('{"type":7,"id":"a"}', "bad_message", "a"),
    ('{"type":"dance","id":"a"}', "unknown_type", "a"),
    ('{"type":"ping","id":7}', "bad_message", None),
    ('{"type":"subscribe","id":"a"}', "bad_session", "a"),
    ('{"type":"subscribe","id":"a","session":".."}', "bad_session", "a"),
    ('{"type":"subscribe","id":"a","session":"s","cursor":7}', "bad_cursor", "a"),
    ('{"type":"subscribe","id":"a","session":"s","cursor":{"epoch":"e","seq":-1}}', "bad_cursor", "a"),
    ('{"type":"subscribe","id":"a","session":"s","from":"middle"}', "bad_message", "a"),
    ('{"type":"submit","id":"a","session":"s","request_id":"r"}', "bad_message", "a"),
    ('{"type":"submit","id":"a","session":"s","request_id":"r","content":"q","retry_of":"g"}', "bad_message", "a"),
    ('{"type":"submit","id":"a","session":"s","request_id":"r","retry_of":"g_none"}', "not_found", "a"),
    ('{"type":"submit","id":"a","session":"s","request_id":"r","content":"q","queue":"a b"}', "bad_message", "a"),
    ('{"type":"submit","id":"a","session":"s","request_id":"r","content":"' + "x" * 140_000 + '"}', "too_large", "a"),
    ('{"type":"ping","id":"a","t":"' + "x" * 1_100_000 + '"}', "too_large", "a"),
    ('{"type":"stop","id":"a","session":"s","generation":"g_none"}', "not_found", "a"),
    # What no decoder reads has an id all the same.
    ('{"type":"ping","t":"\\ud83d","id":"a"}', "bad_message", "a"),
    ('{"type":"submit","session":"s","request_id":"r","metadata":{"\\ude00":1},"id":"a"}', "bad_message", "a"),
    ('{"type":"ping","t":' + "[" * 5000 + "]" * 5000 + ',"id":"a"}', "bad_message", "a"),
    ('{"type":"ping","t":NaN,"id":"a"}', "bad_message", "a"),
    ('{"type":"ping","id":"a","t":"' + "x" * 1_100_000 + '\\ud83d"}', "too_large", "a"),
    ('{"id":"a","type":"ping","t":"cut', "bad_message", "a"),
    ('{"type":"ping","id":"\\ud83d"}', "bad_message", None),
]


HALF_BODIES = [
    '{"content":"HALF"}',
    '{"content":"q","request_id":"HALF"}',
    '{"content":"q","system":"HALF"}',
    '{"content":"q","metadata":{"HALF":1}}',
    '{"content":"q","metadata":{"a":["HALF"]}}',
    '{"content":"q","unheard_of":"HALF"}',
    '{"messages":[{"role":"user","content":"HALF"}]}',
    '{"HALF":1}',
]


async def test_bad_commands_get_a_clear_error_and_the_connection_survives(relay: World) -> None:
    gateway = await relay.gateway()
    async with connect(_address(gateway), proxy=None, max_size=None) as websocket:
        await _receive(websocket)
        for text, code, reply_id in BAD:
            await websocket.send(text)
            error = await _receive(websocket)
            assert (error["type"], error["code"], error.get("id")) == ("error", code, reply_id), (text[:80], error)
            assert isinstance(error["retryable"], bool)
            assert error["message"]
        await websocket.send('{"type":"ping","id":"z"}')
        assert (await _receive(websocket))["type"] == "pong"


async def test_in_msgpack_too_what_cannot_be_read_is_refused_by_its_id(relay: World) -> None:
    gateway = await relay.gateway()
    subprotocol = Subprotocol("relay.v1.msgpack")
    faults = [
        b"\xa1\xff",
        b"\x81\xa1\xff\x01",
        b"\x81\x01\x02",
        b"\xc4\x01a",
        b"\xd4\x05a",
        b"\x91" * 5000 + b"\x01",
        b"\xc1",
    ]
    async with connect(_address(gateway), proxy=None, subprotocols=[subprotocol]) as websocket:
        await websocket.recv()
        for fault in faults:
            await websocket.send(b"\x83\xa4type\xa4ping\xa1t" + fault + b"\xa2id\xa1a")
            error = msgspec.msgpack.decode(await websocket.recv(decode=False))
            assert (error["type"], error["code"], error.get("id")) == ("error", "bad_message", "a"), fault
        await websocket.send(b"\x83\xa2id\xa1a\xa4type\xa4ping\xa1t")  # its tail is missing
        assert msgspec.msgpack.decode(await websocket.recv(decode=False))["id"] == "a"
        await websocket.send(msgspec.msgpack.encode({"type": "ping", "id": "z"}))
        assert msgspec.msgpack.decode(await websocket.recv(decode=False))["type"] == "pong"


@pytest.mark.parametrize(
    ("message", "code"), [(b"\x00binary", 1003), ("x" * 4_300_000, 1009)], ids=["binary on json", "far too large"]
)
async def test_what_the_protocol_cannot_carry_closes_the_connection(
    relay: World, message: str | bytes, code: int
) -> None:
    gateway = await relay.gateway()
    async with connect(_address(gateway), proxy=None) as websocket:
        await _receive(websocket)
        with pytest.raises(ConnectionClosed) as closed:
            await _say(websocket, message)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code


async def test_text_that_is_not_utf8_closes_1007(relay: World) -> None:
    gateway = await relay.gateway()
    async with connect(_address(gateway), proxy=None) as websocket:
        await _receive(websocket)
        with pytest.raises(ConnectionClosed) as closed:
            await _say(websocket, b"\xff\xfe", text=True)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1007


async def test_only_our_subprotocol_and_our_own_pages_are_let_in(relay: World) -> None:
    gateway = await relay.gateway(RELAY_ALLOWED_ORIGINS="https://chat.example.com")
    own = gateway.url
    async with connect(
        _address(gateway), proxy=None, subprotocols=[Subprotocol("x"), Subprotocol("relay.v1.json")]
    ) as ok:
        assert ok.subprotocol == "relay.v1.json"
    for origin in (own, "https://chat.example.com"):
        async with connect(_address(gateway), proxy=None, origin=Origin(origin)):
            pass
    with pytest.raises(InvalidStatus) as refused:
        async with connect(_address(gateway), proxy=None, subprotocols=[Subprotocol("relay.v9")]):
            pass
    assert refused.value.response.status_code == 400
    with pytest.raises(InvalidStatus) as refused:
        async with connect(_address(gateway).replace("/v1/ws", "/v2/ws"), proxy=None):
            pass
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body)["error"]["code"] == "not_found"
    for origin in ("https://evil.example.com", "null"):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(_address(gateway), proxy=None, origin=Origin(origin)):
                pass
        assert refused.value.response.status_code == 403
        status, body, _ = await gateway.http("GET", "/v1/sessions/s", headers={"Origin": origin})
        assert (status, body["error"]["code"]) == (403, "forbidden")
    status, body, _ = await gateway.http("GET", "/v1/sessions/s", headers={"Host": "rebound.example.com"})
    assert (status, body["error"]["code"]) == (403, "forbidden")
    status, _, _ = await gateway.http("GET", "/", headers={"Host": "chat.example.com"})
    assert status == 200
    allowed = {"Origin": "https://chat.example.com", "Access-Control-Request-Method": "POST"}
    allowed |= {"Access-Control-Request-Headers": "content-type,idempotency-key"}
    status, _, headers = await gateway.http("OPTIONS", "/v1/sessions/s/generations", headers=allowed)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://chat.example.com")


async def test_http_errors_have_one_shape_and_the_right_status(relay: World) -> None:
    gateway = await relay.gateway()
    submit = "/v1/sessions/s/generations"
    json_type = {"Content-Type": "application/json"}
    cases: list[tuple[str, str, Any, dict[str, str], int, str]] = [
        ("POST", submit, b"{}", {"Content-Type": "text/plain"}, 415, "bad_message"),
        ("POST", submit, b"{", json_type, 400, "bad_message"),
        ("POST", submit, {"content": "q", "request_id": "a"}, {"Idempotency-Key": "b"}, 400, "bad_message"),
        ("POST", submit, {"content": ""}, {}, 400, "bad_message"),
        ("POST", submit, {"content": "q", "mode": "report"}, {}, 400, "bad_message"),
        ("POST", submit, {"content": "x" * 140_000}, {}, 413, "too_large"),
        ("POST", submit, b'"' + b"x" * 1_100_000 + b'"', {}, 413, "too_large"),
        ("POST", "/v1/sessions/b%40d/generations", {"content": "q"}, {}, 400, "bad_session"),
        ("POST", submit + "/g_none/stop", None, {}, 404, "not_found"),
        ("GET", submit + "/g_none", None, {}, 404, "not_found"),
        ("GET", "/v1/sessions/none", None, {}, 404, "not_found"),
        ("GET", "/v1/sessions/none?limit=0", None, {}, 400, "bad_message"),
        ("GET", "/v1/sessions/none?limit=000001" + "9" * 5000, None, {}, 400, "bad_message"),
        ("GET", "/v1/sessions/none", None, {"Origin": "http://[zz]"}, 403, "forbidden"),
        ("GET", "/v1/sessions/none", None, {"Host": "[zz"}, 403, "forbidden"),
        ("GET", "/v1/sessions/none/", None, {}, 404, "not_found"),
        ("GET", "/v1/nothing", None, {}, 404, "not_found"),
        ("PUT", submit, b"{}", json_type, 405, "bad_message"),
        *(
            ("POST", submit, body.encode(errors="surrogatepass"), json_type, 400, "bad_message")
            for half in ("\\ud83d", "\ud83d")
            for body in HALF_BODIES
            for body in [body.replace("HALF", half)]
        ),
        ("POST", submit, {"content": "q"}, {"Idempotency-Key": "\x85"}, 400, "bad_message"),
        ("POST", "/v1/sessions/%ED%A0%BD/generations", {"content": "q"}, {}, 400, "bad_session"),
        ("GET", "/v1/sessions/s/events?cursor=%ED%A0%BD:1", None, {}, 400, "bad_cursor"),
        ("GET", "/v1/sessions/s/events?generation=%ED%A0%BD", None, {}, 404, "not_found"),
    ]
    for method, path, body, headers, status, code in cases:
        answer = await gateway.http(method, path, body, headers)
        assert answer[0] == status, (method, path, answer)
        assert answer[1]["error"]["code"] == code, (method, path, answer)
        assert isinstance(answer[1]["error"]["retryable"], bool)
        assert answer[1]["error"]["message"]
    assert (await gateway.http("PUT", submit, b"{}", json_type))[2]["allow"] == "POST"


async def test_submit_over_http_draws_what_is_missing_and_the_snapshot_shows_it(relay: World) -> None:
    gateway = await relay.gateway()
    await relay.worker()
    status, body, _ = await gateway.http("POST", "/v1/sessions/s/generations", {"content": "q", "metadata": {"a": [1]}})
    assert (status, body["session"], body["duplicate"]) == (202, "s", False)
    generation = body["generation"]
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        await client.ended(generation)
        _, found, _ = await gateway.http("GET", f"/v1/sessions/s/generations/{generation}")
        end = check(client, generation, "Hello there")
    assert found["message"] == {"message_id": client.view.messages[0]["message_id"], "content": "q"}
    assert (found["state"], found["text"], found["metadata"]) == ("ended", "Hello there", {"a": [1]})
    for field in ("reason", "count", "text_bytes", "crc32", "usage", "finish", "message_id", "timings_ms"):
        assert found[field] == end[field]
    _, session, _ = await gateway.http("GET", "/v1/sessions/s")
    assert session["generations"] == [found]
    assert (session["epoch"], session["head"]) == (client.view.epoch, client.view.last)
    assert session["messages"] == [
        {**found["message"], "role": "user", "generation": generation},
        {"message_id": end["message_id"], "role": "assistant", "content": "Hello there", "generation": generation},
    ]


async def test_a_thousand_sessions_subscribed_at_once_are_all_followed(relay: World) -> None:
    gateway = await relay.gateway(RELAY_MAX_SUBSCRIPTIONS="1000")
    async with Client(gateway.url, "s") as client:
        replies = [await client.begin(type="subscribe", session=f"s{number}") for number in range(1000)]
        kinds = [(await asyncio.wait_for(reply, 30)).get("code", "subscribed") for reply in replies]
        assert kinds == ["subscribed"] * 1000


async def test_queues_beyond_what_reapers_walk_are_refused_and_those_in_use_go_on(relay: World) -> None:
    gateway = await relay.gateway()
    await relay.worker()
    now = 4_000_000_000_000  # names that are never forgotten here
    await relay.redis.zadd(f"{relay.prefix}:queues", {f"q{number}": now for number in range(999)})
    await relay.redis.pexpire(f"{relay.prefix}:queues", 60_000)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q", "r1")
        refused = await client.command(type="submit", session="s", request_id="r2", content="q", queue="one-more")
        assert refused["code"] == "bad_message"
        assert "queue" in refused["message"]
        await client.ended(generation)
        await client.ended(await client.submit("q", "r3"))


async def test_a_queue_that_is_not_on_offer_takes_no_place_among_those_that_reapers_walk(relay: World) -> None:
    gateway = await relay.gateway(RELAY_QUEUES="default")
    path = "/v1/sessions/s/generations"
    assert (await gateway.http("POST", path, {"content": "x", "queue": "other"}))[0] == 400
    assert (await gateway.http("POST", path, {"content": "x"}))[0] == 202
    assert await relay.redis.zrange(f"{relay.prefix}:queues", 0, -1) == [b"default"]


async def test_an_error_on_subscribing_again_leaves_the_earlier_subscription(relay: World) -> None:
    relay.fake.script = Script(tokens=["a", "b"], hold_before=1)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 1, "one")
        reply = await client.command(type="subscribe", session="s", cursor="nonsense")
        assert reply["code"] == "bad_cursor"
        relay.fake.release()
        await client.ended(generation)
        check(client, generation, "ab")


async def test_a_peer_that_closed_and_takes_nothing_does_not_spoil_the_farewell_of_others(relay: World) -> None:
    gateway = await relay.gateway()
    reader, writer = await _raw_handshake(gateway)
    ping = b'{"type":"ping","t":"' + b"x" * 60_000 + b'"}'
    mask = b"\x00\x00\x00\x00"
    framed = b"\x81\xfe" + struct.pack("!H", len(ping)) + mask + ping
    transport = writer.transport
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()
    writer.write(framed * 200 + b"\x88\x80" + mask)
    async with connect(_address(gateway), proxy=None) as innocent:
        await _receive(innocent)
        await _metric(gateway, 'relay_commands_total{type="ping"}')
        gateway.signal(15)
        assert (await _receive(innocent))["type"] == "draining"
        with pytest.raises(ConnectionClosed) as closed:
            await _receive(innocent)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert await gateway.exited() in (0, -15)
    writer.close()
    del reader


async def test_a_connection_follows_so_many_sessions_and_no_more(relay: World) -> None:
    gateway = await relay.gateway(RELAY_MAX_SUBSCRIPTIONS="3")
    async with Client(gateway.url, "s") as client:
        begun = [await client.begin(type="subscribe", session=f"s{number}") for number in range(6)]
        replies = [await reply for reply in begun]
        assert [reply.get("code") for reply in replies].count("too_many_subscriptions") == 3
        followed = next(reply["session"] for reply in replies if reply["type"] == "subscribed")
        assert (await client.command(type="subscribe", session=followed))["type"] == "subscribed"
        await client.command(type="unsubscribe", session=followed)
        assert (await client.command(type="subscribe", session="another"))["type"] == "subscribed"


async def test_after_unsubscribe_no_frame_of_the_session_follows(relay: World) -> None:
    relay.fake.script = Script(tokens=["a", "b", "c"], hold_before=1)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client, Client(gateway.url, "s") as other:
        await client.subscribe()
        await other.subscribe()
        generation = await client.submit("q")
        await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 1, "one")
        assert (await client.command(type="unsubscribe", session="s"))["type"] == "unsubscribed"
        seen = len(client.frames)
        relay.fake.release()
        await other.ended(generation)
        await client.command(type="ping")
        assert len(client.frames) == seen
        check(other, generation, "abc")


async def test_a_cursor_of_another_life_or_ahead_of_the_log_brings_everything(relay: World) -> None:
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        reply = await client.subscribe()
        generation = await client.submit("q")
        await client.ended(generation)
        for cursor in ({"epoch": "other", "seq": 1}, {"epoch": reply["epoch"], "seq": 2**53 - 1}):
            fresh = Client(gateway.url, "s")
            async with fresh:
                answer = await fresh.command(type="subscribe", session="s", cursor=cursor, **{"from": "live"})
                assert (answer["at"], answer["recovered"]) == (0, False)
                await fresh.ended(generation)
                check(fresh, generation, "Hello there")


async def test_heartbeats_come_when_nothing_else_does_and_a_dead_peer_is_closed_4408(relay: World) -> None:
    gateway = await relay.gateway(RELAY_HEARTBEAT_S="0.3")
    async with connect(_address(gateway), proxy=None, ping_interval=None) as websocket:
        await _receive(websocket)
        for _ in range(4):  # the library answers pings by itself: the peer is alive
            assert (await _receive(websocket))["type"] == "heartbeat"
    reader, writer = await _raw_handshake(gateway)
    try:
        # A peer that takes everything and says nothing, not even a pong.
        received = await asyncio.wait_for(reader.readuntil(b"no sign of life"), 10)
    finally:
        writer.close()
    assert received.endswith(
        b"\x88" + bytes([len(b"no sign of life") + 2]) + struct.pack("!H", 4408) + b"no sign of life"
    )


async def test_a_slow_reader_is_not_cut_off_slows_nobody_and_gets_merged_frames(relay: World) -> None:
    tokens = [f"{number:06d} " + "x" * 800 for number in range(15_000)]  # three times what the kernel holds
    relay.fake.script = Script(tokens=tokens)
    gateway = await relay.gateway(RELAY_VIEWER_BUFFER_BYTES="4096", RELAY_WINDOW_BYTES="65536")
    await relay.worker(RELAY_MAX_ANSWER_BYTES="16777216")
    slow = Client(gateway.url, "s")
    async with Client(gateway.url, "s") as quick:
        await slow.connect(receive_buffer_bytes=65536)
        await slow.subscribe()
        assert slow.connection is not None
        await quick.subscribe()
        slow.connection.transport.pause_reading()
        generation = await quick.submit("q")
        await quick.ended(generation, 60)
        check(quick, generation, "".join(tokens))
        slow.connection.transport.resume_reading()
        await slow.ended(generation, 60)
        check(slow, generation, "".join(tokens))
        catchups = [frame for frame in slow.frames if frame["type"] == "catchup"]
        merged = [one for one in catchups if len(one["events"]) <= one["seq"] - one["from"]]
        assert merged, "what a slow reader missed comes merged, unless the batches fill a frame each"
        assert all(len(raw) <= 262_144 for raw in slow.raw)
    await slow.disconnect()


@pytest.mark.slow
async def test_a_reader_that_takes_nothing_is_closed_4413_and_resumes(relay: World) -> None:
    tokens = ["x" * 1000] * 8000
    relay.fake.script = Script(tokens=tokens, hold_before=1)
    # Heartbeats more often than stalls: our own pings must not pass for something taken.
    gateway = await relay.gateway(RELAY_STALL_S="3", RELAY_HEARTBEAT_S="1", RELAY_VIEWER_BUFFER_BYTES="4096")
    await relay.worker(RELAY_MAX_ANSWER_BYTES="16777216")
    async with Client(gateway.url, "s") as stuck:
        await stuck.subscribe()
        generation = await stuck.submit("q")
        await stuck.until(lambda: generation in stuck.view.generations and stuck.shown(generation).count == 1, "one")
        await stuck.cut()
        relay.fake.release()
        await until(lambda: _has_ended(gateway, generation), "the answer is whole", 60)
        # All of it comes at once: text that comes slowly could hide in the kernel, and then nothing waits (4408).
        await stuck.connect(receive_buffer_bytes=65536)
        assert stuck.connection is not None
        stuck.connection.transport.pause_reading()
        await stuck.begin(**stuck.view.subscribe())
        await _metric(gateway, 'relay_closes_total{code="4413"} 1.0')
        stuck.connection.transport.resume_reading()
        await stuck.connection.wait_closed()
        assert stuck.connection.close_code == 4413
        await stuck.disconnect()
        await stuck.connect()
        assert (await stuck.subscribe())["recovered"] is True
        await stuck.ended(generation, 60)
        check(stuck, generation, "".join(tokens))


async def _has_ended(gateway: Gateway, generation: str) -> bool:
    return bool((await gateway.http("GET", f"/v1/sessions/s/generations/{generation}"))[1]["state"] == "ended")


async def test_a_handshake_that_is_broken_is_answered(relay: World) -> None:
    gateway = await relay.gateway()
    host, port = gateway.url.removeprefix("http://").split(":")
    upgrade = f"GET /v1/ws HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    for odd in ("", "Sec-WebSocket-Version: 13\r\n", key + "X: " + "x" * 9000 + "\r\n", key + "A: b\r\n" * 140):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write((upgrade + odd + "\r\n").encode())
        answer = await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 426")), (odd[:40], answer[:80])


async def test_a_gateway_that_is_told_to_go_says_when_to_come_back(relay: World) -> None:
    gateway = await relay.gateway()
    async with connect(_address(gateway), proxy=None) as websocket:
        await _receive(websocket)
        gateway.signal(15)
        frame = await _receive(websocket)
        assert frame["type"] == "draining"
        assert frame["reconnect_in_ms"] > 0
        with pytest.raises(ConnectionClosed) as closed:
            await _receive(websocket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert await gateway.exited() in (0, -15)


async def _metric(gateway: Gateway, said: str) -> None:
    """Wait until the metrics page says this."""

    async def there() -> bool:
        return said in (await gateway.http("GET", "/metrics"))[1]

    await until(there, said, 60)


async def _say(websocket: ClientConnection, message: str | bytes, text: bool | None = None) -> Frame:
    await websocket.send(message, text=text)
    return await _receive(websocket)


async def _raw_handshake(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = gateway.url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)))
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(
        f"GET /v1/ws HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n".encode()
        + credentials.lines()
        + b"\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_capabilities_name_what_living_workers_offer_and_everything_else_is_refused(relay: World) -> None:
    gateway = await relay.gateway(RELAY_QUEUES="default,reports")
    status, before, _ = await gateway.http("GET", "/v1/capabilities")
    assert (status, before["providers"]) == (200, [])
    path = "/v1/sessions/s/generations"
    # Nobody is there yet who could say what is on offer: a worker may come.
    assert (await gateway.http("POST", path, {"content": "x", "provider": "fortune-teller"}))[0] == 202
    await relay.worker("--model", "fake-1", RELAY_MODELS="fake-2,fake-3")
    await until(lambda: _providers(gateway), "the worker's offer")
    capabilities = (await gateway.http("GET", "/v1/capabilities"))[1]
    assert capabilities["queues"] == ["default"]
    assert capabilities["providers"] == [
        {"provider": "openai", "state": "ready", "queues": ["default"], "models": ["fake-1", "fake-2", "fake-3"],
         "any_model": False, "workers": 1}
    ]  # fmt: skip
    assert capabilities["modes"] == ["chat"]
    assert {"websocket", "sse"} <= set(capabilities["transports"])
    assert capabilities["limits"]["max_content_bytes"] == 131072
    assert capabilities["features"]["options"] is True
    for asked, named in [
        ({"provider": "fortune-teller"}, "openai"),
        ({"model": "fake-9"}, "fake-1, fake-2, fake-3"),
        ({"provider": "openai", "model": "fake-9"}, "fake-2"),
        ({"queue": "other"}, "default, reports"),
    ]:
        status, body, _ = await gateway.http("POST", path, {"content": "x", **asked})
        assert (status, body["error"]["code"]) == (400, "bad_message")
        assert named in body["error"]["message"]
    status, ended, _ = await gateway.http(
        "POST", path + "?wait=20", {"content": "x", "provider": "openai", "model": "fake-3", "queue": "default"}
    )
    assert (status, ended["reason"], ended["model"]) == (200, "complete", "fake-3")


async def _providers(gateway: Gateway) -> Any:
    return (await gateway.http("GET", "/v1/capabilities"))[1]["providers"]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_both_codecs_carry_the_same_conversation(relay: World, codec: str) -> None:
    relay.fake.script = Script(tokens=["Grüße", " ", "🙂", "\n", "end"])
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s", codec) as client:
        assert (await client.command(type="ping", t={"a": [1, 2.5, None, "x"]}))["t"] == {"a": [1, 2.5, None, "x"]}
        assert (await client.command(type="nonsense"))["code"] == "unknown_type"
        assert (await client.command(type="subscribe", session="bad name"))["code"] == "bad_session"
        await client.subscribe()
        generation = await client.submit("Go")
        await client.ended(generation)
        check(client, generation, "Grüße 🙂\nend")
        # The request_id counts over both codecs, and over HTTP.
        status, body, _ = await gateway.http(
            "POST", "/v1/sessions/s/generations", {"content": "Go", "request_id": "r1"}
        )
        assert (status, body) == (202, {"session": "s", "generation": generation, "duplicate": True})
        # A field that is not understood is named, at each sending, and is no part of what was asked.
        odd = {"type": "submit", "request_id": "r1", "content": "Go", "temperature": 0.5, "a\x1b": [{"b": None}]}
        accepted = {"session": "s", "generation": generation, "duplicate": True, "ignored": ["temperature", "a\ufffd"]}
        again = await client.command(**odd, session="s")
        assert {name: again[name] for name in accepted} == accepted
        assert (await gateway.http("POST", "/v1/sessions/s/generations", odd))[:2] == (202, accepted)
        waited = (await gateway.http("POST", "/v1/sessions/s/generations?wait=9", odd))[1]
        assert (waited["generation"], waited["ignored"]) == (generation, accepted["ignored"])
        as_stream = {"Accept": "text/event-stream"}
        stream = (await gateway.http("POST", "/v1/sessions/s/generations", odd, as_stream))[1]
        first, *others = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
        assert (first["type"], first["ignored"]) == ("subscribed", accepted["ignored"])
        assert [frame["type"] for frame in others] == ["catchup"]
        shows = f"/v1/sessions/s/events?generation={generation}"
        assert '"ignored"' not in (await gateway.http("GET", shows, headers=as_stream))[1]
        large = await client.command(
            type="submit", session="s", request_id="r2", messages=[{"role": "user", "content": "\x01" * 200_000}]
        )
        assert large["code"] == "too_large"
    async with Client(gateway.url, "s", "msgpack") as late:
        await late.subscribe()
        await late.ended(generation)
        check(late, generation, "Grüße 🙂\nend")


async def test_a_submit_that_an_earlier_or_a_later_release_took_is_known_again(relay: World) -> None:
    """During a rolling deploy a submit may be repeated to the other release's gateway, in either direction."""
    earlier, own = "5255d61e41e7d5363cbb323a9a4b1f7b", "4463b468c94d399dd6e540df3c055c88"  # of content "Hello"
    gateway = await relay.gateway()
    path, body = "/v1/sessions/s/generations", {"content": "Hello", "request_id": "r"}
    _, first, _ = await gateway.http("POST", path, body)
    requests = f"{relay.prefix}:s:{{s}}:requests"
    assert await relay.redis.hget(requests, "r") == f"{first['generation']} {earlier}".encode()
    for stored, expected in ((earlier, 202), (own, 202), ("0" * 32, 409)):
        await relay.redis.hset(requests, "r", f"{first['generation']} {stored}")
        status, again, _ = await gateway.http("POST", path, body)
        assert status == expected, stored
        assert status != 202 or again == {**first, "duplicate": True}


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_what_is_nested_too_deeply_to_be_echoed_is_refused_however_deep_that_is(relay: World, codec: str) -> None:
    gateway = await relay.gateway()
    subprotocol = Subprotocol(f"relay.v1.{codec}")
    said = set()
    async with connect(_address(gateway), proxy=None, subprotocols=[subprotocol]) as websocket:
        await websocket.recv()
        for depth in range(900, 1000):
            if codec == "json":
                await websocket.send('{"type":"ping","t":' + "[" * depth + "]" * depth + "}")
            else:
                await websocket.send(b"\x82\xa4type\xa4ping\xa1t" + b"\x91" * depth + b"\xc0")
            reply = await websocket.recv()
            said |= {word for word in ("pong", "bad_message") if word in (reply if codec == "json" else str(reply))}
    assert said == {"pong", "bad_message"}
