"""The client's entry point: submit, stop and follow, over one connection that is made again when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from relay.client.answer import Answer
from relay.client.answer_items import Status
from relay.client.constants import SHARED
from relay.client.dispatcher import Dispatcher
from relay.client.following import Following
from relay.client.subscription import Subscription, SubscriptionListener
from relay.client.tokens import Token
from relay.client.transport import Transport
from relay.errors import Disconnected, RelayError, RequestRefused
from relay.protocol.words import EPOCH, SESSION, Cursor, Start, new_id

DEFAULT_LOST_AFTER_S = SHARED.lost_after_s  # if a gateway announces none
_ANSWER_WITHIN_S = 10.0  # gateways answer within 5


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: Token = None,
    give_up_after_s: float | None = None,
    answer_within_s: float = _ANSWER_WITHIN_S,
    on_status: Callable[[Status], None] | None = None,
) -> AsyncIterator[Relay]:
    """A connection to the gateway at `url` (`http://…`), kept until the block is left; nothing stays behind then.

    `token`: a string, or a function that gives one or is awaited for it; it must not block. It is called before each
    connection, when the gateway says that the last one expires, and once more if it was refused. What it raises counts
    as a connection that failed; before the first one, the third in a row is final. `give_up_after_s`: how long to try
    without a gateway, at first or later; None tries for ever. A command without a reply is sent again after
    `answer_within_s` and on each new connection. `on_status`: called whenever it changes what blocks anything that was
    asked for: `reconnecting`, `degraded`, `refused`, or `connected` if nothing does. This is the only sign of why a
    `submit` waits. It may neither block nor raise.
    Raises Disconnected if `url` is not a gateway or none was reached in time, or TokenRefused, which is a kind of it;
    later, whatever is awaited raises them.
    """
    relay = Relay(url, token=token, give_up_after_s=give_up_after_s, answer_within_s=answer_within_s)
    watch = _StatusWatcher(relay._dispatcher, on_status)
    relay._dispatcher.changed = watch.look
    task = asyncio.create_task(relay._run(), name="relay client")
    try:
        await relay._reached()
        yield relay
    finally:
        watch.over = True  # leaving is not a loss
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        relay._dispatcher.fail(Disconnected("the connection was closed"))
        if isinstance(outcome, Exception):  # our bug; failures from outside went to whatever was awaited
            raise outcome


class Relay:
    """Made by `connect`. Its methods may be called from any task of the same event loop, many at a time.

    `give_up_after_s` may be changed; the change applies from the next loss of the connection.
    """

    def __init__(self, url: str, *, token: Token, give_up_after_s: float | None, answer_within_s: float) -> None:
        self._answer_within_s = answer_within_s
        self._dispatcher = Dispatcher(answer_within_s)
        self._transport = Transport(url, self._dispatcher, token=token, give_up_after_s=give_up_after_s)
        self._dispatcher.wake, self._dispatcher.renew = self._transport.wake, self._transport.reconnect

    @property
    def give_up_after_s(self) -> float | None:
        return self._transport.give_up_after_s

    @give_up_after_s.setter
    def give_up_after_s(self, value: float | None) -> None:
        self._transport.give_up_after_s = value

    @property
    def connected(self) -> bool:
        """Whether there is a connection at the moment."""
        return self._dispatcher.is_connected

    @property
    def features(self) -> tuple[str, ...]:
        """What the gateway has beyond the first release of relay.v1, such as `options` of a submit."""
        return self._dispatcher.features

    async def submit(
        self,
        session: str,
        content: str | None = None,
        *,
        messages: list[dict[str, str]] | None = None,
        retry_of: str | None = None,
        request_id: str | None = None,
        **fields: Any,
    ) -> Answer:
        """Ask; returns once the job is durable. Give exactly one of `content`, `messages` and `retry_of`.

        `fields`: other fields of the `submit` command (`queue`, `model`, `max_tokens`, `metadata`, `options` …). The
        session is followed first, so nothing of the answer is missed. The submit is sent again, with the same
        `request_id`, until it is answered; that makes one answer. If cancelled, or after Disconnected, it may still
        have taken effect: to be sure, ask again with a `request_id` of your own. Raises RequestRefused, Disconnected,
        SessionDeleted.
        """
        again = request_id is not None
        command = {"type": "submit", "session": _checked(session), "request_id": request_id or new_id("r"), **fields}
        for name, value in (("content", content), ("messages", messages), ("retry_of", retry_of)):
            if value is not None:
                command[name] = value
        hold = SubscriptionListener()  # keeps the subscription open meanwhile
        subscription = self._join(hold, session, start="start" if again else "live", cursor=None)
        try:
            await subscription.ready.wait()
            if subscription.failure is not None:
                raise subscription.failure
            accepted = await self._dispatcher.request(command)
            if again and accepted["duplicate"] and not subscription.from_start:
                subscription.rewind()  # it may have begun before we followed the session
                self._transport.wake()
            return Answer(
                subscription,
                accepted["generation"],
                duplicate=accepted["duplicate"],
                ignored=tuple(accepted.get("ignored") or ()),
                stop=self.stop,
                release=lambda answer: self._dispatcher.release(subscription, answer),
            )
        finally:
            self._dispatcher.release(subscription, hold)

    async def stop(self, session: str, generation: str) -> bool:
        """Stop an answer for everybody; when this returns, it has ended. Returns whether it had ended before.

        Sent again until it is answered. If cancelled, it may still take effect. Raises RequestRefused (`not_found` …)
        and Disconnected.
        """
        stopping = await self._dispatcher.request(
            {"type": "stop", "session": _checked(session), "generation": generation}
        )
        return bool(stopping["already_ended"])

    def follow(self, session: str, *, start: Start = "start", cursor: Cursor | None = None) -> Following:
        """Follow a session, from its first event, from now on (`live`), or from right after a saved `cursor`.

        This Relay may follow the session already, as it does for an answer that has not ended. Then `start` makes the
        other followings build it again, and entering with a `cursor` raises RequestRefused (`conflict`), because they
        may need what came before it. Raises RequestRefused (`bad_session`, `bad_cursor`) at once; later, see Following.
        """
        _checked(session)
        if cursor is not None and not (EPOCH.match(cursor.epoch) and cursor.seq >= 0):
            raise RequestRefused("bad_cursor", "The cursor is malformed.")
        joined: list[Subscription] = []

        def acquire(following: Following) -> Subscription:
            joined.append(self._join(following, session, start=start, cursor=cursor))
            return joined[0]

        return Following(acquire, lambda following: self._dispatcher.release(joined[0], following))

    def _join(self, listener: SubscriptionListener, session: str, *, start: str, cursor: Cursor | None) -> Subscription:
        if self._dispatcher.failure is not None:
            raise self._dispatcher.failure
        subscription = self._dispatcher.subscription(session)
        if subscription is None:
            subscription = Subscription(
                session,
                start=start,
                cursor=cursor,
                answer_within_s=self._answer_within_s,
                lost_after_s=self._lost_after_s,
            )
            self._dispatcher.open(subscription)
        elif cursor is not None:
            raise RequestRefused(
                "conflict", f"{session} is followed already over this connection; a cursor needs one of its own."
            )
        elif start == "start" and isinstance(listener, Following):
            subscription.rewind()
            self._transport.wake()
        subscription.listeners.add(listener)
        return subscription

    def _lost_after_s(self) -> float:
        return self._dispatcher.limit("lost_after_s", DEFAULT_LOST_AFTER_S)

    async def _run(self) -> None:
        try:
            await self._transport.run()
        except RelayError as error:
            self._dispatcher.fail(error)
        except Exception as bug:
            self._dispatcher.fail(Disconnected(f"the client broke: {bug!r}"))
            raise

    async def _reached(self) -> None:
        await self._dispatcher.greeted.wait()
        if self._dispatcher.failure is not None:
            raise self._dispatcher.failure


class _StatusWatcher:
    """Calls `on_status` when the dispatcher's `blocked_by` has changed."""

    def __init__(self, dispatcher: Dispatcher, on_status: Callable[[Status], None] | None) -> None:
        self.over = on_status is None
        self._dispatcher = dispatcher
        self._on_status = on_status or (lambda status: None)
        self._told: Status | None = None

    def look(self) -> None:
        if self.over:
            return
        status = self._dispatcher.blocked_by
        if status != self._told:
            self._told = status
            self._on_status(status or Status("connected"))


def _checked(session: str) -> str:
    if not SESSION.match(session):
        raise RequestRefused("bad_session", "A session is 1–128 characters of A-Z a-z 0-9 _ . : -.")
    return session
