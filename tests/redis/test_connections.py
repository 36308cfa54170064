"""Ways into Redis: every failure is a StorageError, and a task that waits for Redis can still be cancelled."""

from __future__ import annotations

import asyncio

import pytest
from redis import exceptions
from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    DataError,
    MaxConnectionsError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from relay import embedded
from relay.errors import SettingsError, StorageError
from relay.redis.connections import Connections, call
from relay.redis.errors import storage_error
from relay.store.scripts import read_atomically
from tests.redis.answering import pong, server_that
from tests.store.in_memory import admitted_and_claimed, session_log_on


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


# redis-py 8.1 writes each command through `asyncio.wait_for`, which before Python 3.12 swallows a
# cancellation that comes as the write has just finished. Follower, reaper, consumer and hand-over all end tasks by
# cancelling them and then wait for them: for ever, if that was the moment and nobody looked.
async def test_a_task_that_is_cancelled_in_the_middle_of_a_command_ends_at_whatever_moment() -> None:
    asked, too_many, goes_on = 0, -1, asyncio.Event()

    async def asks_for_ever() -> None:
        nonlocal asked
        while True:
            await call(redis.commands, "PING")
            asked += 1
            if asked == too_many:
                goes_on.set()

    swallowed = []
    async with server_that(pong) as url:
        redis = Connections(url)
        await call(redis.commands, "PING")
        for turns in range(40):
            asked, too_many = 0, -1
            goes_on.clear()
            task = asyncio.create_task(asks_for_ever())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            too_many = asked + 5
            going_on = asyncio.create_task(goes_on.wait())
            await asyncio.wait([task, going_on], return_when=asyncio.FIRST_COMPLETED)
            going_on.cancel()
            if not task.done():
                swallowed.append(turns)
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.01)
        await redis.aclose()
    assert swallowed == []


async def test_a_server_that_hangs_up_is_a_storage_error_that_names_the_command() -> None:
    async with server_that(hang_up) as url:
        redis = Connections(url)
        with pytest.raises(StorageError, match=r"^PING: "):
            await call(redis.commands, "PING")
        with pytest.raises(StorageError, match=r"^GET: "):
            await call(redis.append, "GET", "a")
        await redis.aclose()


async def test_nobody_there_is_a_storage_error() -> None:
    async with server_that(hang_up) as url:
        pass
    redis = Connections(url)
    with pytest.raises(StorageError):
        await call(redis.append, "PING")
    await redis.aclose()


async def test_an_error_that_redis_answers_is_a_storage_error(redis: Redis) -> None:
    await redis.set("a", "text")
    with pytest.raises(StorageError, match=r"^INCR: ResponseError: .*not an integer"):
        await call(redis, "INCR", "a")


ABOUT_THE_COMMAND = [
    ResponseError("Protocol error: invalid bulk length"),
    ResponseError("Error running script (call to f_1): @user_script:3: @user_script: 3: -WRONGTYPE Operation against"),
    DataError("Invalid input of type"),
]
ABOUT_EVERYTHING = [
    exceptions.ConnectionError("Error 111 connecting"),
    ConnectionResetError("reset by peer"),
    exceptions.TimeoutError("Timeout reading from socket"),
    MaxConnectionsError("Too many connections"),
    BusyLoadingError("Redis is loading the dataset in memory"),
    AuthenticationError("invalid password"),
    OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    ReadOnlyError("You can't write against a read only replica."),
    NoPermissionError("this user has no permissions to run the 'evalsha' command"),
    NoScriptError("No matching script."),
    ClusterDownError("CLUSTERDOWN Hash slot not served"),
    ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
    ResponseError("BUSY Redis is busy running a script."),
    ResponseError("NOREPLICAS Not enough good replicas to write."),
    ResponseError("Error running script (call to f_1): @user_script:3: @user_script: 3: -OOM command not allowed when"),
    ResponseError("Error running script (call to f_1): @user_script:3: @user_script: 3: -MISCONF Redis is configured"),
]


@pytest.mark.parametrize("error", [*ABOUT_THE_COMMAND, *ABOUT_EVERYTHING], ids=str)
def test_only_an_answer_about_the_command_itself_is_a_refusal(error: Exception) -> None:
    assert storage_error("append", error).refused is (error in ABOUT_THE_COMMAND)


async def test_an_append_that_finds_no_memory_is_not_refused_and_one_that_finds_another_type_is() -> None:
    with embedded.embedded_server() as url:
        redis = Connections(url)
        writer = await admitted_and_claimed(session_log_on(redis.append))
        await call(redis.commands, "CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StorageError, match="OutOfMemory") as full:
            await writer.tokens("a")
        await call(redis.commands, "CONFIG", "SET", "maxmemory", "0")
        await call(redis.commands, "HSET", "t:s:{s}:r:g1", "no", "text")
        writer.n -= 1
        with pytest.raises(StorageError, match="WRONGTYPE") as wrong:
            await writer.reasoning("a")
        await redis.aclose()
    assert (full.value.refused, wrong.value.refused) == (False, True)


async def test_reads_at_one_moment_answer_each_for_itself(redis: Redis) -> None:
    await redis.set("a", "1")
    await redis.hset("h", mapping={"x": "2"})
    reads = ("GET", "a"), ("GET", "none"), ("HMGET", "h", "x", "y"), ("HGETALL", "h")
    assert await read_atomically(redis, *reads) == [b"1", None, [b"2", None], [b"x", b"2"]]


@pytest.mark.parametrize("url", ["", "localhost", "http://localhost", "redis://localhost:port"])
def test_an_address_that_is_none_names_the_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="RELAY_REDIS_URL"):
        Connections(url)
