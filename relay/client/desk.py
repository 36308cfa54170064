"""What is to be said to the gateway, and who waits for the reply. All of it is state; nothing here is a queue.

Whatever is due is due again on the next connection, until it is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from relay.client.backoff import Backoff
from relay.client.channel import NEVER, Channel, Listener
from relay.client.link import Due
from relay.errors import RelayError, RequestRefused
from relay.protocol.view import Frame


class _Request:
    """A command and who waits for its reply. `send_at`: when to send it, or send it again."""

    def __init__(self, command: bytes) -> None:
        self.command = command
        self.send_at = 0.0
        self.again = Backoff()
        self.reply: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()


class Desk:
    """Implements the link's `Talk`. `wake`: called when something became due."""

    def __init__(self, answer_within_s: float, fresh_token: Callable[[], str] | None) -> None:
        self.wake: Callable[[], None] = lambda: None
        self.greeted = asyncio.Event()  # once, or failed
        self.is_connected = False
        self.failure: RelayError | None = None
        self._answer_within_s = answer_within_s
        self._fresh_token = fresh_token
        self._token_expires = False
        self._limits: dict[str, float] = {}
        self._channels: dict[str, Channel] = {}
        self._requests: dict[str, _Request] = {}
        self._leaving: set[str] = set()  # sessions to unsubscribe
        self._next_id = 0
        self._told_next_at = NEVER  # when the link will ask again by itself

    def channel(self, session: str) -> Channel | None:
        """The session's channel, if it is followed and in order."""
        channel = self._channels.get(session)
        return channel if channel is not None and channel.failure is None else None

    def open(self, channel: Channel) -> None:
        if self.is_connected:
            channel.connected()
        self._channels[channel.view.session] = channel
        self.wake()

    def leave(self, channel: Channel, listener: Listener) -> None:
        """The last listener closes the channel."""
        channel.listeners.discard(listener)
        session = channel.view.session
        if not channel.listeners and self._channels.get(session) is channel:
            del self._channels[session]
            channel.close()
            self._leaving.add(session)
            self.wake()

    def limit(self, name: str, default: float) -> float:
        """As the gateway announced it last."""
        return self._limits.get(name, default)

    async def request(self, command: Frame) -> Frame:
        """Send a command until it is answered; its reply. Raises RequestRefused, and what `fail` was given."""
        if self.failure is not None:
            raise self.failure
        self._next_id += 1
        name = f"{command['type']}-{self._next_id}"
        try:
            encoded = msgspec.json.encode({"id": name, **command})
        except UnicodeEncodeError:  # an argument of a terminal's that is not UTF-8, mostly
            raise RequestRefused("bad_message", "The command holds half a character, which JSON cannot.") from None
        if len(encoded) > self.limit("max_command_bytes", NEVER):  # one far too large would cut the connection
            raise RequestRefused("too_large", "The command is larger than max_command_bytes.")
        request = self._requests[name] = _Request(encoded)
        self.wake()
        try:
            return await request.reply
        finally:
            del self._requests[name]

    def fail(self, error: RelayError) -> None:
        """The end of it: everybody who waits, now or later, gets `error`."""
        self.failure = self.failure or error
        self.greeted.set()
        for request in self._requests.values():
            if not request.reply.done():
                request.reply.set_exception(self.failure)
        for channel in self._channels.values():
            channel.fail(self.failure)

    # Talk

    def connected(self, welcome: Frame) -> None:
        self.is_connected = True
        self._limits = welcome.get("limits") or {}
        self._leaving.clear()  # what the last connection followed went with it
        for request in self._requests.values():
            request.send_at = 0.0
        for channel in self._channels.values():
            channel.connected()
        self.greeted.set()

    def lost(self) -> None:
        self.is_connected = False
        for channel in self._channels.values():
            channel.lost()

    def frame(self, frame: Frame) -> None:
        request = self._requests.get(frame.get("id") or "")
        if request is not None:
            self._answered(request, frame)
            self._due_at(request.send_at)
        elif frame["type"] == "token_expiring":
            self._token_expires = True
            self.wake()
        elif frame.get("session"):
            channel = self._channels.get(frame["session"])
            if channel is not None:
                channel.take(frame)
                self._due_at(channel.ask_at)
        elif frame["type"] in ("degraded", "restored"):
            for channel in self._channels.values():
                channel.degraded(frame["type"] == "degraded")

    def due(self, now: float) -> Due:
        commands = [_encoded("unsubscribe", session=session) for session in self._leaving]
        self._leaving.clear()
        if self._token_expires and self._fresh_token is not None:
            commands.append(_encoded("refresh", token=self._fresh_token()))
        self._token_expires = False
        commands += [channel.subscribe(now) for channel in self._channels.values() if channel.ask_at <= now]
        for request in self._requests.values():
            if request.send_at <= now and not request.reply.done():
                request.send_at = now + self._answer_within_s
                commands.append(request.command)
        self._told_next_at = self._next_at()
        return commands, None if self._told_next_at == NEVER else self._told_next_at

    def _due_at(self, at: float) -> None:
        if at < self._told_next_at:
            self.wake()

    def _next_at(self) -> float:
        waiting = [channel.ask_at for channel in self._channels.values()]
        waiting += [request.send_at for request in self._requests.values() if not request.reply.done()]
        return min(waiting, default=NEVER)

    def _answered(self, request: _Request, frame: Frame) -> None:
        if request.reply.done():
            return
        if frame["type"] != "error":
            request.reply.set_result(frame)
        elif frame["retryable"]:
            delay_s = frame.get("retry_after_s") or request.again.next()
            request.send_at = asyncio.get_running_loop().time() + delay_s
        else:
            request.reply.set_exception(RequestRefused(frame["code"], frame["message"]))


def _encoded(kind: str, **fields: str) -> bytes:
    return msgspec.json.encode({"type": kind, "id": kind, **fields})
