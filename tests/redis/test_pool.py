"""Commands and their connections: only the server's own time counts, and an idle connection is not trusted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import hiredis
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from relay.errors import StorageError
from relay.redis import command_connection, connections
from relay.redis.address import parse_address
from relay.redis.command_connection import CommandConnection
from relay.redis.connections import Connections, call
from relay.redis.pool import ConnectionPool
from tests.redis.answering import pong, server_that
from tests.scenarios.processes import until

TIMEOUT_S = 0.2
IDLE_S = 0.8  # longer than a connection is trusted without a word


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "APPEND_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(connections, "COMMAND_TIMEOUT_S", TIMEOUT_S)


class Server:
    """Counts connections and commands; what it does with a GET is `answer`'s. Any other is answered at once."""

    def __init__(self, answer: Callable[[asyncio.StreamWriter], object] | None = None) -> None:
        self.answer = answer or (lambda writer: writer.write(b"+here\r\n"))
        self.commands: Counter[str] = Counter()
        self.conversations: list[asyncio.StreamWriter] = []
        self.silent: set[asyncio.StreamWriter] = set()  # nothing that comes there is read or answered

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.conversations.append(writer)
        commands = hiredis.Reader()
        while data := await reader.read(65536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                if writer in self.silent:
                    continue
                word = command[0].decode()
                self.commands[word] += 1
                if word != "GET":
                    writer.write(b"+PONG\r\n")
                elif asyncio.iscoroutine(done := self.answer(writer)):
                    await done


def pool_to(url: str) -> ConnectionPool:
    address = parse_address(url)
    return ConnectionPool(address, address.seeds[0], timeout_s=TIMEOUT_S, connect_timeout_s=60, connections=2)


async def test_a_reply_that_came_while_we_were_busy_ourselves_is_taken_however_late_it_is() -> None:
    async with server_that(pong) as url:
        redis = Connections(url)
        await call(redis.append, "PING")
        for turns in range(8):
            asking = asyncio.create_task(call(redis.append, "GET", "a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            time.sleep(1.5 * TIMEOUT_S)  # noqa: ASYNC251
            assert await asking == b"PONG"
        await redis.aclose()


async def test_a_loop_that_is_always_busy_loses_no_reply() -> None:
    """Each turn takes half the time that a command may."""
    done = False

    async def busy() -> None:
        while not done:
            time.sleep(TIMEOUT_S / 2)  # noqa: ASYNC251
            await asyncio.sleep(0)

    async with server_that(Server()) as url:
        redis = Connections(url)
        working = asyncio.create_task(busy())
        replies = await asyncio.gather(*(call(redis.append, "GET", "a") for _ in range(10)))
        done = True
        await working
        await redis.aclose()
    assert replies == [b"here"] * 10


async def test_a_server_that_hangs_is_noticed_and_so_by_those_that_wait_for_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "POOL_CONNECTIONS", 2)
    server = Server(lambda writer: None)
    async with server_that(server) as url:
        redis = Connections(url)
        began = time.monotonic()
        replies = await asyncio.gather(*(call(redis.append, "GET", "a") for _ in range(20)), return_exceptions=True)
        assert time.monotonic() - began >= TIMEOUT_S
        assert {type(reply) for reply in replies} == {StorageError}
        assert server.commands["GET"] <= 4
        await redis.aclose()


async def test_waiting_for_a_connection_is_nobodys_failure_while_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "POOL_CONNECTIONS", 1)

    async def slowly(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(TIMEOUT_S / 4)
        writer.write(b"+here\r\n")

    server = Server(slowly)
    async with server_that(server) as url:
        redis = Connections(url)
        replies = await asyncio.gather(*(call(redis.append, "GET", "a") for _ in range(20)))
        await redis.aclose()
    assert replies == [b"here"] * 20
    assert (len(server.conversations), server.commands["GET"]) == (1 + LEARNING, 20)


LEARNING = 1  # connection by which is asked of what kind the server is


async def test_turns_go_by_the_order_of_arrival_and_one_that_is_given_up_is_nobodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "POOL_CONNECTIONS", 1)
    go = asyncio.Event()
    answered: list[int] = []

    async def when_told(writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(b"+here\r\n")

    async def ask(number: int) -> None:
        await call(redis.append, "GET", "a")
        answered.append(number)

    async with server_that(Server(when_told)) as url:
        redis = Connections(url)
        await call(redis.append, "PING")
        asking = []
        for number in range(6):
            asking.append(asyncio.create_task(ask(number)))
            await asyncio.sleep(0)
        asking[2].cancel()
        asking[4].cancel()
        await asyncio.wait([asking[2], asking[4]])
        go.set()
        await asyncio.wait(asking)
        await redis.aclose()
    assert answered == [0, 1, 3, 5]


async def test_a_long_reply_that_is_on_its_way_is_waited_for() -> None:
    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        writer.write(b"$10\r\n")
        for _ in range(10):
            await asyncio.sleep(TIMEOUT_S / 3)
            writer.write(b"x")
        writer.write(b"\r\n")

    async with server_that(Server(in_pieces)) as url:
        redis = Connections(url)
        assert await call(redis.append, "GET", "a") == b"x" * 10
        await redis.aclose()


async def test_who_waits_behind_a_long_reply_is_told_nothing_of_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "POOL_CONNECTIONS", 1)

    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        writer.write(b"$10\r\n")
        for _ in range(10):
            await asyncio.sleep(TIMEOUT_S / 3)
            writer.write(b"x")
        writer.write(b"\r\n")

    async with server_that(Server(in_pieces)) as url:
        redis = Connections(url)
        assert await asyncio.gather(*(call(redis.append, "GET", "a") for _ in range(2))) == [b"x" * 10] * 2
        await redis.aclose()


async def test_a_connection_that_was_closed_while_it_was_idle_costs_no_command() -> None:
    server = Server()
    async with server_that(server) as url:
        redis = Connections(url)
        for _ in range(3):
            assert await call(redis.append, "GET", "a") == b"here"
            for writer in server.conversations:
                writer.close()
            time.sleep(IDLE_S)  # noqa: ASYNC251 - that they are closed is not known here before the next command
        assert server.commands["GET"] == 3
        await redis.aclose()


async def test_a_connection_that_was_dropped_without_a_word_while_it_was_idle_costs_no_command() -> None:
    server = Server()
    async with server_that(server) as url:
        redis = Connections(url)
        await asyncio.gather(*(call(redis.append, "GET", "a") for _ in range(5)))
        server.silent = set(server.conversations)
        await asyncio.sleep(IDLE_S)
        assert await asyncio.gather(*(call(redis.append, "GET", "a") for _ in range(5))) == [b"here"] * 5
        assert server.commands["GET"] == 10
        await redis.aclose()


async def test_one_that_was_dropped_takes_none_along_that_were_heard_of_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_connection, "FRESH_S", 600)
    server = Server()
    async with server_that(server) as url:
        pool = pool_to(url)
        await pool.execute_command("GET", "a")
        server.silent = set(server.conversations)
        pool._idle[0]._connection.heard_at -= 601
        asks_the_dropped_one = asyncio.create_task(pool.execute_command("GET", "a"))
        await asyncio.sleep(0)
        assert await pool.execute_command("GET", "a") == b"here"
        assert await asks_the_dropped_one == b"here"
        assert len(server.conversations) == 2
        await pool.aclose()


