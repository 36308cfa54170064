"""The bytes that OpenAI and Anthropic really send for a token, with a place for its text; and what is around them."""

from __future__ import annotations

from typing import NamedTuple

_OPENAI = (
    b'"id":"chatcmpl-CZk2mYq0S7n1vJxw4uTtB9hQe3LrA","object":"chat.completion.chunk","created":1764001234,'
    b'"model":"gpt-5-mini-2025-08-07","service_tier":"default","system_fingerprint":null'
)


class Recorded(NamedTuple):
    """One API's stream. A token's event is `before`, its text as it stands in JSON, `after`."""

    opening: bytes
    before: bytes
    after: bytes
    closing: bytes

    def event(self, text: bytes) -> bytes:
        return self.before + text + self.after


RECORDED = {
    "openai": Recorded(
        b"data: {" + _OPENAI + b',"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},'
        b'"finish_reason":null}],"usage":null,"obfuscation":"t8Kp"}\n\n',
        b"data: {" + _OPENAI + b',"choices":[{"index":0,"delta":{"content":"',
        b'"},"finish_reason":null}],"usage":null,"obfuscation":"Zq3vXw"}\n\n',
        b"data: {" + _OPENAI + b',"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null,'
        b'"obfuscation":"q"}\n\n'
        b"data: {" + _OPENAI + b',"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":500,'
        b'"total_tokens":512,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":'
        b'{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},'
        b'"obfuscation":"Rb"}\n\n'
        b"data: [DONE]\n\n",
    ),
    "anthropic": Recorded(
        b"event: message_start\n"
        b'data: {"type":"message_start","message":{"model":"claude-sonnet-5-5","id":"msg_01Jt7XcVb2m9QpWn4sKdRfGh",'
        b'"type":"message","role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"usage":'
        b'{"input_tokens":12,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1,'
        b'"service_tier":"standard"}}}\n\n'
        b"event: content_block_start\n"
        b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}   }\n\n'
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"',
        b'"}    }\n\n',
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0 }\n\n'
        b"event: message_delta\n"
        b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":'
        b'{"output_tokens":500}               }\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ),
}
HEADERS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def chunked(data: bytes) -> bytes:
    """One chunk of HTTP's chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)
