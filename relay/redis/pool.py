"""The connections to one server. A command that finds none free waits, first come, first served.

Waiting for a connection is our own time, and counts as a timeout only while the server answers nothing at all: then it
is away, and waiting commands fail like those that were sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from redis import exceptions

from relay import timeouts
from relay.redis.address import Endpoint, RedisAddress
from relay.redis.command_connection import Argument, CommandConnection

_CHECK_S = 1.0  # for an idle connection to show that it still works


class ConnectionPool:
    """At most `connections`. No command is ever sent twice: an idle connection is checked with a PING first."""

    def __init__(
        self, address: RedisAddress, endpoint: Endpoint, *, timeout_s: float, connect_timeout_s: float, connections: int
    ) -> None:
        self._address = address
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._free_slots = connections
        self._idle: list[CommandConnection] = []  # the last one was used last, and is used next
        self._busy: set[CommandConnection] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._answered_at = 0.0  # while commands wait for a connection, by timeouts.now
        self._closed = False

    async def execute_command(self, *command: Argument) -> Any:
        """Raises RedisError."""
        if self._free_slots:
            self._free_slots -= 1
        else:
            await self._wait_for_slot()
        try:
            connection = self._newest_idle() or await self._connection()
            self._busy.add(connection)
            try:
                reply = await connection.execute(self._timeout_s, *command)
            finally:
                self._give_back(connection)
        finally:
            self._release_slot()
        return reply

    def close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()

    async def aclose(self) -> None:
        """Commands in flight fail."""
        self._closed = True
        self.close_idle()
        for connection in self._busy:
            connection.abort()
        await asyncio.sleep(0)  # transports close in the next turn of the event loop

    # Slots

    async def _wait_for_slot(self) -> None:
        slot = asyncio.get_running_loop().create_future()
        began_at = timeouts.now()

        def overdue() -> None:
            remaining_s = max(began_at, self._answered_at) + self._timeout_s - timeouts.now()
            if any(connection.is_being_answered for connection in self._busy):
                remaining_s = self._timeout_s
            if remaining_s > 0:
                timer.start(remaining_s)
            elif not slot.done():
                slot.set_exception(exceptions.ConnectionError("no connection is free, and the server does not answer"))

        timer = timeouts.Timer(overdue)
        timer.start(self._timeout_s)
        self._waiting.append(slot)
        try:
            await slot
        except BaseException:
            if slot.done() and not slot.cancelled() and slot.exception() is None:
                self._release_slot()  # cancelled just when we had got it
            raise
        finally:
            timer.stop()

    def _release_slot(self) -> None:
        while self._waiting:
            slot = self._waiting.popleft()
            if not slot.done():
                slot.set_result(None)
                return
        self._free_slots += 1

    # Connections

    def _newest_idle(self) -> CommandConnection | None:
        """The one that was used last, if it needs no check."""
        if self._idle and not self._closed and not (newest := self._idle[-1]).lost and newest.fresh:
            return self._idle.pop()
        return None

    async def _connection(self) -> CommandConnection:
        """One that works."""
        if self._closed:
            raise exceptions.ConnectionError("closed by us")
        while self._idle:
            connection = self._idle.pop()
            if connection.lost:
                continue
            if connection.fresh or await self._answers(connection):
                return connection
            self._close_stale()  # the others were idle for longer; some may have been given back meanwhile
        connection = await CommandConnection.open(self._address, self._endpoint, self._connect_timeout_s)
        if self._closed:
            connection.abort()
            raise exceptions.ConnectionError("closed by us")
        return connection

    async def _answers(self, connection: CommandConnection) -> bool:
        self._busy.add(connection)
        try:
            return await connection.is_alive(min(_CHECK_S, self._timeout_s / 2))
        finally:
            self._busy.discard(connection)

    def _close_stale(self) -> None:
        idle, self._idle = self._idle, [connection for connection in self._idle if connection.fresh]
        for connection in idle:
            if not connection.fresh:
                connection.abort()

    def _give_back(self, connection: CommandConnection) -> None:
        self._busy.discard(connection)
        if connection.lost:
            return
        if self._waiting:  # nobody else looks at it
            self._answered_at = timeouts.now()
        if self._closed:
            connection.abort()
        else:
            self._idle.append(connection)
