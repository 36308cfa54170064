"""One answer, as the one who asked reads it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from relay import timeouts
from relay.client.channel import Channel, Listener
from relay.client.reading import Item, Reader
from relay.errors import AnswerLost
from relay.protocol.view import Frame, Generation

LOST_MARGIN_S = 15.0  # gateways end a lost answer within `lost_after_s`; by then their word has come


class Answer(Listener):
    """An asynchronous iterator of `Item`s: `Text`, `Restart`, `Status`, `Data`, and `End` as the last one.

    Order and loss: the texts since the last `Restart`, joined, are always the beginning of the provider's text, and at
    `End` all of it, through any number of reconnects. No text is given twice, except after a `Restart`.
    A reader that is slow, or never comes, costs nothing but the text itself: items are made when they are asked for.
    Iterating again goes on where the last time ended. Cancelling a step loses nothing. Leaving does not stop the
    answer; `stop` does. Iterating and `end` raise Disconnected, RequestRefused (the session may not be followed),
    SessionDeleted or AnswerLost; what has come by then is given first.
    """

    def __init__(
        self,
        channel: Channel,
        generation: str,
        *,
        duplicate: bool,
        lost_after_s: float,
        stop: Callable[[str, str], Awaitable[bool]],
        release: Callable[[Listener], None],
    ) -> None:
        self.session = channel.view.session
        self.generation = generation
        self.duplicate = duplicate
        self._channel = channel
        self._stop = stop
        self._release = release
        self._reader = Reader()
        self._items: deque[Item] = deque()  # of one look, not taken yet
        self._final: Generation | None = None
        self._news = asyncio.Event()
        self._lost_after_s = lost_after_s + LOST_MARGIN_S
        self._missing_since: float | None = None
        channel.listeners.add(self)
        self._look()

    @property
    def shown(self) -> Generation | None:
        """The answer as it stands; None before its first event, and for moments after a loss."""
        return self._final or self._channel.view.generations.get(self.generation)

    @property
    def text(self) -> str:
        """The text so far."""
        return self.shown.text if self.shown is not None else ""

    async def end(self) -> Frame:
        """Wait for the `end` event, whether or not somebody iterates."""
        while self._final is None or self._final.end is None:
            if self._channel.failure is not None:
                raise self._channel.failure
            await self._wait()
        return self._final.end

    async def stop(self) -> bool:
        """Stop the answer for everybody; see Relay.stop."""
        return await self._stop(self.session, self.generation)

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Item:
        while not self._items:
            if self._reader.ended:
                raise StopAsyncIteration
            self._items.extend(self._reader.news(self.shown, self._hindrance()))
            if self._items:
                break
            if self._final is None and self._channel.failure is not None:
                raise self._channel.failure
            await self._wait()
        return self._items.popleft()

    def applied(self, frame: Frame) -> None:
        self._look()

    def changed(self) -> None:
        self._news.set()

    def _look(self) -> None:
        """Once ended, the answer needs its channel no more."""
        shown = self._channel.view.generations.get(self.generation)
        if self._final is None and shown is not None and shown.end is not None:
            self._final = shown
            self._news.set()
            self._release(self)

    async def _wait(self) -> None:
        """For news. Raises AnswerLost where the gateways that would have ended a lost answer are gone as well."""
        self._news.clear()
        if not self._is_missing():
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = timeouts.now()
        since = self._missing_since
        try:
            async with timeouts.timeout_at(None if since is None else since + self._lost_after_s):
                await self._news.wait()
        except TimeoutError:
            raise AnswerLost(self.session, self.generation) from None

    def _is_missing(self) -> bool:
        """Whether its session is followed, without a hindrance, and does not have it."""
        view = self._channel.view
        known = self.generation in view.generations and self.generation not in view.interrupted
        return self._final is None and not known and not self._channel.hindrance

    def _hindrance(self) -> str:
        if self._final is not None:
            return ""
        interrupted = self.generation in self._channel.view.interrupted
        return self._channel.hindrance or ("interrupted" if interrupted else "")
