"""What recorded bytes of a model server say, read with http.client and json alone: no code of ours or of an SDK.

It knows two APIs as their documentation has them, and for each a stream and a whole answer.
"""

from __future__ import annotations

import gzip
import http.client
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Api = Literal["openai", "anthropic"]
Piece = tuple[str, Any]  # ("text", "…"), ("reasoning", "…") or ("tool_call", {…})

FINISHES: dict[Api, dict[str, str]] = {
    "openai": {"stop": "stop", "length": "length", "content_filter": "filter", "tool_calls": "other"},
    "anthropic": {
        "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "refusal": "filter", "tool_use": "other"
    },
}  # fmt: skip


@dataclass
class Said:
    """One response. `content` in its order; `cut`: the body broke off before its own end."""

    status: int
    content: list[Piece] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, int] | None = None
    model: str | None = None
    cut: bool = False
    body: bytes = b""

    @property
    def text(self) -> str:
        return joined(self.content, "text")


def joined(content: list[Piece], kind: str) -> str:
    return "".join(value for name, value in content if name == kind)


def merged(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of one kind as one, without empty ones, and pairs of surrogates as the character that they are."""
    found: list[Piece] = []
    for kind, value in pieces:
        if isinstance(value, str) and found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + value)
        elif value != "":
            found.append((kind, value))
    return [(kind, _whole(value) if isinstance(value, str) else value) for kind, value in found]


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def read(api: Api, record: bytes) -> list[Said]:
    """The responses, in order, that came over one connection."""
    return [_said(api, *response) for response in _responses(record)]


# HTTP


class _Socket:
    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    def makefile(self, _: str) -> Any:
        return _Unclosed(self._stream)


class _Unclosed(io.BufferedIOBase):
    """http.client closes its file after one response, and the next one may follow."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.read, self.readline, self.readinto = stream.read, stream.readline, stream.readinto  # type: ignore[method-assign]

    def peek(self, _: int = 0) -> bytes:
        return b""


def _responses(record: bytes) -> Iterator[tuple[int, str, bytes, bool]]:
    """Of each: status, content type, body, and whether that broke off."""
    stream = io.BytesIO(record)
    while stream.tell() < len(record):
        response = http.client.HTTPResponse(_Socket(stream))  # type: ignore[arg-type]
        response.begin()
        try:
            body, cut = response.read(), False
        except http.client.IncompleteRead as error:
            body, cut = error.partial, True
        if response.getheader("content-encoding") == "gzip":
            body = gzip.decompress(body)
        yield response.status, response.getheader("content-type", ""), body, cut


# The APIs


def _said(api: Api, status: int, content_type: str, body: bytes, cut: bool) -> Said:
    said = Said(status, cut=cut, body=body)
    if status != 200:
        return said
    if content_type.startswith("text/event-stream"):
        {"openai": _chunks, "anthropic": _events}[api](said, list(_data(body)))
    else:
        try:
            whole = json.loads(body)
        except ValueError:
            return said
        {"openai": _completion, "anthropic": _message}[api](said, whole)
    said.content = merged(said.content)
    return said


def _data(body: bytes) -> Iterator[dict[str, Any]]:
    """The JSON of each event; one that the body breaks off in does not count."""
    *events, _ = body.replace(b"\r\n", b"\n").split(b"\n\n")
    for event in events:
        lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines and lines != [b"[DONE]"]:
            yield json.loads(b"\n".join(lines))


def _chunks(said: Said, chunks: list[dict[str, Any]]) -> None:
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        said.model = chunk.get("model") or said.model
        _openai_usage(said, chunk)
        for choice in chunk.get("choices", []):  # an error has none
            delta = choice.get("delta") or {}
            said.finish = choice.get("finish_reason") or said.finish
            said.content.append(("reasoning", delta.get("reasoning_content") or ""))
            said.content.append(("text", delta.get("content") or ""))
            for part in delta.get("tool_calls") or []:
                if part["index"] not in calls:
                    call = calls[part["index"]] = {"id": part["id"], "name": part["function"]["name"], "arguments": ""}
                    said.content.append(("tool_call", call))
                calls[part["index"]]["arguments"] += part["function"].get("arguments") or ""
    for call in calls.values():
        call["arguments"] = json.loads(call["arguments"])


def _completion(said: Said, whole: dict[str, Any]) -> None:
    message = whole["choices"][0]["message"]
    said.model, said.finish = whole["model"], whole["choices"][0]["finish_reason"]
    said.content += [("reasoning", message.get("reasoning_content") or ""), ("text", message.get("content") or "")]
    _openai_usage(said, whole)


def _openai_usage(said: Said, whole: dict[str, Any]) -> None:
    if usage := whole.get("usage"):
        said.usage = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}


def _events(said: Said, events: list[dict[str, Any]]) -> None:
    usage: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        match event["type"]:
            case "message_start":
                said.model = event["message"]["model"]
                usage |= event["message"]["usage"]
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                block = event["content_block"]
                calls[event["index"]] = call = {"id": block["id"], "name": block["name"], "arguments": ""}
                said.content.append(("tool_call", call))
            case "content_block_start":
                _block(said, event["content_block"])
            case "content_block_delta" if event["delta"]["type"] == "input_json_delta":
                calls[event["index"]]["arguments"] += event["delta"]["partial_json"]
            case "content_block_delta":
                _block(said, event["delta"])
            case "message_delta":
                said.finish = event["delta"].get("stop_reason") or said.finish
                usage |= {name: count for name, count in event.get("usage", {}).items() if count is not None}
    for call in calls.values():
        call["arguments"] = json.loads(call["arguments"] or "{}")
    _anthropic_usage(said, usage)


def _message(said: Said, whole: dict[str, Any]) -> None:
    said.model, said.finish = whole["model"], whole["stop_reason"]
    for block in whole["content"]:
        _block(said, block)
    _anthropic_usage(said, whole["usage"])


def _block(said: Said, block: dict[str, Any]) -> None:
    said.content += [("reasoning", block.get("thinking") or ""), ("text", block.get("text") or "")]


def _anthropic_usage(said: Said, usage: dict[str, Any]) -> None:
    kinds = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    if usage.get("input_tokens") is not None and usage.get("output_tokens") is not None:
        whole_prompt = sum(usage.get(kind) or 0 for kind in kinds)
        said.usage = {"input_tokens": whole_prompt, "output_tokens": usage["output_tokens"]}
