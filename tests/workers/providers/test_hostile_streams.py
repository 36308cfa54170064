"""A provider's bytes are hostile input: memory is bounded per line, per event and per answer, and nobody starves."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Finished, Part, Prompt, Provider, ProviderError, Text, Turn
from relay_workers.providers.openai import OpenAIProvider
from tests.workers.providers.dialect import SECRET, compact, sse
from tests.workers.providers.dialects_anthropic import END, START, TEXT, events, stops
from tests.workers.providers.dialects_openai import HELLO, SAID, STOP, chunk
from tests.workers.providers.raw_server import RawServer, Response, raw_server

HI = Prompt([Turn("user", "Hi")])
MIB = 1 << 20
PIECE_BYTES = 1 << 16
ENDLESS_BYTES = 100_000_000
GIVEN_UP_BYTES = 64 * MIB  # the sum of what was read, of every buffer, and of a copy or two
PIECES = 8_000  # of an answer that gathers them, 1 kB each
STARVING_CPU_S = 0.5  # of this thread alone: other processes do not count

Made = Callable[[str], Provider]


def openai(url: str) -> Provider:
    return OpenAIProvider(None, f"{url}/v1", "test-model", connect_timeout_s=5)


def anthropic(url: str) -> Provider:
    return AnthropicProvider(None, url, "test-model", connect_timeout_s=5)


each_api = pytest.mark.parametrize("made", [openai, anthropic])


def _good(made: Made) -> bytes:
    """A whole answer."""
    return sse(*HELLO, STOP, "[DONE]") if made is openai else events(START, *TEXT, stops(), END)


# Memory


@each_api
@pytest.mark.parametrize(
    ("begin", "again", "content_type"),
    [
        pytest.param(b'data: {"id":"', b"x", "text/event-stream", id="data"),
        pytest.param(b"", b"x", "text/event-stream", id="a field without a colon"),
        pytest.param(b"event: ", b"x", "text/event-stream", id="a name"),
        pytest.param(b"", b"data: x\n", "text/event-stream", id="an event of many lines"),
        pytest.param(b"", b"data\n", "text/event-stream", id="an event of many empty lines"),
        pytest.param(b'{"id":"', b"x", "application/json", id="a whole answer"),
        pytest.param(b"<html>", b"x", "text/html", id="HTML"),
        pytest.param(b"", b"[", "application/json", id="JSON that nests"),
    ],
)
async def test_what_never_ends_is_given_up_early(made: Made, begin: bytes, again: bytes, content_type: str) -> None:
    body = itertools.chain([begin] if begin else [], _repeated(again, ENDLESS_BYTES))
    async with _asked(made, Response(body, content_type=content_type)) as (server, came):
        pass
    assert came.error is not None
    assert came.error.code == "provider_error"
    assert server.sent < GIVEN_UP_BYTES
    assert came.peak_bytes < GIVEN_UP_BYTES


@pytest.mark.slow
@each_api
async def test_a_comment_that_is_long_costs_no_memory(made: Made) -> None:
    body = itertools.chain([b":"], _repeated(b"x", ENDLESS_BYTES), [b"\n\n"], [_good(made)])
    async with _asked(made, Response(body)) as (_, came):
        pass
    assert came.text == SAID if came.error is None else came.error.code == "provider_error"
    assert came.peak_bytes < GIVEN_UP_BYTES


def tool_call_in_pieces(made: Made) -> Iterator[bytes]:
    """One call with 8 MB of arguments."""
    text = "x" * 1000
    if made is openai:
        first = {"index": 0, "id": "t1", "function": {"name": "f", "arguments": '"'}}
        again = {"index": 0, "function": {"arguments": text}}
        yield sse(*HELLO, chunk({"tool_calls": [first]}))
        yield from itertools.repeat(sse(chunk({"tool_calls": [again]})), PIECES)
        yield sse(STOP)
    else:
        opened = {"type": "content_block_start", "index": 1}
        delta = {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": text}}
        yield events(
            START, *TEXT, {**opened, "content_block": {"type": "tool_use", "id": "t1", "name": "f", "input": {}}}
        )
        yield from itertools.repeat(events(delta), PIECES)
        yield events(stops(), END)


def tool_calls_without_number(made: Made) -> Iterator[bytes]:
    """Calls of 1 kB, none of them complete."""
    text = '"' + "x" * 1000
    if made is openai:
        yield sse(*HELLO)
        for index in range(PIECES):
            call = {"index": index, "id": f"t{index}", "function": {"name": "f", "arguments": text}}
            yield sse(chunk({"tool_calls": [call]}))
        yield sse(STOP)
    else:
        yield events(START, *TEXT)
        for index in range(1, PIECES + 1):
            tool = {"type": "tool_use", "id": f"t{index}", "name": "f", "input": {}}
            delta = {"type": "input_json_delta", "partial_json": text}
            yield events(
                {"type": "content_block_start", "index": index, "content_block": tool},
                {"type": "content_block_delta", "index": index, "delta": delta},
            )
        yield events(stops(), END)


def citations_without_number(made: Made) -> Iterator[bytes]:
    """Different ones of 1 kB."""
    text = "x" * 1000
    if made is openai:
        yield sse(*HELLO)
        for number in range(PIECES):
            cited = {"type": "url_citation", "url_citation": {"url": f"https://{number}.example", "title": text}}
            yield sse(chunk({"annotations": [cited]}))
        yield sse(STOP)
    else:
        yield events(START, *TEXT)
        for number in range(PIECES):
            place: dict[str, object] = {"type": "char_location", "cited_text": text, "start_char_index": number}
            delta: dict[str, object] = {"type": "citations_delta", "citation": place}
            yield events({"type": "content_block_delta", "index": 0, "delta": delta})
        yield events(stops(), END)


@pytest.mark.slow
@each_api
@pytest.mark.parametrize("body", [tool_call_in_pieces, tool_calls_without_number, citations_without_number])
async def test_what_an_answer_gathers_is_bounded(made: Made, body: Callable[[Made], Iterator[bytes]]) -> None:
    """Of the 8 MB at most half is kept; a reader that stops at a bound may fail, but loses no text."""
    async with _asked(made, Response(body(made))) as (_, came):
        pass
    assert came.text == SAID
    assert came.error is None or came.error.code == "provider_error"
    assert came.peak_bytes < 4 * MIB


@pytest.mark.slow
@each_api
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
async def test_a_little_that_unpacks_to_a_lot_is_given_up_early(made: Made, times: int) -> None:
    packed = b"".join(_packed(itertools.chain([b'data: {"id":"'], _repeated(b"x", ENDLESS_BYTES))))
    if times == 2:
        packed = gzip.compress(packed)
    pieces = [packed[at : at + PIECE_BYTES] for at in range(0, len(packed), PIECE_BYTES)]
    response = Response(pieces, headers={"content-encoding": ", ".join(["gzip"] * times)})
    async with _asked(made, response) as (_, came):
        pass
    assert came.error is not None
    assert came.error.code == "provider_error"
    assert came.peak_bytes < GIVEN_UP_BYTES


# Time


@each_api
@pytest.mark.parametrize(
    "again",
    [
        pytest.param(b"\n", id="empty lines"),
        pytest.param(b"\r\n", id="empty lines, CRLF"),
        pytest.param(b"\r", id="empty lines, CR"),
        pytest.param(b":\n", id="comments"),
        pytest.param(b": ping\n\n", id="comments, each an event"),
        pytest.param(b"x\n", id="fields that nobody knows"),
        pytest.param(b"id\n", id="empty ids"),
        pytest.param(b"data:\n\n", id="empty data"),
        pytest.param(b"event: ping\n\n", id="names"),
    ],
)
async def test_a_million_bytes_without_an_answer_starve_nobody(made: Made, again: bytes) -> None:
    body = itertools.chain(_repeated(again, 1_000_000), [b"\n\n", _good(made)])
    async with _asked(made, Response(body), memory=False) as (_, came):
        pass
    assert (came.error, came.text) == (None, SAID)
    assert came.longest_turn_s < STARVING_CPU_S


@each_api
async def test_events_that_say_nothing_starve_nobody(made: Made) -> None:
    again = sse('{"choices":[]}') if made is openai else events({"type": "ping"})
    body = itertools.chain(_repeated(again, 1_000_000), [_good(made)])
    async with _asked(made, Response(body), memory=False) as (_, came):
        pass
    assert (came.error, came.text) == (None, SAID)
    assert came.longest_turn_s < STARVING_CPU_S


@each_api
async def test_a_long_text_in_one_event_arrives_whole(made: Made) -> None:
    """Well over what a model says at once, well under what is given up."""
    text = "é" * 500_000
    if made is openai:
        body = [sse(chunk({"content": text}), STOP)]
    else:
        said = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        body = [events(START, said, stops(), END)]
    async with _asked(made, Response(body), memory=False) as (_, came):
        pass
    assert came.error is None
    assert came.text == text


@each_api
async def test_no_error_quotes_what_a_provider_said(made: Made) -> None:
    """In any field of it."""
    for field_name in ("message", "code", "type", "param", "status", "request_id", "detail"):
        for body in ({"error": {field_name: SECRET}}, {"type": "error", "error": {field_name: SECRET}}):
            async with _asked(made, Response([sse(compact(body), name="error")]), memory=False) as (_, came):
                pass
            assert came.error is not None
            assert "SECRET" not in str(came.error), field_name


@dataclass
class _Came:
    """What came of an answer whose parts are not kept."""

    text: str = ""
    finished: Finished | None = None
    error: ProviderError | None = None
    peak_bytes: int = 0
    longest_turn_s: float = 0.0


@asynccontextmanager
async def _asked(made: Made, response: Response, memory: bool = True) -> AsyncIterator[tuple[RawServer, _Came]]:
    """Ask a server that answers with this response, to the end. `memory`: trace it, which makes all else slower."""
    came = _Came()
    async with raw_server(response) as server:
        provider = made(server.url)
        watching = asyncio.create_task(_watch_turns(came))
        if memory:
            tracemalloc.start()
        try:
            before_bytes = tracemalloc.get_traced_memory()[0] if memory else 0
            async for part in provider.stream(HI):
                _take(came, part)
        except ProviderError as error:
            came.error = error
        finally:
            if memory:
                came.peak_bytes = tracemalloc.get_traced_memory()[1] - before_bytes
                tracemalloc.stop()
            watching.cancel()
            await provider.aclose()
        yield server, came


def _take(came: _Came, part: Part) -> None:
    if isinstance(part, Text):
        came.text += part.text
    elif isinstance(part, Finished):
        came.finished = part


async def _watch_turns(came: _Came) -> None:
    """The CPU time between two turns that another task gets."""
    while True:
        before_s = time.thread_time()
        await asyncio.sleep(0)
        came.longest_turn_s = max(came.longest_turn_s, time.thread_time() - before_s)


def _packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _repeated(again: bytes, total_bytes: int) -> Iterable[bytes]:
    piece = again * (PIECE_BYTES // len(again))
    return itertools.repeat(piece, total_bytes // len(piece))
