"""Pub/sub messages on their way to a subscriber: what may become of them, and it must not matter."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis

from tests.scenarios.wire import HangUp


class Hints:
    """The chances of each fault, for every message by itself. `met`: how many met which."""

    def __init__(self) -> None:
        self.met: Counter[str] = Counter()
        self.late_s = 0.0
        self._chance = random.Random()
        self._shares: dict[str, float] = {}

    @asynccontextmanager
    async def muddled(
        self,
        chance: random.Random,
        *,
        dropped: float = 0.0,
        doubled: float = 0.0,
        swapped: float = 0.0,
        late: float = 0.0,
        late_s: float = 0.3,
    ) -> AsyncIterator[None]:
        """`swapped`: with the next one (none follows: it is lost); `late`: after all that come within `late_s`."""
        self._chance, self.late_s = chance, late_s
        self._shares = {"dropped": dropped, "doubled": doubled, "swapped": swapped, "late": late}
        try:
            yield
        finally:
            self._shares = {}

    def draw(self) -> str:
        """What becomes of the next message; '' for nothing."""
        left = self._chance.random()
        for fault, share in self._shares.items():
            if left < share:
                self.met[fault] += 1
                return fault
            left -= share
        return ""


class Pushes:
    """What Redis sends on one connection that has subscribed; `write` brings late ones to the subscriber."""

    def __init__(self, hints: Hints, write: Callable[[bytes], None]) -> None:
        self.channels: dict[bytes, None] = {}
        self._hints = hints
        self._write = write
        self._reader = hiredis.Reader()
        self._swapped: bytes | None = None
        self._hidden: Counter[tuple[bytes, bytes]] = Counter()  # confirmations of what the subscriber did not ask for

    def asked(self, command: list[bytes]) -> None:
        """A SUBSCRIBE or UNSUBSCRIBE of the subscriber's own."""
        for channel in command[1:]:
            if command[0].upper() == b"SUBSCRIBE":
                self.channels[channel] = None
            else:
                self.channels.pop(channel, None)

    def subscribe(self) -> bytes:
        """The command for all its channels, whose confirmations it does not see."""
        return self._hiding(b"subscribe")

    def unsubscribe(self) -> bytes:
        return self._hiding(b"unsubscribe")

    def feed(self, data: bytes) -> bytes:
        """What of this, and of what was held back, goes on now."""
        self._reader.feed(data)
        passing = bytearray()
        while (reply := self._reader.gets()) is not False:
            if not self._is_hidden(reply):
                passing += self._message(reply) if _kind(reply) == b"message" else _encode(reply)
        return bytes(passing)

    def _message(self, reply: list[Any]) -> bytes:
        data, fault = _encode(reply), self._hints.draw()
        if fault == "swapped" and self._swapped is None:
            self._swapped = data
            return b""
        if fault == "late":
            asyncio.get_running_loop().call_later(self._hints.late_s, self._arrive, data)
        data = {"dropped": b"", "late": b"", "doubled": data * 2}.get(fault, data)
        data, self._swapped = data + (self._swapped or b""), None
        return data

    def _arrive(self, data: bytes) -> None:
        try:
            self._write(data)
        except HangUp:
            pass  # the cut that was planned fell into this one; the connection is gone by now

    def _hiding(self, verb: bytes) -> bytes:
        self._hidden.update((verb, channel) for channel in self.channels)
        packed: bytes = hiredis.pack_command((verb, *self.channels))  # type: ignore[arg-type]  # its stub says a 1-tuple
        return packed

    def _is_hidden(self, reply: Any) -> bool:
        if not (kind := _kind(reply)) or not self._hidden[kind, reply[1]]:
            return False
        self._hidden[kind, reply[1]] -= 1
        return True


def _kind(reply: Any) -> bytes:
    return reply[0] if isinstance(reply, list) and len(reply) == 3 else b""


def _encode(reply: Any) -> bytes:
    """RESP2 again; a status becomes a bulk string, which readers do not tell apart."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, hiredis.ReplyError):
        return b"-%s\r\n" % str(reply).encode()
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(_encode, reply))
