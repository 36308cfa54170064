"""An agent's answer, as bytes: one JSON object, whole, and no API of anybody's in particular.

Its pieces go out as a stream's events do, so that every fault has its place: amid the text of the answer.
Any other answer is a Script with `status=200` and a `status_body`.
"""

from __future__ import annotations

from typing import Any

from tests.fakes.script import Call, encode, words


class AgentFormat:
    """The pieces of one call's answer; see Format."""

    content_type = "application/json"

    def __init__(self, call: Call) -> None:
        self._call = call
        self._script = call.script

    def begin(self) -> list[bytes]:
        thought = "".join(self._script.reasoning)
        before = b'{"reasoning": ' + encode(thought) + b", " if thought else b"{"
        return [before + b'"content": "']

    def reasoning(self, text: str) -> list[bytes]:
        return []

    def token(self, text: str) -> list[bytes]:
        return [encode(text)[1:-1]] if text else []

    def finish(self) -> list[bytes]:
        call, script = self._call, self._script
        asked = words(call.body) if script.prompt_tokens is None else script.prompt_tokens
        members: dict[str, Any] = {
            "finish": script.finish_reason,
            "model": call.model,
            "usage": {"input_tokens": asked, "output_tokens": script.completion_tokens},
        }
        return [b'", ' + encode(members)[1:-1]]

    def tail(self) -> list[bytes]:
        return [b"}"]

    def error(self) -> list[bytes]:
        default = {"code": "failed", "message": "as scripted"}
        return [b'", "error": ' + encode(default if self._script.error is None else self._script.error) + b"}"]

    def garbage(self) -> list[bytes]:
        return [self._script.garbage.encode("utf-8", "surrogateescape")]

    def status_body(self, status: int) -> Any:
        return {"error": {"message": f"{status}, as scripted"}}
