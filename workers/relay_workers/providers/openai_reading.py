"""OpenAI's chat completions as servers really send them: each event's JSON becomes parts. Pure.

OpenAI's own shape comes first in each table; tests/workers/providers/dialects_openai.py has the others, and who sends
them. https://developers.openai.com/api/reference/resources/chat/subresources/completions/streaming-events
"""

from __future__ import annotations

from typing import Any

from relay.protocol.words import Finish
from relay_workers.providers.base import Finished, Part, ProviderError, Reasoning, Text, checked_model
from relay_workers.providers.reading import (
    FAILURES,
    USAGE,
    IgnoredFields,
    Malformed,
    StreamReader,
    normal_reason,
    whole_number,
)
from relay_workers.providers.tool_calls import ToolCalls, tool_call_parts

# What a finish_reason means, in lower case; any other is `other`.
_FINISHES: dict[str, Finish] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "end": "stop", "end_turn": "stop", "stop_sequence": "stop",
    "length": "length", "max_tokens": "length", "max_output_tokens": "length", "max_length": "length",
    "model_length": "length", "model_context_window_exceeded": "length",
    "content_filter": "filter", "content_filtered": "filter", "refusal": "filter", "safety": "filter",
    "sensitive": "filter", "recitation": "filter", "prohibited_content": "filter", "blocklist": "filter",
    "spii": "filter", "guardrail_intervened": "filter",
}  # fmt: skip
_NO_FINISHES = frozenset({"", "null", "none"})

_BODIES = ("delta", "message", "text")  # where a choice has its text; an answer keeps to the first that had any
_REASONING = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks")
_MAX_DEPTH = 4


class ChatReader(StreamReader):
    """`done_ends`: whether an answer with `[DONE]` and no finish_reason is whole."""

    def __init__(self, model: str, ignored: IgnoredFields, *, done_ends: bool) -> None:
        super().__init__(model, ignored)
        self._done_ends = done_ends
        self._refused = False
        self._index: int | None = None  # of the choice that is read: only one was asked for
        self._body = ""  # the one of _BODIES that has the text
        self._anything = False
        self._tools = ToolCalls()

    def finished(self) -> Finished:
        finished = super().finished()
        return Finished("filter", finished.model, finished.usage) if self._refused else finished

    def _done(self) -> list[Part]:
        self.is_done = True
        if self.finish is None and self._done_ends and self._anything:
            self.finish = self.last_finish
            return self._flush()
        return []

    def _parts(self, value: dict[str, Any], event: str) -> list[Part]:
        if (model := value.get("model")) != self.model:
            self.model = checked_model(model, self.model)
        choice = self._choice(value)
        self._usages(value, choice)
        parts = self._choice_parts(choice) if choice else []
        for citations in (choice.get("annotations"), value.get("citations")):
            if citations:
                parts += self._citations(citations)
        if reason := _reason(choice):
            self.finish = _FINISHES.get(reason, "other")
            parts += self._flush()
        if parts:
            self._anything = True
        return parts

    def _choice(self, value: dict[str, Any]) -> dict[str, Any]:
        choices = value.get("choices")
        if not choices:  # the usage chunk; Azure's first one too
            return {}
        for choice in choices if isinstance(choices, list) else [None]:
            if not isinstance(choice, dict):
                raise Malformed("choices hold no object")
            index = whole_number(choice.get("index"))
            if self._index is None:
                self._index = index
            if index is None or index == self._index:
                return choice
        return {}

    def _usages(self, value: dict[str, Any], choice: dict[str, Any]) -> None:
        groq = value.get("x_groq")
        for holder in (groq, choice, value):
            if isinstance(holder, dict) and (usage := holder.get("usage")) is not None:
                self._count_usage(usage, USAGE)

    def _choice_parts(self, choice: dict[str, Any]) -> list[Part]:
        parts: list[Part] = []
        for name in (self._body,) if self._body else _BODIES:
            body = choice.get(name)
            if isinstance(body, str):
                parts = [Text(body)] if body else []
            elif isinstance(body, dict):
                parts = self._body_parts(body)
            elif body is not None:
                raise Malformed(f"{name} is a {type(body).__name__}")
            if any(isinstance(part, Text) for part in parts):
                self._body = name
            if parts:
                break
        return parts

    def _body_parts(self, body: dict[str, Any]) -> list[Part]:
        content = body.get("content")
        if len(body) == 1 and isinstance(content, str):  # most deltas
            return [*self._flush(), Text(content)] if content else []
        parts: list[Part] = []
        if thought := self._thought(body):
            parts.append(Reasoning(thought))
        if content:
            said = [Text(content)] if isinstance(content, str) else self._content_parts(content)
            parts += [*self._flush(), *said] if any(isinstance(part, Text) for part in said) else said
        if refusal := body.get("refusal"):
            parts.append(self._refusal(refusal))
        parts += self._citations(body.get("annotations"))
        if body.get("tool_calls") or body.get("function_call"):
            self._add_tools(body)
        return parts

    def _thought(self, body: dict[str, Any]) -> str:
        """The first that can be read: some servers send the same text under several names."""
        unreadable = False
        for name in _REASONING:
            said = body.get(name)
            if not said:
                continue
            thought = _plain(said)
            if thought:
                return thought
            unreadable = unreadable or thought is None
        if unreadable:
            self._ignored.add("reasoning")
        return ""

    def _content_parts(self, content: object) -> list[Part]:
        """Content that is no string, but a part or a list of parts."""
        parts: list[Part] = []
        for piece in content if isinstance(content, list) else [content]:
            if piece is None:
                continue
            if isinstance(piece, str):
                parts.append(Text(piece))
            elif not isinstance(piece, dict):
                raise Malformed(f"content is a {type(piece).__name__}")
            elif piece.get("type") in ("thinking", "reasoning"):
                thought = _plain({name: member for name, member in piece.items() if name != "type"})
                if thought is None:
                    self._ignored.add("reasoning")
                elif thought:
                    parts.append(Reasoning(thought))
            elif piece.get("refusal"):
                parts.append(self._refusal(piece["refusal"]))
            elif (text := _plain(piece.get("text"))) is not None:
                parts.append(Text(text))
            else:
                self._ignored.add("content")
        return [part for part in parts if not isinstance(part, Text) or part.text]

    def _refusal(self, refusal: object) -> Part:
        if not isinstance(refusal, str):
            raise Malformed(f"refusal is a {type(refusal).__name__}")
        self._refused = True
        return Text(refusal)

    def _add_tools(self, body: dict[str, Any]) -> None:
        pieces = body.get("tool_calls") or [{"index": "function_call", "function": body["function_call"]}]
        for piece in pieces if isinstance(pieces, list) else [pieces]:
            function = piece.get("function") if isinstance(piece, dict) else None
            if not isinstance(function, dict):
                self._ignored.add("tool_call")
                continue
            index, said = piece.get("index"), (piece.get("id"), function.get("name"), function.get("arguments"))
            if not self._tools.add(index if isinstance(index, int | str) else None, *said):
                self._ignored.add("tool_call")

    def _flush(self) -> list[Part]:
        """The tool calls so far: text that follows them, or the finish, shows that they are whole."""
        if self._tools.are_none:
            return []
        return [part for call in self._tools.take() for part in tool_call_parts(call, self._ignored)]

    def _citations(self, citations: object) -> list[Part]:
        found = citations if isinstance(citations, list) else [citations] if citations else []
        return [part for citation in found for part in self._citation(_citation(citation))]


