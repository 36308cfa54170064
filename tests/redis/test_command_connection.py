"""One connection for commands: whatever its server says, and whenever it says it, whoever asked is told."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import RedisError

from relay.redis.address import parse_address
from relay.redis.command_connection import CommandConnection
from tests.redis.answering import saying, server_that

TIMEOUT_S = 60  # never the reason here
WAIT_S = 10


async def opened(url: str) -> CommandConnection:
    address = parse_address(url)
    return await CommandConnection.open(address, address.seeds[0], TIMEOUT_S)


@pytest.mark.parametrize("reply", [b"-MOVED nowhere\r\n", b"-MOVED 7 :\r\n", b"-ASK\r\n", b"-ERR \xff\r\n", b"-\r\n"])
async def test_an_error_that_cannot_be_read_is_one_all_the_same(reply: bytes) -> None:
    async with server_that(saying(GET=reply)) as url:
        link = await opened(url)
        with pytest.raises(RedisError):
            await asyncio.wait_for(link.execute(TIMEOUT_S, "GET", "a"), WAIT_S)
        assert await link.execute(TIMEOUT_S, "PING") == b"PONG"
        link.abort()


async def test_whoever_speaks_another_protocol_is_left_at_once() -> None:
    async with server_that(saying(GET=b"HTTP/1.1 400 Bad Request\r\n\r\n")) as url:
        link = await opened(url)
        with pytest.raises(RedisError, match="closed the connection"):
            await asyncio.wait_for(link.execute(TIMEOUT_S, "GET", "a"), WAIT_S)
        assert link.lost
        link.abort()
