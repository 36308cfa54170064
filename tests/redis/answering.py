"""Servers that are none: each connection is treated as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import hiredis

Answers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server_that(answers: Answers) -> AsyncIterator[str]:
    """A server on loopback that treats every connection so; yields its URL."""
    conversations: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        try:
            await answers(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


async def pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Whatever is asked, one PONG for each command."""
    while data := await reader.read(65536):
        writer.write(b"+PONG\r\n" * sum(line.startswith(b"*") for line in data.split(b"\r\n")))
        await writer.drain()


def saying(**replies: bytes) -> Answers:
    """Answers to these commands, by their first word, as bytes on the wire; one PONG to any other."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        while data := await reader.read(65536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                word = command[0].decode().upper()
                if word == "HELLO" and len(command) > 1:
                    word = ""  # redis-py's own greeting
                writer.write(replies.get(word, b"+PONG\r\n"))
            await writer.drain()

    return answer
