"""What the fake provider is told to do, and what it noted of each call; the same for every API that it speaks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
from typing import Any, Literal, Protocol

Api = Literal["openai", "anthropic", "agent", "responses"]
Body = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Script:
    """What one call is answered with. Tokens count from 0. Names are OpenAI's; each format translates them.

    `…_after` k: the fault comes in place of token k and ends the answer. k = len(tokens) is in place of the finish
    mark, one more in place of what follows it (OpenAI's usage, Anthropic's message_stop). `hold_before` counts alike.
    """

    tokens: list[str] = dataclasses.field(default_factory=list)  # lone surrogates go out as JSON escapes
    reasoning: list[str] = dataclasses.field(default_factory=list)
    refusal: list[str] = dataclasses.field(default_factory=list)  # text by which the model refuses, after the tokens
    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"  # OpenAI only
    finish_reason: str | None = "stop"  # None: everything but the finish mark
    usage: dict[str, int] | None = None  # prompt_tokens, completion_tokens; None: one per word, one per token
    cached_tokens: int = 0  # of the prompt; Anthropic counts them beside its input_tokens

    tokens_per_second: float | None = None  # None: as fast as the socket takes them
    first_token_delay_s: float = 0.0
    hold_status: bool = False  # not a byte until release()
    hold_before: int | None = None  # nothing from token k on until release()

    status: int | None = None  # an HTTP error instead of a stream
    status_headers: dict[str, str] = dataclasses.field(default_factory=dict)
    status_body: str | None = None  # None: as the API words this status

    close_after: int | None = None  # a clean end without finish mark
    cut_after: int | None = None  # the connection closes amid the body (with `status`: amid its body)
    reset_after: int | None = None  # the same with a TCP reset
    error_after: int | None = None  # an `error` event, then a clean end
    error: Any = None  # what it holds; None: the API's own words for a failed server
    garbage_after: int | None = None  # an event that is none of the API's
    garbage: str = '{"choices": ['  # "\\udcff" in it goes out as the byte 0xff

    # Background responses only. What cuts or closes their connection hits the reader that asked for it: they go on.
    stall_after: int | None = None  # that reader is told nothing more from token k on, and stays connected
    cut_each: int | None = None  # every reader's connection closes after so many events
    retrieves: list[int] = dataclasses.field(default_factory=list)  # status of the first GETs of its stream; 0: none
    keepalives: bool = False  # one before each event, with the number of the event that follows
    retells: bool = False  # each reader is told everything, whatever its starting_after
    cancel_status: int | None = None  # of every cancel; 0: none
    response_id: Any = None  # None: resp_ and the call's index

    @property
    def prompt_tokens(self) -> int | None:
        return self.usage["prompt_tokens"] if self.usage else None

    @property
    def completion_tokens(self) -> int:
        return self.usage["completion_tokens"] if self.usage else len(self.tokens)


@dataclasses.dataclass(eq=False)
class Reader:
    """One connection on which a background response is read; the first is the one that asked for it."""

    starting_after: int | None = None
    events: int = 0  # sent to it
    finished: bool = False  # nothing more comes to it
    client_gone_at: float | None = None  # when it hung up before that


@dataclasses.dataclass(eq=False)
class Call:
    """One request for an answer; times are time.monotonic() of this machine, comparable between its processes.

    Of a background response `finished` means that it has ended, `sent` counts what any reader was sent, and
    `client_gone_at` is when the reader that asked for it hung up.
    """

    index: int
    api: Api
    body: Body
    headers: dict[str, str]
    script: Script
    started_at: float = dataclasses.field(default_factory=time.monotonic)
    sent: int = 0  # tokens
    held: bool = False
    finished: bool = False  # everything in the script was sent, its fault included
    client_gone_at: float | None = None  # when the client hung up on an answer that was not finished
    released: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    generated: int = 0  # tokens of a background response, whoever has read them
    cancelled_at: float | None = None
    readers: list[Reader] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        """The text sent so far."""
        return "".join(self.script.tokens[: self.sent])

    @property
    def broke(self) -> bool:
        """Whether it was cut off by its script."""
        return self.finished and self.script.cut_after is not None

    @property
    def prompt(self) -> str:
        """The last user turn."""
        return prompt_of(self.body)

    @property
    def model(self) -> str:
        return str(self.body.get("model", "fake"))

    def as_json(self) -> dict[str, Any]:
        """For GET /control/calls."""
        names = (
            "index", "api", "body", "headers", "started_at", "sent", "text", "held", "finished", "client_gone_at",
            "generated", "cancelled_at",
        )  # fmt: skip
        readers = [dataclasses.asdict(reader) for reader in self.readers]
        return {**{name: getattr(self, name) for name in names}, "readers": readers}


class Format(Protocol):
    """How one API writes an answer; each list holds server-sent events or other pieces, to be sent one by one."""

    content_type: str

    def begin(self) -> list[bytes]: ...

    def reasoning(self, text: str) -> list[bytes]: ...

    def token(self, text: str) -> list[bytes]: ...

    def finish(self) -> list[bytes]:
        """The finish mark, and the refusal before it."""
        ...

    def tail(self) -> list[bytes]:
        """What follows the finish mark."""
        ...

    def error(self) -> list[bytes]: ...

    def garbage(self) -> list[bytes]: ...

    def status_body(self, status: int) -> Any:
        """The body of an HTTP error, as JSON."""
        ...


def prompt_of(body: Body) -> str:
    """The last user turn of a request, whether its content is a string or blocks."""
    turns = [message for message in messages_of(body) if message.get("role") == "user"]
    return text_of(turns[-1].get("content", "")) if turns else ""


def messages_of(body: Body) -> list[Any]:
    """The turns of a request; the Responses API calls them its input."""
    turns = body.get("messages") or body.get("input") or []
    return [{"role": "user", "content": turns}] if isinstance(turns, str) else list(turns)


def text_of(content: Any) -> str:
    """The text of a turn's content, a string or a list of blocks."""
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content)
    return str(content)


def words(body: Body) -> int:
    """What the prompt of a request is billed as: one token for each word."""
    return sum(len(text_of(message.get("content")).split()) for message in messages_of(body))


def tokenize(text: str) -> list[str]:
    """The text by its words, each with the space before it."""
    return re.findall(r"\s*\S+|\s+\Z", text)


def encode(value: object) -> bytes:
    """JSON, as UTF-8 where that is possible."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair: only as an escape
        return json.dumps(value).encode()
