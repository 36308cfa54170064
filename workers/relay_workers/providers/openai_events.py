"""One background response of OpenAI's Responses API: reads each event once, however often it is sent.

https://developers.openai.com/api/reference/resources/responses/streaming-events
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relay.protocol.words import Finish
from relay_workers.providers.base import (
    MAX_RESUME_HANDLE_LENGTH,
    Finished,
    Part,
    ProviderError,
    Reasoning,
    ResumeHandle,
    Text,
    checked_model,
    checked_usage,
)
from relay_workers.providers.failures import classify_body, find_error
from relay_workers.providers.reading import USAGE, Citations, IgnoredFields, counts
from relay_workers.providers.tool_calls import ToolCall, tool_call_parts

_TEXTS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_THOUGHTS = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
_SUMMARY_PART = "response.reasoning_summary_part.added"
_ENDS = frozenset(f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled"))
_INCOMPLETE: dict[str, Finish] = {"max_output_tokens": "length", "content_filter": "filter"}


class Response:
    """What is known of it so far. Events are JSON that nobody has checked: any field may be missing or of another type.

    `response_id`: None until it is known. `last`: the sequence_number of the last event that was read.
    """

    def __init__(self, model: str, ignored: IgnoredFields, response_id: str | None = None) -> None:
        self.model = model
        self.response_id = response_id
        self.last: int | None = None
        self.finish: Finish | None = None
        self._ignored = ignored
        self._cited = Citations(ignored)
        self._refused = False
        self._usage: dict[str, int] | None = None
        self._said = 0  # bytes of text so far as UTF-16: a pair counts the same whether split over two deltas or not

    def read(self, event: Any) -> list[Part]:
        """The event's parts. Raises ProviderError if it is malformed or says that the response failed."""
        return self._checked(self._event_parts, event)

    def look(self, response: Any) -> list[Part]:
        """The text still missing, from the response itself; nothing before that has ended. Raises as `read` does.

        A response does not say where in the text its reasoning and its tool calls belong, so missing ones are left out.
        """
        return self._checked(self._missing_parts, response)

    def finished(self) -> Finished:
        """The last part; once `finish` is known."""
        if self.finish is None:
            raise ProviderError("truncated", "the response has no finish", retryable=True)
        return Finished("filter" if self._refused else self.finish, self.model, self._usage)

    def _checked(self, parts: Callable[[Any], list[Part]], said: Any) -> list[Part]:
        try:
            return parts(said)
        except (AttributeError, TypeError) as error:
            raise ProviderError("provider_error", f"a malformed event: {error}", retryable=True) from error

    def _event_parts(self, event: Any) -> list[Part]:
        if (error := find_error(event)) is not None:
            raise classify_body("error event", error)
        if event.get("object") == "response":  # whole, where a stream was asked for
            return [*self._created(event), *self._missing_parts(event)]
        kind, number = _text(event.get("type")), event.get("sequence_number")
        # Not for keepalives: their numbers belong to the connection, and the next event may have the same.
        if isinstance(number, int) and kind.startswith("response."):
            if self.last is not None and number <= self.last:
                return []
            self.last = number
        elif kind in _TEXTS or kind in _THOUGHTS:  # sent again, it could not be recognised
            what = "RELAY_OPENAI_BACKGROUND: this server's events have no sequence_number, so nobody can resume them"
            raise ProviderError("provider_error", what, retryable=False, misconfigured=True)
        if kind in _TEXTS:
            self._refused = self._refused or kind == "response.refusal.delta"
            return self._text_parts(_text(event.get("delta")))
        if kind in _THOUGHTS:
            return self._thought(event.get("delta"))
        if kind == "response.output_item.done":
            return self._tool_call(event.get("item"))
        if kind == "response.output_text.annotation.added":
            return self._cited.parts(event.get("annotation"))
        if kind == _SUMMARY_PART:  # each part begins with a headline and ends without a line break
            return [Reasoning("\n\n")] if event.get("summary_index") else []
        if kind == "response.created":
            return self._created(event.get("response"))
        if kind in _ENDS:
            return self._end_parts(kind, event.get("response"))
        return []

    def _created(self, response: Any) -> list[Part]:
        self.model = checked_model(response.get("model"), self.model)
        if self.response_id is not None:  # sent again
            return []
        self.response_id = checked_response_id(response.get("id"))
        return [ResumeHandle(self.response_id)]

    def _text_parts(self, text: str) -> list[Part]:
        if self.response_id is None:
            raise TypeError("text before response.created")
        self._said += len(_utf_16(text))
        return [Text(text)] if text else []

    def _thought(self, thought: object) -> list[Part]:
        if isinstance(thought, str):
            return [Reasoning(thought)] if thought else []
        self._ignored.add("reasoning")
        return []

    def _tool_call(self, item: object) -> list[Part]:
        """Of an item that is done, if it calls a tool by name."""
        if not isinstance(item, dict) or not str(item.get("type")).endswith("_call"):
            return []
        name, call_id = (said if isinstance(said := item.get(member), str) else "" for member in ("name", "call_id"))
        call = ToolCall(call_id, name)
        call.add(item.get("arguments", item.get("input")))
        return tool_call_parts(call, self._ignored) if name else []

    def _missing_parts(self, response: Any) -> list[Part]:
        kind = f"response.{_text(response.get('status'))}"
        if kind not in _ENDS:
            return []
        self._end(kind, response)
        text = _utf_16("".join(map(self._content, _contents(response))))
        if len(text) < self._said:
            raise TypeError("less text than before")
        return self._text_parts(text[self._said :].decode("utf-16-le", "surrogatepass"))

    def _content(self, content: Any) -> str:
        if content.get("type") == "refusal":
            self._refused = True
            return _text(content.get("refusal"))
        return _text(content.get("text")) if content.get("type") == "output_text" else ""

    def _end_parts(self, kind: str, response: Any) -> list[Part]:
        """Of the last event, which has the whole response once more: text whose deltas a server has left out."""
        self._end(kind, response)
        text = _utf_16("".join(map(self._content, _contents(response)))) if response.get("output") else b""
        return self._text_parts(text[self._said :].decode("utf-16-le", "surrogatepass")) if text else []

    def _end(self, kind: str, response: Any) -> None:
        if kind == "response.failed":
            raise classify_body(kind, response.get("error"))
        if kind == "response.cancelled":  # somebody stopped it: do not ask again
            raise ProviderError("provider_error", "the response was cancelled", retryable=False)
        self.model = checked_model(response.get("model"), self.model)
        self._usage = _usage(response.get("usage"))
        details = response.get("incomplete_details") if kind == "response.incomplete" else None
        reason = details.get("reason") if isinstance(details, dict) else None
        self.finish = "stop" if kind == "response.completed" else _INCOMPLETE.get(str(reason), "other")


def checked_response_id(said: object) -> str:
    """A response's id, usable as a resume handle. Raises ProviderError."""
    fits = isinstance(said, str) and len(said) <= MAX_RESUME_HANDLE_LENGTH and said.isascii() and said.isprintable()
    if fits and str(said).strip("."):  # dots alone would change the URL's path; an empty string is no id
        return str(said)
    raise ProviderError("provider_error", "the response's id cannot be a resume handle", retryable=False)


def _contents(response: Any) -> list[Any]:
    messages = [item for item in response.get("output") if item.get("type") == "message"]
    return [content for message in messages for content in message.get("content")]


def _usage(usage: Any) -> dict[str, int] | None:
    return checked_usage(counts(usage, USAGE) if isinstance(usage, dict) else None)


def _utf_16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {type(value).__name__}")
    return value
