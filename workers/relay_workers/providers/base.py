"""What a provider is: one async generator of parts. The differences between model APIs end here.

A provider yields `Text` and `Reasoning` deltas as they come and, as its last part, one `Finished`. It repairs nothing
and batches nothing; it raises `ProviderError`, never an SDK's own error. A stream that ends without its API's own
finish raises `ProviderError("truncated", …)`: the bytes alone do not tell, and half an answer would pass for a whole
one. Closing the generator (or cancelling the task that reads it) closes the upstream connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from relay.protocol.commands import MAX_NESTING
from relay.protocol.options import Options
from relay.protocol.words import MAX_DATA_BYTES, Finish, Role

MAX_NAME_LENGTH = 256  # of a model
MAX_RESUME_HANDLE_LENGTH = 256
MAX_DATA_NAME_LENGTH = 128

ProviderErrorCode = Literal[
    "provider_error", "provider_timeout", "provider_rate_limited", "provider_refused", "truncated"
]


class Turn(msgspec.Struct, frozen=True):
    """One turn of the model's context."""

    role: Role
    content: str


class Prompt(msgspec.Struct, frozen=True):
    """What the model is asked: the whole context, the last turn a user's, and what the submit asked for.

    `options`: the submit's, and the defaults of the provider that is asked. What its API cannot be told has no effect.
    """

    turns: list[Turn]
    model: str | None = None
    max_tokens: int | None = None
    session: str = ""
    generation: str = ""
    metadata: dict[str, Any] | None = None
    options: Options | None = None


class Text(msgspec.Struct, frozen=True, gc=False):
    """A text delta as the provider sent it; may be empty or end in half a surrogate pair."""

    text: str


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """A delta of the model's reasoning."""

    text: str


class Data(msgspec.Struct, frozen=True):
    """Something to show at this point of the text: `value` is any JSON value."""

    name: str
    value: Any


class ResumeHandle(msgspec.Struct, frozen=True):
    """The provider goes on with this answer by itself. With the handle, it can be read again from its beginning.

    At most MAX_RESUME_HANDLE_LENGTH printable ASCII characters; yielded before any text.
    """

    handle: str


class TextComplete(msgspec.Struct, frozen=True):
    """The text has ended: only the usage is missing, and the provider limits how long it waits for that.

    Without this part, whatever follows the last delta must come within that delta's deadline.
    """


class Finished(msgspec.Struct, frozen=True):
    """The provider's own finish: the answer is complete. `usage` counts tokens as the provider bills them."""

    finish: Finish
    model: str | None = None
    usage: dict[str, int] | None = None  # {"input_tokens", "output_tokens"}


Part = Text | Reasoning | Data | ResumeHandle | TextComplete | Finished


class ProviderError(Exception):
    """The provider failed; `code` becomes `end.error.code`, the text goes to the log only, never to a client.

    `retryable`: asking again may help. `status`: the HTTP status, or the one that an error inside a stream stands
    for, if there was one. `retry_after_s`: how long the provider wants to be left alone, if it said so.
    `misconfigured`: its address is wrong, whatever the question.

    What follows is for the log alone, and noted by endpoint.py once it is known: where the question went, the
    provider's own names for the call and the error, the setting to look at (`hint`), and, for level debug only, the
    provider's sentence (`said`). `reported`: the error as it came; never logged as it is.
    """

    provider_code: str | None = None
    param: str | None = None
    host: str | None = None
    path: str | None = None
    request_id: str | None = None
    hint: str | None = None
    said: str | None = None
    reported: object = None

    def __init__(
        self,
        code: ProviderErrorCode,
        detail: str,
        *,
        retryable: bool,
        status: int | None = None,
        retry_after_s: float | None = None,
        misconfigured: bool = False,
    ) -> None:
        super().__init__(detail)
        self.code: ProviderErrorCode = code
        self.retryable = retryable
        self.status = status
        self.retry_after_s = retry_after_s
        self.misconfigured = misconfigured

    @property
    def log_fields(self) -> dict[str, Any]:
        """Everything but its text and `said`."""
        known = ("provider_code", "param", "host", "path", "request_id", "hint")
        fields = {name: value for name in known if (value := getattr(self, name)) is not None}
        return {"code": self.code, "status": self.status, **fields}

    @property
    def is_sick(self) -> bool:
        """Whether the next question is likely to fail there as well, for example because of its key.

        A refusal is about this question, even if it comes as 403. So is 404: a submit may name any model.
        """
        if self.code == "provider_refused":
            return False
        return self.retryable or self.misconfigured or self.status in (401, 402, 403)


