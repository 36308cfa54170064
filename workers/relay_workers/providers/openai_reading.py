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
from relay_workers.providers.tool_calls import MAX_CALLS, ToolCalls, tool_call_parts

# What a finish_reason means, in lower case; any other is `other`.
_FINISHES: dict[str, Finish] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "end": "stop", "end_turn": "stop", "stop_sequence": "stop",
    "length": "length", "max_tokens": "length", "max_output_tokens": "length",
    "model_length": "length", "model_context_window_exceeded": "length",
    "content_filter": "filter", "content_filtered": "filter", "refusal": "filter", "safety": "filter",
    "sensitive": "filter", "recitation": "filter", "prohibited_content": "filter", "blocklist": "filter",
    "spii": "filter", "guardrail_intervened": "filter",
}  # fmt: skip
_NO_FINISHES = frozenset({"", "null", "none"})

_BODIES = ("delta", "message", "text")  # where a choice has its text; an answer keeps to the first that had any
_REASONING = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks")
_TEXT_PARTS = ("text", "output_text", "", None)  # types of parts that are text
_MAX_DEPTH = 4
_MAX_CHOICES = 8
_MAX_PARTS = 1000  # of one event's content


class ChatReader(StreamReader):
    """`done_ends`: whether an answer with `[DONE]` and no finish_reason is whole."""

    def __init__(self, model: str, ignored: IgnoredFields, *, done_ends: bool) -> None:
        super().__init__(model, ignored)
        self._done_ends = done_ends
        self._refused = False
        self._body = ""  # the one of _BODIES that has the text
        self._tools = ToolCalls()
        self._last_citations: object = None

    def finished(self) -> Finished:
        finished = super().finished()
        return Finished("filter", finished.model, finished.usage) if self._refused else finished

    def rest(self) -> list[Part]:
        return [part for call in self._tools.take() for part in tool_call_parts(call, self._ignored)]

    def _done(self) -> None:
        self.is_done = True
        if self.finish is None and self._done_ends and self._has_said:
            self.finish = self.last_finish

    def _parts(self, value: dict[str, Any], event: str) -> list[Part]:
        if (model := value.get("model")) != self.model:
            self.model = checked_model(model, self.model)
        choice = self._choice(value)
        self._usages(value, choice)
        parts = self._choice_parts(choice) if choice else []
        if citations := choice.get("annotations"):
            parts += self._citations(citations)
        if citations := value.get("citations"):
            parts += self._citations(citations)
        if reason := self._reason(choice):
            self.finish = _FINISHES.get(reason, "other")
        return parts

    def _choice(self, value: dict[str, Any]) -> dict[str, Any]:
        choices = value.get("choices")
        if not choices:  # the usage chunk; Azure's first one too
            return {}
        if not isinstance(choices, list) or not isinstance(choices[0], dict):
            raise Malformed("choices hold no object")
        if len(choices) == 1:  # whatever its index: only one answer was asked for
            return choices[0]
        numbered = (choice for choice in choices[:_MAX_CHOICES] if isinstance(choice, dict) and not choice.get("index"))
        return next(numbered, choices[0])

    def _usages(self, value: dict[str, Any], choice: dict[str, Any]) -> None:
        if isinstance(groq := value.get("x_groq"), dict):
            self._count_usage(groq.get("usage"), USAGE)
        if (usage := choice.get("usage")) is not None:
            self._count_usage(usage, USAGE)
        if (usage := value.get("usage")) is not None:
            self._count_usage(usage, USAGE)

    def _choice_parts(self, choice: dict[str, Any]) -> list[Part]:
        if self._body:
            return self._parts_of(self._body, choice.get(self._body))
        for name in _BODIES:
            if parts := self._parts_of(name, choice.get(name)):
                if any(isinstance(part, Text) for part in parts):
                    self._body = name
                return parts
        return []

    def _parts_of(self, name: str, body: object) -> list[Part]:
        if isinstance(body, dict):
            return self._body_parts(body)
        if isinstance(body, str):
            return [Text(body)] if body else []
        if body is not None:
            raise Malformed(f"{name} is a {type(body).__name__}")
        return []

    def _body_parts(self, body: dict[str, Any]) -> list[Part]:
        content = body.get("content")
        if len(body) == 1 and isinstance(content, str) and self._tools.are_none:  # most deltas
            return [Text(content)] if content else []
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
        pieces = content if isinstance(content, list) else [content]
        if len(pieces) > _MAX_PARTS:
            raise Malformed(f"content of more than {_MAX_PARTS} parts")
        for piece in pieces:
            if isinstance(piece, str):
                parts.append(Text(piece))
            elif isinstance(piece, dict):
                parts += self._content_part(piece)
            elif piece is not None:
                raise Malformed(f"content is a {type(piece).__name__}")
        return [part for part in parts if not isinstance(part, Text) or part.text]

    def _content_part(self, piece: dict[str, Any]) -> list[Part]:
        kind = piece.get("type")
        if kind in ("thinking", "reasoning"):
            thought = _plain({name: member for name, member in piece.items() if name != "type"})
            if thought is None:
                self._ignored.add("reasoning")
            return [Reasoning(thought)] if thought else []
        if piece.get("refusal"):
            return [self._refusal(piece["refusal"])]
        if (text := _plain(piece.get("text"))) is not None:
            return [Text(text)]
        if piece.get("text") or kind in _TEXT_PARTS:
            raise Malformed("content that cannot be read")
        self._ignored.add("content")
        return []

    def _refusal(self, refusal: object) -> Part:
        if not isinstance(refusal, str):
            raise Malformed(f"refusal is a {type(refusal).__name__}")
        self._refused = True
        return Text(refusal)

    def _add_tools(self, body: dict[str, Any]) -> None:
        pieces = body.get("tool_calls") or [{"function": body["function_call"]}]
        pieces = pieces if isinstance(pieces, list) else [pieces]
        if len(pieces) > MAX_CALLS:
            self._ignored.add("tool_call")
        for piece in pieces[:MAX_CALLS]:
            function = piece.get("function") if isinstance(piece, dict) else None
            if not isinstance(function, dict):
                self._ignored.add("tool_call")
                continue
            self._grew = True
            said = (piece.get("id"), function.get("name"), function.get("arguments"))
            if not self._tools.add(whole_number(piece.get("index")), *said):
                self._ignored.add("tool_call")

    def _flush(self) -> list[Part]:
        """The tool calls that text follows, as far as they are whole; the others may go on behind it."""
        if self._tools.are_none:
            return []
        return [part for call in self._tools.take_whole() for part in tool_call_parts(call, self._ignored)]

    def _citations(self, citations: object) -> list[Part]:
        if not citations or citations == self._last_citations:
            return []
        self._last_citations = citations
        found = citations if isinstance(citations, list) else [citations]
        return self._cited.parts([_flat(citation) for citation in found])

    def _reason(self, choice: dict[str, Any]) -> str:
        """The finish_reason in lower case; empty if there is none. Raises ProviderError if the model has failed."""
        said, native = choice.get("finish_reason"), choice.get("native_finish_reason")
        if said is None and native is None:
            return ""
        if said and not isinstance(said, str):
            self._ignored.add("finish")
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


def _flat(citation: object) -> object:
    """OpenAI's own is an object in an object."""
    nested = citation.get("url_citation") if isinstance(citation, dict) else None
    if not isinstance(citation, dict) or not isinstance(nested, dict):
        return citation
    return {**{name: member for name, member in citation.items() if name != "url_citation"}, **nested}
