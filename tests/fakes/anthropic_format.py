"""Anthropic's streaming Messages, as bytes: named events; an answer is blocks, and the thinking is a block of its own.

    message_start, (content_block_start, content_block_delta…, content_block_stop)…, message_delta, message_stop

A `ping` follows the first block's start. `message_delta` holds the finish mark and the usage, `message_stop` nothing.
The signature of the thinking comes as its block's last delta.
https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.fakes.script import Body, Call, encode, text_of, words

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
_ERROR_TYPES = {
    401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


class AnthropicFormat:
    """The events of one call; see Format."""

    content_type = "text/event-stream"

    def __init__(self, call: Call) -> None:
        self._call = call
        self._script = call.script
        self._index = -1
        self._open = ""  # the type of the block that is open

    def begin(self) -> list[bytes]:
        script = self._script
        asked = words(self._call.body) if script.prompt_tokens is None else script.prompt_tokens
        usage = {
            "input_tokens": asked - script.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": script.cached_tokens,
            "output_tokens": 1,
            "service_tier": "standard",
        }
        message: dict[str, Any] = {
            "id": f"msg_{self._call.index}", "type": "message", "role": "assistant", "model": self._call.model,
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        return [_event("message_start", message=message)]

    def reasoning(self, text: str) -> list[bytes]:
        return [
            *self._block({"type": "thinking", "thinking": "", "signature": ""}),
            self._delta({"type": "thinking_delta", "thinking": text}),
        ]

    def token(self, text: str) -> list[bytes]:
        return [*self._block({"type": "text", "text": ""}), self._delta({"type": "text_delta", "text": text})]

    def finish(self) -> list[bytes]:
        script = self._script
        refusal = [event for text in script.refusal for event in self.token(text)]
        reason = "content_filter" if script.refusal else script.finish_reason
        delta = {"stop_reason": _STOP_REASONS.get(reason, reason) if reason else None, "stop_sequence": None}
        usage = {"output_tokens": script.completion_tokens}
        return [*refusal, *self._close(), _event("message_delta", delta=delta, usage=usage)]

    def tail(self) -> list[bytes]:
        return [_event("message_stop")] if self._script.finish_reason else []

    def error(self) -> list[bytes]:
        error = self._script.error
        return [_event("error", error={"type": "api_error", "message": "as scripted"} if error is None else error)]

    def garbage(self) -> list[bytes]:
        # Under a known name: the SDK passes over an event without one.
        data = self._script.garbage.encode("utf-8", "surrogateescape")
        return [b"event: content_block_delta\ndata: " + data + b"\n\n"]

    def status_body(self, status: int) -> Any:
        kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        error = {"type": kind, "message": f"{status}, as scripted"}
        return {"type": "error", "error": error, "request_id": f"req_{self._call.index}"}

    def _block(self, block: dict[str, Any]) -> list[bytes]:
        """Whatever makes this the open block."""
        if self._open == block["type"]:
            return []
        events = self._close()
        self._index += 1
        self._open = block["type"]
        events.append(_event("content_block_start", index=self._index, content_block=block))
        return [*events, _event("ping")] if self._index == 0 else events

    def _close(self) -> list[bytes]:
        if not self._open:
            return []
        signature = [self._delta({"type": "signature_delta", "signature": "c2lnbmVk"})]
        events = signature if self._open == "thinking" else []
        self._open = ""
        return [*events, _event("content_block_stop", index=self._index)]

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def complaint(body: Body) -> str | None:
    """Why the API would not take this request: what it checks that OpenAI's does not."""
    turns = body.get("messages") or []
    roles = [turn.get("role") for turn in turns]
    if not isinstance(body.get("max_tokens"), int):
        return "max_tokens: Field required"
    if roles[:1] != ["user"] or roles[-1:] != ["user"]:
        return "messages: first and last message must use the user role"
    if set(roles) - {"user", "assistant"} or any(one == next_ for one, next_ in pairwise(roles)):
        return "messages: roles must alternate between user and assistant"
    if not all(text_of(turn.get("content")).strip() for turn in turns) or body.get("system") == "":
        return "messages: text content blocks must contain non-whitespace text"
    return None


def _event(name: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode({"type": name, **fields}))
