"""One answer, as its asker reads it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from relay.client.answer_items import Item, Reader
from relay.client.subscription import Subscription, SubscriptionListener
from relay.errors import AnswerLost, RelayError
from relay.protocol.view import FrameDict, Generation


class Answer(SubscriptionListener):
    """An asynchronous iterator of `Item`s: `Text`, `Restart`, `Status`, `Data`, and `End` as the last one.

    Order and loss: the texts since the last `Restart`, joined, are always the beginning of the provider's text, and at
    `End` all of it, through any number of reconnects. No text is given twice, except after a `Restart`.
    A reader that is slow, or never comes, costs nothing but the text itself: items are made when they are asked for.
    Iterating again goes on where the last iteration ended. Cancelling a step loses nothing. Leaving does not stop the
    answer; `stop` does. Iterating and `end` raise Disconnected, RequestRefused (the session may not be followed),
    SessionDeleted or AnswerLost, after everything that came before.
    """

    def __init__(
        self,
        subscription: Subscription,
        generation: str,
        *,
        duplicate: bool,
        ignored: tuple[str, ...],
        stop: Callable[[str, str], Awaitable[bool]],
        release: Callable[[SubscriptionListener], None],
    ) -> None:
        self.session = subscription.view.session
        self.generation = generation
        self.duplicate = duplicate
        self.ignored = ignored  # names of the fields of its submit that the relay does not know
        self._subscription = subscription
        self._stop = stop
        self._release = release
        self._reader = Reader()
        self._items: deque[Item] = deque()  # made together, and not taken yet
        self._final: Generation | None = None
        self._news = asyncio.Event()
        self._failure: RelayError | None = None
        subscription.listeners.add(self)
        subscription.expect(generation)
        self.changed()

    @property
    def shown(self) -> Generation | None:
        """The answer as of now; None before its first event, and for moments after a loss."""
        return self._final or self._subscription.view.generations.get(self.generation)

    @property
    def text(self) -> str:
        """The text so far."""
        return self.shown.text if self.shown is not None else ""

    async def end(self) -> FrameDict:
        """Wait for the `end` event; nobody needs to iterate."""
        while self._final is None or self._final.end is None:
            if self._failure is not None:
                raise self._failure
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
            self._items.extend(self._reader.news(self.shown, *self._blocked_by()))
            if self._items:
                break
            if self._failure is not None:
                raise self._failure
            await self._wait()
        return self._items.popleft()

    def applied(self, frame: FrameDict) -> None:
        self._look()

    def lost(self, names: list[str]) -> None:
        if self.generation in names:
            self._over(AnswerLost(self.session, self.generation))

    def changed(self) -> None:
        self._look()
        if self._subscription.failure is not None:
            self._over(self._subscription.failure)
        self._news.set()

    def _look(self) -> None:
        shown = self._subscription.view.generations.get(self.generation)
        if self._final is None and shown is not None and shown.end is not None:
            self._final = shown
            self._news.set()
            self._release(self)

    def _over(self, failure: RelayError) -> None:
        if self._final is None and self._failure is None:
            self._failure = failure
            self._news.set()
            self._release(self)

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _blocked_by(self) -> tuple[str, str]:
        if self._final is not None:
            return "", ""
        interrupted = self.generation in self._subscription.view.interrupted
        return self._subscription.blocked_by or ("interrupted" if interrupted else ""), self._subscription.detail
