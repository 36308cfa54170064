"""The links to one server: who finds none free waits, in the order of arrival.

Waiting for a turn is our own time. It only counts while nothing is heard here: then the server is away, and those that
wait are told like those that were sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from redis import exceptions

from relay import timeouts
from relay.redis.address import Endpoint, RedisAddress
from relay.redis.command_connection import Argument, CommandConnection

_CHECK_S = 1.0  # for a link that was idle to show that it still leads somewhere


class ConnectionPool:
    """At most `connections` links. Nothing is ever tried twice: a link that was idle is asked for a PONG first."""

    def __init__(
        self, address: RedisAddress, endpoint: Endpoint, *, timeout_s: float, connect_timeout_s: float, connections: int
    ) -> None:
        self._address = address
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._free_slots = connections
        self._idle: list[CommandConnection] = []  # the one used last is last, and is used next
        self._busy: set[CommandConnection] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._answered_at = 0.0  # by timeouts.now
        self._closed = False

    async def execute_command(self, *command: Argument) -> Any:
        """Raises RedisError."""
        await self._acquire_slot()
        try:
            link = await self._connection()
            self._busy.add(link)
            try:
                reply = await link.execute(self._timeout_s, *command)
            finally:
                self._give_back(link)
        finally:
            self._release_slot()
        return reply

    def close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for link in idle:
            link.abort()

    async def aclose(self) -> None:
        """What is under way fails."""
        self._closed = True
        self.close_idle()
        for link in self._busy:
            link.abort()
        await asyncio.sleep(0)  # transports close in their next turn

    # Turns

    async def _acquire_slot(self) -> None:
        if self._free_slots:
            self._free_slots -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        began_at = timeouts.now()

        def overdue() -> None:
            left_s = max(began_at, self._answered_at) + self._timeout_s - timeouts.now()
            if any(link.is_being_answered for link in self._busy):
                left_s = self._timeout_s
            if left_s > 0:
                timer.start(left_s)
            elif not turn.done():
                turn.set_exception(exceptions.ConnectionError("no connection is free, and none is answered"))

        timer = timeouts.Timer(overdue)
        timer.start(self._timeout_s)
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release_slot()  # cancelled in the moment in which our turn had come
            raise
        finally:
            timer.stop()

    def _release_slot(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free_slots += 1

    # Links

    async def _connection(self) -> CommandConnection:
        """One that leads somewhere."""
        if self._closed:
            raise exceptions.ConnectionError("closed by us")
        while self._idle:
            link = self._idle.pop()
            if link.lost:
                continue
            if link.fresh or await self._answers(link):
                return link
            self._close_stale()  # they have been idle for longer; others were given back meanwhile
        link = await CommandConnection.open(self._address, self._endpoint, self._connect_timeout_s)
        if self._closed:
            link.abort()
            raise exceptions.ConnectionError("closed by us")
        return link

    async def _answers(self, link: CommandConnection) -> bool:
        self._busy.add(link)
        try:
            return await link.is_alive(min(_CHECK_S, self._timeout_s / 2))
        finally:
            self._busy.discard(link)

    def _close_stale(self) -> None:
        idle, self._idle = self._idle, [link for link in self._idle if link.fresh]
        for link in idle:
            if not link.fresh:
                link.abort()

    def _give_back(self, link: CommandConnection) -> None:
        self._busy.discard(link)
        if link.lost:
            return
        self._answered_at = timeouts.now()
        if self._closed:
            link.abort()
        else:
            self._idle.append(link)
