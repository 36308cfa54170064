"""One call's script, played into its connection: when each event goes out, and which fault takes its place."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable

from tests.fakes.agent_format import AgentFormat
from tests.fakes.anthropic_format import AnthropicFormat
from tests.fakes.openai_format import OpenAIFormat
from tests.fakes.responses_format import ResponsesFormat
from tests.fakes.script import Api, Call, Format, encode

_FORMATS: dict[Api, Callable[[Call], Format]] = {
    "openai": OpenAIFormat,
    "anthropic": AnthropicFormat,
    "agent": AgentFormat,
    "responses": ResponsesFormat,
}


class Answer:
    """`run` it once. Several events may share a write, each is its own HTTP chunk; `tell` whenever the call changed."""

    def __init__(self, call: Call, writer: asyncio.StreamWriter, tell: Callable[[], None]) -> None:
        self._call = call
        self._script = call.script
        self._format = _FORMATS[call.api](call)
        self._writer = writer
        self._tell = tell
        self._pending = bytearray()
        self._deltas = 0
        self._first_due = 0.0

    async def run(self) -> bool:
        """The whole answer; whether the connection can be used again."""
        script = self._script
        if script.hold_status:
            await self._hold()
        if script.status is not None:
            return await self._refuse(script.status)
        self._pending += head(200, {"content-type": self._format.content_type, "transfer-encoding": "chunked"})
        self._events(self._format.begin())
        self._first_due = time.monotonic() + script.first_token_delay_s
        for text in script.reasoning:
            await self._due()
            self._events(self._format.reasoning(text))
        for index, token in enumerate(script.tokens):
            await self._due()
            if (again := await self._gate(index)) is not None:
                return again
            self._events(self._format.token(token))
            self._call.sent = index + 1
        if (again := await self._gate(len(script.tokens))) is not None:
            return again
        self._events(self._format.finish())
        if (again := await self._gate(len(script.tokens) + 1)) is not None:
            return again
        self._events(self._format.tail())
        return await self._end()

    async def _gate(self, index: int) -> bool | None:
        """What the script has in store before token `index`; None: go on."""
        script = self._script
        if index == script.hold_before:
            await self._hold()
        if index == script.close_after:
            return await self._end()
        if index == script.error_after:
            self._events(self._format.error())
            return await self._end()
        if index == script.garbage_after:
            self._events(self._format.garbage())
            return await self._end()
        if index in (script.cut_after, script.reset_after):
            await self._flush()
            return self._cut(reset=index == script.reset_after)
        return None

    async def _refuse(self, status: int) -> bool:
        script = self._script
        own = script.status_body
        body = encode(self._format.status_body(status)) if own is None else own.encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **script.status_headers}
        self._pending += head(status, headers) + body[: script.cut_after]
        await self._flush()
        return self._cut(reset=False) if script.cut_after is not None else True

    async def _due(self) -> None:
        """Until the next delta is due, by a schedule: nothing drifts, and what is due together goes together."""
        script = self._script
        due = self._first_due
        if script.tokens_per_second is not None:
            due += self._deltas / script.tokens_per_second
        self._deltas += 1
        wait_s = due - time.monotonic()
        if wait_s > 0 or len(self._pending) > 64 * 1024:
            await self._flush()
            await asyncio.sleep(max(wait_s, 0))

    async def _hold(self) -> None:
        await self._flush()
        held_at = time.monotonic()
        self._call.held = True
        self._tell()
        await self._call.released.wait()
        self._call.held = False
        self._first_due += time.monotonic() - held_at  # else the rest would come in one burst
        self._tell()

    def _events(self, events: list[bytes]) -> None:
        for event in events:
            self._pending += b"%x\r\n" % len(event) + event + b"\r\n"

    async def _end(self) -> bool:
        self._pending += b"0\r\n\r\n"
        self._call.finished = True  # before the client can have seen the end, and hung up for that
        await self._flush()
        return True

    def _cut(self, *, reset: bool) -> bool:
        self._call.finished = True
        if reset:
            set_reset(self._writer)
        return False

    async def _flush(self) -> None:
        data, self._pending = self._pending, bytearray()
        self._writer.write(data)
        await self._writer.drain()
        self._tell()


def head(status: int, headers: dict[str, str]) -> bytes:
    """An HTTP response up to its body."""
    lines = [f"HTTP/1.1 {status} As scripted", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def json_reply(status: int, value: object) -> bytes:
    """A whole HTTP response."""
    body = encode(value)
    return head(status, {"content-type": "application/json", "content-length": str(len(body))}) + body


def set_reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection by a TCP reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
