"""One connection for commands, with one of them in flight at a time.

The reply counts from the moment it arrives, not from when the waiting task gets a turn. The timeout measures how long
the server was silent, not how late this process was (relay/timeouts.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis
from redis import exceptions
from redis._parsers import BaseParser

from relay import timeouts
from relay.redis.address import Endpoint, RedisAddress
from relay.redis.resp_connection import RespConnection, connect_resp, credentials

Argument = str | bytes | int | float

# A command is sent only on a connection that was heard of within this time. Hosts and firewalls close idle connections,
# some silently; none does so sooner (Redis counts `timeout` in whole seconds).
FRESH_S = 0.75


class CommandConnection:
    """`execute` one command after the other. After one that failed or was cancelled it is `lost`, never used again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._timer = timeouts.Timer(self._overdue)
        self._timeout_s = 0.0
        self._asked_at = self._silent_since = 0.0  # the second: when its timer was last started
        self._reply: asyncio.Future[Any] | None = None
        self._connection: RespConnection

    @classmethod
    async def open(cls, address: RedisAddress, endpoint: Endpoint, timeout_s: float) -> CommandConnection:
        """Raises RedisError."""
        opened = cls(endpoint.host if not endpoint.port else f"{endpoint.host}:{endpoint.port}")
        try:
            async with timeouts.timeout(timeout_s):
                opened._connection = await connect_resp(address, endpoint, opened._replied)
                opened._connection.lost.add_done_callback(lambda _: opened._hung_up())
        except OSError as error:  # a TimeoutError is one
            raise _unreachable(opened._name, error) from error
        try:
            for command in _handshake_commands(address.options):
                await opened.execute(timeout_s, *command)
        except BaseException:
            opened.abort()
            raise
        return opened

    @property
    def lost(self) -> bool:
        return self._connection.lost.done() or self._connection.is_closing

    @property
    def fresh(self) -> bool:
        """Whether the server was heard on it lately."""
        return self._loop.time() - self._connection.heard_at < FRESH_S

    @property
    def is_being_answered(self) -> bool:
        """Whether a part of the reply has arrived."""
        return self._connection.heard_at > self._asked_at

    async def is_alive(self, timeout_s: float) -> bool:
        """Whether the server answers on it; if not, it is lost."""
        try:
            await self.execute(timeout_s, "PING")
        except exceptions.ResponseError:
            return True  # a Redis whose disk is full refuses, but lives
        except (exceptions.ConnectionError, exceptions.TimeoutError):
            return not self.lost  # a Redis that is loading replies with an error that redis-py counts as one of these
        return True

    async def execute(self, timeout_s: float, *command: Argument) -> Any:
        """The reply to one command, as RESP2 has it. Raises RedisError."""
        packed = _pack(command)
        if self.lost:
            raise exceptions.ConnectionError(f"{self._name} has closed the connection")
        reply = self._reply = self._loop.create_future()
        self._connection.write(packed)
        self._timeout_s = timeout_s
        self._asked_at = self._silent_since = self._loop.time()
        self._timer.start(timeout_s)
        try:
            return await reply
        except asyncio.CancelledError:
            self.abort()  # the next reply would be taken for another command's
            raise
        finally:
            self._timer.stop()
            self._reply = None

    def abort(self) -> None:
        self._timer.stop()
        self._connection.abort()

    def _replied(self, reply: Any) -> None:
        waiting = self._reply
        if waiting is None or waiting.done():
            self.abort()  # there was no command
        elif isinstance(reply, hiredis.ReplyError):
            waiting.set_exception(_error_from_reply(str(reply)))
        else:
            waiting.set_result(reply)

    def _hung_up(self) -> None:
        self._fail(exceptions.ConnectionError(f"{self._name} has closed the connection"))

    def _overdue(self) -> None:
        heard_at = self._connection.heard_at
        if heard_at > self._silent_since:  # a long reply is arriving
            self._silent_since = heard_at
            self._timer.start(self._timeout_s)
            return
        self.abort()
        self._fail(exceptions.TimeoutError(f"{self._name} has not answered within {self._timeout_s:g} s"))

    def _fail(self, error: Exception) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)


def _handshake_commands(options: dict[str, Any]) -> list[tuple[Argument, ...]]:
    """The commands to send before any other."""
    greeting: list[tuple[Argument, ...]] = []
    if identity := credentials(options):
        greeting.append(("AUTH", *identity))
    if options.get("client_name"):
        greeting.append(("CLIENT SETNAME", options["client_name"]))
    if options.get("db"):
        greeting.append(("SELECT", options["db"]))
    return greeting


def _pack(command: tuple[Argument, ...]) -> bytes:
    """Raises DataError. A first word such as "SCRIPT LOAD" counts as two."""
    first, *rest = command
    words = [*str(first).split(" "), *rest]
    try:
        packed: bytes = hiredis.pack_command(tuple(words))  # type: ignore[arg-type]  # its stub says a 1-tuple
    except (TypeError, UnicodeError) as error:
        raise exceptions.DataError(f"Invalid input of type: {error}") from error
    return packed


def _error_from_reply(text: str) -> Exception:
    """redis-py's class for an error reply. Its parser fails if a redirect is not the two words that it expects."""
    try:
        error: Exception = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    except ValueError:
        return exceptions.ConnectionError(f"a redirect without an address: {text}")
    return error


def _unreachable(name: str, error: OSError) -> exceptions.ConnectionError | exceptions.TimeoutError:
    if isinstance(error, TimeoutError):
        return exceptions.TimeoutError(f"Timeout connecting to {name}")
    number = f"Error {error.errno} " if error.errno else ""
    return exceptions.ConnectionError(f"{number}connecting to {name}: {error.strerror or error}")
