"""Anthropic's Messages API as servers really send it: each event's JSON becomes parts. Pure.

https://platform.claude.com/docs/en/build-with-claude/streaming has Anthropic's own shape;
tests/workers/providers/dialects_anthropic.py has the others, and who sends them. An event is known by the `type` in its
JSON, so it needs no `event:` line; without a `type` that line's counts.
"""

from __future__ import annotations

from typing import Any

from relay.protocol.words import Finish
from relay_workers.providers.base import Part, ProviderError, Reasoning, Text, checked_model
from relay_workers.providers.reading import (
    FAILURES,
    IgnoredFields,
    Malformed,
    StreamReader,
    normal_reason,
    whole_number,
)
from relay_workers.providers.tool_calls import MAX_CALLS, ToolCall, tool_call_parts

_FINISHES: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "filter",
}  # any other, such as tool_use and pause_turn, is `other`
_TOOL_BLOCKS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
# The whole prompt: the API counts what it read from its cache, or wrote there, apart from its input_tokens.
_INPUT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class MessageReader(StreamReader):
    """See StreamReader."""

    def __init__(self, model: str, ignored: IgnoredFields) -> None:
        super().__init__(model, ignored)
        self._input: dict[str, int] = {}
        self._tools: dict[object, ToolCall] = {}  # of the blocks that are open, by their index

    def _parts(self, value: dict[str, Any], event: str) -> list[Part]:
        kind = value.get("type", event)
        if kind == "content_block_delta":
            return self._piece_parts(value.get("delta"), _index(value))
        if kind == "content_block_start":  # a block may begin with text, though Anthropic's own do not
            index = _index(value)
            return [*self._close(index), *self._block_parts(value.get("content_block"), index)]
        if kind == "content_block_stop":
            return self._close(_index(value))
        if kind == "message_start":
            return self._message_parts(value.get("message"), whole=False)
        if kind == "message_delta":
            return self._delta_parts(value)
        if kind == "message_stop":
            self.is_done = True
            self.finish = self.last_finish
            return []
        if kind == "message" and "content" in value and not self._has_said:  # whole, where a stream was asked for
            return self._message_parts(value, whole=True)
        if not isinstance(kind, str):
            raise Malformed("an event without a type")
        return []  # pings, and events of types that are not known yet

    def _message_parts(self, message: object, *, whole: bool) -> list[Part]:
        """Of a message's beginning, or of a whole one."""
        if not isinstance(message, dict):
            raise Malformed("no message")
        self.model = checked_model(message.get("model"), self.model)
        self._usages(message.get("usage"), whole=whole)
        parts: list[Part] = []
        content = message.get("content")
        if isinstance(content, str) and whole:
            content = [{"type": "text", "text": content}]
        for index, block in enumerate(content if isinstance(content, list) else []):
            parts += [*self._block_parts(block, index), *self._close(index)]
        self._stop(message.get("stop_reason"))
        return parts

    def _delta_parts(self, value: dict[str, Any]) -> list[Part]:
        delta = value.get("delta")
        self._stop(delta.get("stop_reason") if isinstance(delta, dict) else None)
        self._usages(value.get("usage"), whole=True)
        return []

    def _stop(self, reason: object) -> None:
        if isinstance(reason, str) and reason:
            if normal_reason(reason) in FAILURES:
                raise ProviderError("provider_error", f"stop_reason {normal_reason(reason)}", retryable=True)
            self.finish = _FINISHES.get(reason, "other")
        elif reason:
            self._ignored.add("finish")

    def _block_parts(self, block: object, index: object) -> list[Part]:
        if isinstance(block, dict) and block.get("type") in _TOOL_BLOCKS:
            call_id, name = (said if isinstance(said := block.get(member), str) else "" for member in ("id", "name"))
            self._grew = True
            if len(self._tools) < MAX_CALLS:
                self._tools[index] = ToolCall(call_id, name)
                self._tools[index].add(block.get("input"))
            else:
                self._ignored.add("tool_call")
            return []
        parts = self._piece_parts(block, index)
        citations = block.get("citations") if isinstance(block, dict) else None
        return parts + self._cited.parts(citations) if isinstance(citations, list) else parts

    def _piece_parts(self, piece: object, index: object) -> list[Part]:
        """Of a block or of its delta. Without a type, its text tells what it is."""
        if not isinstance(piece, dict):
            raise Malformed("no block")
        kind = piece.get("type")
        if kind in ("text_delta", "text") or (kind is None and "text" in piece):
            text = piece.get("text")
            if text is not None and not isinstance(text, str):
                raise Malformed(f"text is a {type(text).__name__}")
            return [Text(text)] if text else []
        if kind in ("thinking_delta", "thinking") or (kind is None and "thinking" in piece):
            return self._thought(piece.get("thinking"))
        if kind == "citations_delta":
            return self._cited.parts(piece.get("citation"))
        if kind == "input_json_delta":
            self._grew = True
            if index in self._tools:
                self._tools[index].add(piece.get("partial_json"))
            else:
                self._ignored.add("tool_call")
            return []
        if not isinstance(kind, str):  # it may have been text
            raise Malformed("a block without a type")
        return []  # signatures, and blocks of types that are not known yet

    def _thought(self, thought: object) -> list[Part]:
        if thought and not isinstance(thought, str):
            self._ignored.add("reasoning")
        return [Reasoning(thought)] if isinstance(thought, str) and thought else []

    def rest(self) -> list[Part]:
        """The tool calls whose blocks have not been closed."""
        return [part for index in list(self._tools) for part in self._close(index)]

    def _close(self, index: object) -> list[Part]:
        """The tool call of the block that has just ended, if it was one."""
        call = self._tools.pop(index, None)
        return [] if call is None else tool_call_parts(call, self._ignored)

    def _usages(self, usage: object, *, whole: bool) -> None:
        """Cumulative: the last number of each name counts. (LiteLLM says 0 first.)

        `whole`: the text has ended. A message's beginning already counts its first token.
        """
        self._count_usage(usage, {"output_tokens": "output_tokens"} if whole else {})
        if not isinstance(usage, dict):
            return
        for name in _INPUT:
            if (count := whole_number(usage.get(name))) is not None:
                self._input[name] = count
        if "input_tokens" in self._input:
            self._usage["input_tokens"] = sum(self._input.values())


def _index(value: dict[str, Any]) -> int | None:
    index = value.get("index")
    return index if isinstance(index, int) else None
