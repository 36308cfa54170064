"""A body in pieces: whatever arrives, the event loop has its turns. Answers: test_dialects.py, test_providers.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2

from relay_workers.providers.answer_body import PIECE_BYTES, Pieces


class Body(httpx2.AsyncByteStream):
    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


async def test_between_two_turns_of_the_loop_comes_no_more_than_a_piece() -> None:
    sent = [bytes([65 + n]) * (3 * PIECE_BYTES + 1) for n in range(3)]
    pieces = Pieces(httpx2.Response(200, stream=Body(*sent)))
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(count)

    count()
    read, last = [bytearray()], turns
    while piece := await pieces.next():
        if turns != last:
            read.append(bytearray())
        read[-1] += piece
        last = turns
    assert b"".join(read) == b"".join(sent)
    assert max(map(len, read)) <= PIECE_BYTES
