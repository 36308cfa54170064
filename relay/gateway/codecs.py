"""The two codecs of the WebSocket: how each subprotocol carries the frames and commands, which are JSON inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from relay.gateway.websocket_protocol import binary_frame, text_frame
from relay.protocol import commands, msgpack
from relay.protocol.commands import Fields


class Codec(NamedTuple):
    """`carrier`: the ASGI message's field. `frame`: turns a frame's JSON into a WebSocket frame, ready to be written.

    `read`, `peek` and `json_bytes` take a message as received; see protocol/commands.py and protocol/msgpack.py.
    """

    subprotocol: str
    carrier: Literal["text", "bytes"]
    frame: Callable[[bytes], bytes]
    message: Callable[[bytes], str | bytes]
    read: Callable[[Any], Fields]
    peek: Callable[[Any], Fields]
    json_bytes: Callable[[Any, float], int]


def _msgpack_frame(payload: bytes) -> bytes:
    return binary_frame(msgpack.pack(payload))


JSON = Codec(
    "relay.v1.json", "text", text_frame, bytes.decode, commands.read, commands.peek,
    lambda raw, _: len(raw.encode(errors="surrogatepass")),
)  # fmt: skip
MSGPACK = Codec(
    "relay.v1.msgpack", "bytes", _msgpack_frame, msgpack.pack, msgpack.read, msgpack.peek, msgpack.json_bytes
)  # fmt: skip
CODECS = {codec.subprotocol: codec for codec in (JSON, MSGPACK)}