def _reason(choice: dict[str, Any]) -> str:
    """The finish_reason in lower case; empty if there is none. Raises ProviderError if the model has failed."""
    said, native = choice.get("finish_reason"), choice.get("native_finish_reason")
    if said is None and native is None:
        return ""
    reasons = [normal_reason(said), normal_reason(native)]
    if failed := next((reason for reason in reasons if reason in FAILURES), None):
        raise ProviderError("provider_error", f"finish_reason {failed}", retryable=True)
    return "" if reasons[0] in _NO_FINISHES else reasons[0]


def _plain(said: object, depth: int = _MAX_DEPTH) -> str | None:
    """The text of a string, of an object's first member that has one, or of a list of these; None: none to be read."""
    if isinstance(said, str):
        return said
    if isinstance(said, list) and depth:
        texts = [_plain(item, depth - 1) for item in said]
        return None if None in texts else "".join(text or "" for text in texts)
    if isinstance(said, dict) and depth:
        if said.get("type") in ("reasoning.encrypted", "redacted_thinking"):
            return ""
        for name in ("text", "content", "summary", "thinking", "reasoning", "value"):
            if said.get(name):
                return _plain(said[name], depth - 1)
        known = {"text", "content", "summary", "thinking", "type", "signature", "format", "id", "index"}
        return "" if not set(said) - known else None
    return None


def _citation(said: object) -> dict[str, Any] | None:
    if isinstance(said, str) and said:
        return {"url": said}
    if not isinstance(said, dict):
        return None
    nested = said.get("url_citation")
    if not isinstance(nested, dict):
        return said
    return {**{name: member for name, member in said.items() if name != "url_citation"}, **nested}
