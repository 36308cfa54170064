"""A call: one provider's stream, read to its finish and passed to the flusher, with deadlines for tokens.

Nothing in here waits for Redis. Cancelling `read` closes the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import assert_never

from relay import timeouts
from relay_workers.providers.base import (
    Data,
    Finished,
    Part,
    ProviderError,
    Reasoning,
    ResumeHandle,
    Text,
    TextComplete,
)
from relay_workers.writing.arrivals import Arrivals
from relay_workers.writing.batching import Kind, utf8_bytes
from relay_workers.writing.flusher import Diverged, Flusher
from relay_workers.writing.text_repair import TextRepair

_PARTS_PER_TURN = 16  # that are taken without a turn for others; some servers send many at once


class TooLong(Exception):
    """The answer has more than `max_answer_bytes`."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Deadlines for tokens. `max_answer_bytes`: text, reasoning and data. `reasoning`: whether it is passed on."""

    first_token_timeout_s: float
    token_timeout_s: float
    max_answer_bytes: int
    reasoning: bool


class ProviderCall:
    """`read` it once. `first_token_s`: the provider's own deadline for the first token.

    `on_resume_handle`: called when the provider gives its resume handle.
    """

    def __init__(
        self,
        stream: AsyncGenerator[Part, None],
        flusher: Flusher,
        limits: CallLimits,
        arrivals: Arrivals,
        *,
        first_token_s: float | None,
        on_resume_handle: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._flusher = flusher
        self._limits = limits
        self._first_token_s = limits.first_token_timeout_s if first_token_s is None else first_token_s
        self._deadline: timeouts.Timer | None = None
        self._has_begun = False
        self._complete = False  # the provider itself limits how long it waits for the rest
        self._arrivals = arrivals
        self._on_resume_handle = on_resume_handle
        self._text_repair, self._reasoning_repair = TextRepair(), TextRepair()
        self._bytes = 0

    async def read(self) -> Finished:
        """The deadline moves with tokens, not with bytes: pings and comments are no progress.

        Raises ProviderError; TooLong; Diverged; Overflow, if the text is too much to wait for Redis.
        """
        async with aclosing(self._stream) as parts:
            finished = await self._in_time(parts)
        self._deadline = None
        self._tokens("tokens", self._text_repair.flush())
        self._tokens("reasoning", self._reasoning_repair.flush())
        if self._flusher.behind:
            raise Diverged("less text")
        return finished

    async def _in_time(self, parts: AsyncGenerator[Part, None]) -> Finished:
        parts_taken = 0  # since others had a turn for certain
        try:
            async with timeouts.timeout(self._first_token_s) as deadline:
                self._deadline = deadline
                async for part in parts:
                    if deadline.due is None and not self._complete:
                        raise TimeoutError  # the stream ignored the cancellation
                    if isinstance(part, Finished):
                        return part
                    self._hand_on(part)
                    parts_taken += 1
                    if self._flusher.wants_turn or parts_taken >= _PARTS_PER_TURN:
                        parts_taken = 0
                        await asyncio.sleep(0)  # parts that arrived together come without a pause: give others a turn
        except TimeoutError:
            what = f"no further token within {self._limits.token_timeout_s:g} s"
            if not self._has_begun:
                what = f"no first token within {self._first_token_s:g} s"
            raise ProviderError("provider_timeout", what, retryable=True) from None
        raise ProviderError("truncated", "the stream ended without a finish", retryable=True)

    def _hand_on(self, part: Text | Reasoning | Data | ResumeHandle | TextComplete) -> None:
        if isinstance(part, Text):
            self._tokens("tokens", self._text_repair.feed(part.text))
        elif isinstance(part, Reasoning):
            self._tokens("reasoning", self._reasoning_repair.feed(part.text))
        elif isinstance(part, Data):
            self._room_for(self._flusher.data(part.name, part.value))
            self._progress()
        elif isinstance(part, ResumeHandle):
            self._on_resume_handle(part.handle)
        elif isinstance(part, TextComplete):
            self._text_complete()
        else:
            assert_never(part)

    def _tokens(self, kind: Kind, tokens: list[str]) -> None:
        if not tokens:
            return
        if kind == "tokens":
            self._complete = False  # a finish that came early
        self._progress()
        if kind == "reasoning" and not self._limits.reasoning:
            return  # not shown, but progress: a model that thinks is not silent
        for token in tokens:
            self._room_for(utf8_bytes(token))
            self._flusher.token(kind, token)
        self._arrivals.note(len(tokens))

    def _progress(self) -> None:
        self._has_begun = True
        if self._deadline is not None and not self._complete:
            self._deadline.start(self._limits.token_timeout_s)

    def _text_complete(self) -> None:
        """The provider sets the deadline for what follows: a complete answer must not fail because of its usage."""
        self._complete = True
        if self._deadline is not None:
            self._deadline.stop()

    def _room_for(self, own_bytes: int) -> None:
        self._bytes += own_bytes
        if self._bytes > self._limits.max_answer_bytes:
            raise TooLong
