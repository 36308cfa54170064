"""OpenAI's streaming Responses API, as bytes: named events with a sequence_number each, and no `[DONE]`."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes.script import Call, encode, words

_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponsesFormat:
    """The events of one call; see Format. `response` is the object itself, as it stands."""

    content_type = "text/event-stream"

    def __init__(self, call: Call) -> None:
        self._call = call
        self._script = call.script
        self._number = 0
        self._summaries = 0
        own = call.script.response_id
        self.response: dict[str, Any] = {
            "id": f"resp_{call.index}" if own is None else own,
            "object": "response",
            "created_at": 1,
            "status": "queued",
            "background": True,
            "error": None,
            "incomplete_details": None,
            "model": call.model,
            "output": [],
            "usage": None,
        }

    def begin(self) -> list[bytes]:
        created = self._state("created")
        self.response["status"] = "in_progress"
        return [created, self._state("in_progress")]

    def reasoning(self, text: str) -> list[bytes]:
        """Each in a summary part of its own."""
        at = {"item_id": "rs_1", "output_index": 0, "summary_index": self._summaries}
        self._summaries += 1
        part = {**at, "part": {"type": "summary_text", "text": ""}}
        return [
            self._event("reasoning_summary_part.added", part),
            self._event("reasoning_summary_text.delta", {**at, "delta": text}),
        ]

    def token(self, text: str) -> list[bytes]:
        return [self._delta("output_text", text)]

    def finish(self) -> list[bytes]:
        script = self._script
        refusal = [self._delta("refusal", text) for text in script.refusal]
        if script.finish_reason is None:
            return refusal
        self.end("completed" if script.finish_reason == "stop" else "incomplete")
        return [*refusal, self._state(self.response["status"])]

    def tail(self) -> list[bytes]:
        return []

    def error(self) -> list[bytes]:
        """`response.failed` where the script's error has a code and no type, else an `error` event."""
        error = self._script.error
        self.end("failed")
        if isinstance(error, dict) and "type" not in error:
            self.response["error"] = error
            return [self._state("failed")]
        said = {"code": "server_error", "message": "as scripted", "param": None}
        number = {"type": "error", "sequence_number": self._number}
        return [_named("error", {**number, **(said if error is None else {"error": error})})]

    def garbage(self) -> list[bytes]:
        garbage = self._script.garbage.encode("utf-8", "surrogateescape")
        return [b"data: " + garbage.replace(b"NUMBER", b"%d" % self._number) + b"\n\n"]

    def keepalive(self, number: int) -> bytes:
        """Not documented, but sent while a response is queued or thinks."""
        return _named("keepalive", {"type": "keepalive", "sequence_number": number, "model": self._call.model})

    def status_body(self, status: int) -> Any:
        return {"error": {"message": f"{status}, as scripted", "type": "invalid_request_error", "code": None}}

    def end(self, status: str) -> None:
        """The response as it will be from now on."""
        script, body = self._script, self._call.body
        contents = [{"type": "output_text", "text": _joined(script.tokens), "annotations": []}]
        contents += [{"type": "refusal", "refusal": _joined(script.refusal)}] if script.refusal else []
        self.response["status"] = status
        if status not in ("completed", "incomplete"):
            return
        if status == "incomplete":
            reason = str(script.finish_reason)
            self.response["incomplete_details"] = {"reason": _REASONS.get(reason, reason)}
        asked = words(body) if script.prompt_tokens is None else script.prompt_tokens
        self.response["usage"] = {
            "input_tokens": asked,
            "output_tokens": script.completion_tokens,
            "total_tokens": asked + script.completion_tokens,
        }
        message = {"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": contents}
        self.response["output"] = [{"type": "reasoning", "id": "rs_1", "summary": []}, message]

    def _delta(self, kind: str, delta: str) -> bytes:
        return self._event(f"{kind}.delta", {"item_id": "msg_1", "output_index": 1, "content_index": 0, "delta": delta})

    def _state(self, status: str) -> bytes:
        return self._event(status, {"response": self.response})

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        number = self._number
        self._number += 1
        kind = f"response.{kind}"
        return _named(kind, {"type": kind, "sequence_number": number, **fields})


def _named(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + encode(fields) + b"\n\n"


def _joined(texts: list[str]) -> str:
    """As a server that has the whole text says it: pairs that were split over two deltas are one character."""
    return str(json.loads(json.dumps("".join(texts))))
