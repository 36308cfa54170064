"""What must be sent to the gateway, and who waits for the reply. All of it is state; nothing here is a queue.

Whatever is due is due again on the next connection, until it is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from relay.client.answer_items import Status
from relay.client.backoff import Backoff
from relay.client.constants import SHARED
from relay.client.subscription import NEVER, Subscription, SubscriptionListener
from relay.client.transport import Due
from relay.errors import RelayError, RequestRefused
from relay.protocol.view import FrameDict

_UNREADABLE_CODES = frozenset(
    {"bad_message", "unknown_type", "too_large"}
)  # may come without an id: not even that could be read


class _PendingRequest:
    """A command and the future of its reply. `send_at`: when to send it, or send it again.

    `in_flight`: sent over this connection, and no reply of any kind has come. `suspect`: the gateway could not read
    one of several commands, and it may be this one. `refusal`: the last reply, if it was a retryable error.
    """

    def __init__(self, session: str, command: bytes) -> None:
        self.session = session
        self.command = command
        self.send_at = 0.0
        self.in_flight = False
        self.suspect = False
        self.refusal: RequestRefused | None = None
        self.again = Backoff()
        self.reply: asyncio.Future[FrameDict] = asyncio.get_running_loop().create_future()


class Dispatcher:
    """Implements TransportHandler. `wake`: called when something became due; `renew`: to change to another connection;
    `changed`: when `blocked_by` may have changed."""

    def __init__(self, answer_within_s: float) -> None:
        self.wake: Callable[[], None] = lambda: None
        self.renew: Callable[[], None] = lambda: None
        self.changed: Callable[[], None] = lambda: None
        self.greeted = asyncio.Event()  # set at the first welcome, or at failure
        self.is_connected = False
        self.failure: RelayError | None = None
        self._answer_within_s = answer_within_s
        self._limits: dict[str, float] = {}
        self.features: tuple[str, ...] = ()  # as the gateway last announced them
        self._subscriptions: dict[str, Subscription] = {}
        self._requests: dict[str, _PendingRequest] = {}
        self._leaving: set[str] = set()  # sessions to unsubscribe
        self._next_id = 0
        self._told_next_at = NEVER  # when the transport will ask again by itself

    def subscription(self, session: str) -> Subscription | None:
        """The session's subscription, if it is followed and has not failed."""
        subscription = self._subscriptions.get(session)
        return subscription if subscription is not None and subscription.failure is None else None

    def open(self, subscription: Subscription) -> None:
        if self.is_connected:
            subscription.connected()
        self._subscriptions[subscription.view.session] = subscription
        self.wake()

    def release(self, subscription: Subscription, listener: SubscriptionListener) -> None:
        """Remove a listener; without any, the subscription is closed."""
        subscription.listeners.discard(listener)
        session = subscription.view.session
        if not subscription.listeners and self._subscriptions.get(session) is subscription:
            del self._subscriptions[session]
            subscription.close()
            self._leaving.add(session)
            self.wake()

    @property
    def blocked_by(self) -> Status | None:
        """What blocks anything that was asked for; None if nothing does."""
        if not self.is_connected:
            return Status("reconnecting")
        for subscription in self._subscriptions.values():
            if subscription.failure is None and subscription.blocked_by:
                return Status(subscription.blocked_by, subscription.detail)
        refused = (request.refusal for request in self._requests.values() if not request.reply.done())
        return next((Status("refused", str(refusal)) for refusal in refused if refusal is not None), None)

    def limit(self, name: str, default: float) -> float:
        """A limit as the gateway last announced it."""
        return self._limits.get(name, default)

    async def request(self, command: FrameDict) -> FrameDict:
        """Send a command until it is answered; returns the reply. Raises RequestRefused, and what `fail` was given."""
        if self.failure is not None:
            raise self.failure
        self._next_id += 1
        name = f"{command['type']}-{self._next_id}"
        try:
            encoded = msgspec.json.encode({"id": name, **command})
        except UnicodeEncodeError:  # mostly an argument from a terminal that is not UTF-8
            raise RequestRefused("bad_message", "The command is not valid Unicode.") from None
        if len(encoded) > self.limit("max_command_bytes", NEVER):  # a far too large one would break the connection
            raise RequestRefused("too_large", "The command is larger than max_command_bytes.")
        request = self._requests[name] = _PendingRequest(command["session"], encoded)
        self.wake()
        try:
            return await request.reply
        finally:
            del self._requests[name]
            self.wake()  # it may be another one's turn now
            self.changed()

    def fail(self, error: RelayError) -> None:
        """End everything: everybody who waits, now or later, gets `error`."""
        self.failure = self.failure or error
        self.greeted.set()
        for request in self._requests.values():
            if not request.reply.done():
                request.reply.set_exception(self.failure)
        for subscription in list(self._subscriptions.values()):
            subscription.fail(self.failure)

    # TransportHandler

    def connected(self, welcome: FrameDict) -> None:
        self.is_connected = True
        self._limits = welcome.get("limits") or {}
        self.features = tuple(welcome.get("features") or ())
        self._leaving.clear()  # the last connection's subscriptions ended with it
        for request in self._requests.values():
            request.send_at, request.refusal = 0.0, None  # another gateway may accept it
        for subscription in list(self._subscriptions.values()):
            subscription.connected()
        self.greeted.set()
        self.changed()

    def lost(self) -> None:
        self.is_connected = False
        for request in self._requests.values():
            request.in_flight = False
        for subscription in list(self._subscriptions.values()):
            subscription.lost()
        self.changed()

    def frame(self, frame: FrameDict) -> None:
        self._take(frame)
        self.changed()

    def _take(self, frame: FrameDict) -> None:
        request = self._requests.get(frame.get("id") or "")
        if request is not None:
            self._answered(request, frame)
            self._due_at(self._next_at())
        elif frame["type"] == "error" and not frame.get("id") and frame["code"] in _UNREADABLE_CODES:
            self._refused_unread(frame)
        elif frame.get("session"):
            subscription = self._subscriptions.get(frame["session"])
            if subscription is not None:
                subscription.handle_frame(frame)
                self._due_at(subscription.ask_at)
        elif frame["type"] in ("degraded", "restored"):
            for subscription in list(self._subscriptions.values()):
                subscription.degraded(frame["type"] == "degraded")

    def due(self, now: float) -> Due:
        commands = [_unsubscribe(session) for session in self._leaving]
        self._leaving.clear()
        commands += [
            subscription.subscribe(now) for subscription in self._subscriptions.values() if subscription.ask_at <= now
        ]
        for request in self._sendable():
            if request.send_at <= now:
                request.send_at, request.in_flight = now + self._answer_within_s, True
                commands.append(request.command)
        self._told_next_at = self._next_at()
        return commands, None if self._told_next_at == NEVER else self._told_next_at

    def _due_at(self, at: float) -> None:
        if at < self._told_next_at:
            self.wake()

    def _next_at(self) -> float:
        waiting = [subscription.ask_at for subscription in self._subscriptions.values()]
        waiting += [request.send_at for request in self._sendable()]
        return min(waiting, default=NEVER)

    def _sendable(self) -> list[_PendingRequest]:
        """All that wait for a reply; one at a time while we search for the one that could not be read."""
        waiting = [request for request in self._requests.values() if not request.reply.done()]
        if not any(request.suspect for request in waiting):
            return waiting
        in_flight = [request for request in waiting if request.in_flight]
        return in_flight or [min(waiting, key=lambda request: request.send_at)]

    def _refused_unread(self, frame: FrameDict) -> None:
        """The error names no command: if only one waits, it was that one.

        If several wait, they are sent again one after the other, over another connection, where no error about the
        first sending can come.
        """
        sent = [request for request in self._sendable() if request.in_flight]
        sent = [request for request in sent if frame.get("session") in (None, request.session)]
        for request in sent:
            request.suspect = True
        if len(sent) == 1:
            self._answered(sent[0], frame)
        elif sent:
            self.renew()

    def _answered(self, request: _PendingRequest, frame: FrameDict) -> None:
        if request.reply.done():
            return
        if frame["type"] != "error":
            request.reply.set_result(frame)
        elif frame["retryable"]:
            delay_s = (frame.get("retry_after_s") or 0) + request.again.next(SHARED.refused_most_s)
            request.send_at = asyncio.get_running_loop().time() + delay_s
            request.in_flight = request.suspect = False
            request.refusal = RequestRefused(frame["code"], frame["message"], retryable=True)
        else:
            request.reply.set_exception(RequestRefused(frame["code"], frame["message"]))


def _unsubscribe(session: str) -> bytes:
    return msgspec.json.encode({"type": "unsubscribe", "id": "unsubscribe", "session": session})