async def test_a_connection_that_is_in_use_is_not_asked_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        command_connection, "FRESH_S", 600
    )  # or a machine that is busy elsewhere for so long is a pause in its use
    server = Server()
    async with server_that(server) as url:
        redis = Connections(url)
        for _ in range(50):
            await call(redis.append, "GET", "a")
        assert server.commands["PING"] == 0
        assert len(server.conversations) == 1 + LEARNING
        await redis.aclose()


async def test_the_reply_to_a_command_that_was_given_up_is_nobodys() -> None:
    replies = iter([b"+late\r\n"])
    go = asyncio.Event()

    async def late_once(writer: asyncio.StreamWriter) -> None:
        if (reply := next(replies, None)) is not None:
            await go.wait()
        writer.write(reply or b"+here\r\n")

    server = Server(late_once)
    async with server_that(server) as url:
        redis = Connections(url)
        asking = asyncio.create_task(call(redis.append, "GET", "a"))
        await until(lambda: server.commands["GET"] == 1, "it is asked")
        asking.cancel()
        await asyncio.wait([asking])
        go.set()
        assert await asyncio.gather(*(call(redis.append, "GET", "a") for _ in range(5))) == [b"here"] * 5
        await redis.aclose()


async def test_a_connection_that_says_what_nobody_asked_for_is_left() -> None:
    server = Server(lambda writer: writer.write(b"+here\r\n+and more\r\n"))
    async with server_that(server) as url:
        redis = Connections(url)
        for _ in range(3):
            assert await call(redis.append, "GET", "a") == b"here"
            await asyncio.sleep(0.01)
        assert await call(redis.append, "PING") == b"PONG"
        await redis.aclose()


async def test_what_cannot_be_sent_is_refused_and_hurts_no_connection() -> None:
    server = Server()
    async with server_that(server) as url:
        redis = Connections(url)
        await call(redis.append, "GET", "a")
        with pytest.raises(StorageError) as error:
            await call(redis.append, "SET", "a", "\ud83d")
        assert error.value.refused
        assert await call(redis.append, "GET", "a") == b"here"
        assert len(server.conversations) == 1 + LEARNING
        await redis.aclose()


async def test_closing_fails_what_is_under_way_and_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "POOL_CONNECTIONS", 1)
    monkeypatch.setattr(connections, "APPEND_TIMEOUT_S", 60)
    server = Server(lambda writer: None)
    async with server_that(server) as url:
        redis = Connections(url)
        asking = [asyncio.create_task(call(redis.append, "GET", "a")) for _ in range(3)]
        await until(lambda: server.commands["GET"] == 1, "one is asked")
        await redis.aclose()
        replies = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(reply) for reply in replies} == {StorageError}


async def test_a_connection_that_is_made_while_all_are_closed_is_closed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[CommandConnection] = []
    open_link = CommandConnection.open

    async def open_and_close_all(*arguments: Any) -> CommandConnection:
        made.append(await open_link(*arguments))
        await pool.aclose()
        return made[0]

    monkeypatch.setattr(CommandConnection, "open", open_and_close_all)
    server = Server()
    async with server_that(server) as url:
        pool = pool_to(url)
        with pytest.raises(RedisConnectionError, match="closed by us"):
            await pool.execute_command("GET", "a")
        assert made[0].lost
        assert server.commands["GET"] == 0
