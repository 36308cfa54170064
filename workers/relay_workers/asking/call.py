"""A call: one provider's stream, read to its finish and handed to the flusher, by the deadlines of tokens.

Nothing in here waits for Redis. Cancelling `read` closes the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import assert_never

from relay import timeouts
from relay.settings import Settings
from relay_workers.providers.base import Data, Finished, Mark, Part, ProviderError, Reasoning, Text, Whole
from relay_workers.writing.batching import Kind
from relay_workers.writing.flusher import Diverged, Flusher
from relay_workers.writing.text_repair import Mender

_ARRIVALS = 4096  # tokens whose time is remembered: more cannot be in flight when an answer is stopped


class TooLong(Exception):
    """The answer has more than `max_answer_bytes`."""


class Arrivals:
    """When the tokens of an answer came, by `time.monotonic`. `first_s`: the first of all its calls."""

    def __init__(self) -> None:
        self.first_s: float | None = None
        self._times: deque[float] = deque(maxlen=_ARRIVALS)

    def note(self, tokens: int) -> bool:
        """Whether they were the first."""
        now_s = time.monotonic()
        self._times.extend([now_s] * tokens)
        if self.first_s is not None or not tokens:
            return False
        self.first_s = now_s
        return True

    def since(self, at_s: float) -> int:
        """How many have come after this moment."""
        return sum(1 for arrived_s in self._times if arrived_s > at_s)


class Call:
    """`read` it once. `first_token_s`: its deadline for the first token; `heard`: told of the tokens of each part.

    `marked`: told of the provider's mark.
    """

    def __init__(
        self,
        stream: AsyncGenerator[Part, None],
        flusher: Flusher,
        settings: Settings,
        *,
        first_token_s: float,
        heard: Callable[[int], None],
        marked: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._flusher = flusher
        self._settings = settings
        self._first_token_s = first_token_s
        self._deadline: timeouts.Timer | None = None  # None: nothing more can be late
        self._heard = heard
        self._marked = marked
        self._menders: dict[Kind, Mender] = {"tokens": Mender(), "reasoning": Mender()}
        self._bytes = 0

    async def read(self) -> Finished:
        """The deadline moves with tokens, not with bytes: pings and comments are no progress.

        Raises ProviderError; TooLong; Diverged; Overflow, where what was said cannot wait for Redis.
        """
        async with aclosing(self._stream) as parts:
            finished = await self._in_time(parts)
        for kind, mender in self._menders.items():
            self._tokens(kind, mender.flush())
        if self._flusher.behind:
            raise Diverged("less text")
        return finished

    async def _in_time(self, parts: AsyncGenerator[Part, None]) -> Finished:
        try:
            async with timeouts.timeout(self._first_token_s) as self._deadline:
                async for part in parts:
                    if self._deadline is not None and self._deadline.due is None:
                        raise TimeoutError  # a stream that heeds no cancellation
                    if isinstance(part, Finished):
                        return part
                    self._hand_on(part)
                    if self._flusher.due() or not self._flusher.waits:
                        await asyncio.sleep(0)  # parts that arrived together come without a pause: others have a turn
        except TimeoutError:
            raise ProviderError("provider_timeout", "no token in time", retryable=True) from None
        raise ProviderError("truncated", "the stream ended without a finish", retryable=True)

    def _hand_on(self, part: Text | Reasoning | Data | Mark | Whole) -> None:
        match part:
            case Text(text=text):
                self._tokens("tokens", self._menders["tokens"].feed(text))
            case Reasoning(text=text):
                self._tokens("reasoning", self._menders["reasoning"].feed(text))
            case Data(name=name, value=value):
                self._room_for(self._flusher.data(name, value))
                self._progress()
            case Mark(mark=mark):
                self._marked(mark)
            case Whole():
                self._whole()
            case _:
                assert_never(part)

    def _tokens(self, kind: Kind, tokens: list[str]) -> None:
        if not tokens:
            return
        self._progress()
        if kind == "reasoning" and not self._settings.reasoning:
            return  # progress, though it is shown to nobody: a model that thinks is no silent one
        for token in tokens:
            self._room_for(len(token.encode()))
            self._flusher.token(kind, token)
        self._heard(len(tokens))

    def _progress(self) -> None:
        if self._deadline is not None:
            self._deadline.start(self._settings.token_timeout_s)

    def _whole(self) -> None:
        """The tail's deadline is the provider's: a whole answer must not fail for its usage."""
        if self._deadline is not None:
            self._deadline.stop()
            self._deadline = None

    def _room_for(self, own_bytes: int) -> None:
        self._bytes += own_bytes
        if self._bytes > self._settings.max_answer_bytes:
            raise TooLong