class Provider(Protocol):
    """One model API, shared by all generations of a worker process.

    `model`: used if a submit names none. `first_token_s`: its own deadline for the first token; None: the worker's.
    """

    name: str
    model: str
    first_token_s: float | None

    async def check(self) -> None:
        """Whether it can be reached; asked once, when the worker starts. Raises ProviderError."""
        ...

    def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """The answer, part by part. Raises ProviderError."""
        ...

    async def aclose(self) -> None:
        """Close idle connections; called once, after the last stream has ended."""
        ...


@runtime_checkable
class Resumable(Provider, Protocol):
    """A provider whose answers outlive their connection; it yields one `ResumeHandle` for each.

    Closing its generator, or cancelling the task that reads it, does not stop the answer: only `cancel` does.
    """

    def resume(self, handle: str) -> AsyncGenerator[Part, None]:
        """The same answer from its first token on, without its ResumeHandle: first the old text, then what follows.

        Raises ProviderError.
        """
        ...

    async def cancel(self, handle: str) -> None:
        """Stop the answer at the provider. Raises ProviderError; harmless if it has ended already."""
        ...


def checked_model(said: object, asked: str) -> str:
    """The model that a response names; `asked` if that is no name: servers send what they like."""
    is_name = isinstance(said, str) and 0 < len(said) <= MAX_NAME_LENGTH and said.isprintable()
    return str(said) if is_name else asked


def checked_usage(usage: Mapping[str, object] | None) -> dict[str, int] | None:
    """The two numbers that an `end` carries, within what JSON holds exactly; None if either is not such a number."""
    counts = {name: (usage or {}).get(name) for name in ("input_tokens", "output_tokens")}
    whole = {name: count for name, count in counts.items() if type(count) is int and 0 <= count < 2**53}
    return whole if len(whole) == len(counts) else None


def checked_data(name: object, value: object) -> Data:
    """Data that every client can take, with its value as JSON decodes it. Raises ProviderError that quotes neither."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_DATA_NAME_LENGTH:
        raise _bad_data(f"a name must be a string of 1 to {MAX_DATA_NAME_LENGTH} characters")
    try:
        encoded = msgspec.json.encode((name, value))
        size = len(encoded) - len(msgspec.json.encode(name)) - len(b"[,]")
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        # Without the error's text, which may quote the value.
        raise _bad_data(f"not to be encoded as JSON ({type(error).__name__})") from None
    if size > MAX_DATA_BYTES:
        raise _bad_data(f"the value has {size} bytes of JSON, {MAX_DATA_BYTES} are allowed")
    copy = msgspec.json.decode(encoded)[1]  # the caller may go on changing its own
    if not _nests_within(copy, MAX_NESTING):
        raise _bad_data(f"the value nests deeper than {MAX_NESTING} levels")
    return Data(name, copy)


def _nests_within(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_nests_within(one, levels - 1) for one in inner)


def _bad_data(what: str) -> ProviderError:
    return ProviderError("provider_error", f"data: {what}", retryable=False)


def describe(error: BaseException) -> dict[str, Any]:
    """Fields for a log line about a failed call: the class and its shortened text; no request, no key."""
    fields = error.log_fields if isinstance(error, ProviderError) else {}
    return {"error": type(error).__name__, "detail": str(error)[:300], **fields}
