"""OpenAI's streaming chat completions, as bytes: `data:` lines only, and a `[DONE]` that ends them."""

from __future__ import annotations

from typing import Any

from tests.fakes.script import Call, encode, words


class OpenAIFormat:
    """The events of one call; see Format."""

    content_type = "text/event-stream"

    def __init__(self, call: Call) -> None:
        self._call = call
        self._script = call.script

    def begin(self) -> list[bytes]:
        return [self._delta({"role": "assistant", "content": ""})]

    def reasoning(self, text: str) -> list[bytes]:
        return [self._delta({self._script.reasoning_field: text})]

    def token(self, text: str) -> list[bytes]:
        return [self._delta({"content": text})]

    def finish(self) -> list[bytes]:
        refusal = [self._delta({"refusal": text}) for text in self._script.refusal]
        return [*refusal, self._delta({}, self._script.finish_reason)]

    def tail(self) -> list[bytes]:
        body, script = self._call.body, self._script
        if not (body.get("stream_options") or {}).get("include_usage"):
            return [_event(b"[DONE]")]
        asked = words(body) if script.prompt_tokens is None else script.prompt_tokens
        usage = {"prompt_tokens": asked, "completion_tokens": script.completion_tokens}
        usage["total_tokens"] = sum(usage.values())
        return [self._chunk({"choices": [], "usage": usage}), _event(b"[DONE]")]

    def error(self) -> list[bytes]:
        default = {"message": "as scripted", "type": "server_error", "code": None}
        return [_event(encode({"error": default if self._script.error is None else self._script.error}))]

    def garbage(self) -> list[bytes]:
        return [_event(self._script.garbage.encode("utf-8", "surrogateescape"))]

    def status_body(self, status: int) -> Any:
        return {"error": {"message": f"{status}, as scripted", "type": None, "code": None}}

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        return self._chunk({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})

    def _chunk(self, fields: dict[str, Any]) -> bytes:
        call = self._call
        frame = {"id": f"chatcmpl-{call.index}", "object": "chat.completion.chunk", "created": 1, "model": call.model}
        return _event(encode({**frame, **fields}))


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
