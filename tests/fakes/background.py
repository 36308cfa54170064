"""OpenAI's background responses: each goes on by itself, and is read by as many as come, live or from where they say.

POST /v1/responses                                     with background, store and stream
GET  /v1/responses/{id}[?stream=true&starting_after=N]
POST /v1/responses/{id}/cancel
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes.answer import Answer, head, json_reply, set_reset
from tests.fakes.responses_format import ResponsesFormat
from tests.fakes.script import Api, Body, Call, Reader

_PATH = re.compile(r"/v1/responses(?:/([^/]+)(/cancel)?)?")
_ASKED = {"background": True, "store": True, "stream": True}


class Connection(Protocol):
    """A client's connection; when it hangs up, `watched` is told and whoever serves it is cancelled."""

    writer: asyncio.StreamWriter
    watched: Call | Reader | None


class Backgrounds:
    """All background responses of one fake. `begin` records a call, `tell` says that one has changed."""

    def __init__(self, begin: Callable[[Api, Body, dict[str, str]], Call], tell: Callable[[], None]) -> None:
        self._begin = begin
        self._tell = tell
        self._all: dict[str, Background] = {}
        self._forgotten: list[Background] = []

    @staticmethod
    def owns(path: str) -> bool:
        """Whether the path is one of the API's."""
        return _PATH.fullmatch(path) is not None

    def forget(self) -> None:
        """From now on all that there have been are unknown here, as if expired."""
        self._forgotten += self._all.values()
        self._all.clear()

    async def aclose(self) -> None:
        """End them all."""
        await asyncio.gather(*(one.aclose() for one in [*self._all.values(), *self._forgotten]))

    async def answer(self, to: Connection, method: str, target: str, headers: dict[str, str], body: bytes) -> bool:
        """Answer one request; whether the connection is good for another."""
        url = urlsplit(target)
        match = _PATH.fullmatch(url.path)
        assert match
        if match[1] is None:
            return await self._create(to, json.loads(body), headers)
        background = self._all.get(unquote(match[1]))
        if background is None:
            return await _say(to, 404, {"error": {"message": "not found", "type": "invalid_request_error"}})
        if match[2]:
            return await self._cancel(to, background)
        options = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if options.get("stream") != "true":
            return await _say(to, 200, background.format.response)
        after = options.get("starting_after")
        return await self._retrieve(to, background, Reader(None if after is None else int(after)))

    async def _create(self, to: Connection, body: Body, headers: dict[str, str]) -> bool:
        to.watched = call = self._begin("responses", body, headers)
        if call.script.status is not None:
            return await Answer(call, to.writer, self._tell).run()
        if {name: body.get(name) for name in _ASKED} != _ASKED:
            return await _say(to, 400, {"error": {"message": f"wanted here: {_ASKED}"}})
        if call.script.hold_status:
            await _hold(call, self._tell)
        background = Background(call, self._tell)
        self._all[str(background.format.response["id"])] = background
        return await background.read(to, Reader(), faulty=True)

    async def _retrieve(self, to: Connection, background: Background, reader: Reader) -> bool:
        script, earlier = background.call.script, len(background.call.readers) - 1
        status = script.retrieves[earlier] if earlier < len(script.retrieves) else 200
        if status == 200:
            return await background.read(to, reader)
        background.call.readers.append(reader)
        self._tell()
        if status == 0:
            to.watched = reader
            await asyncio.Event().wait()  # until it hangs up
        reader.finished = True
        return await _say(to, status, background.format.status_body(status))

    async def _cancel(self, to: Connection, background: Background) -> bool:
        status = background.call.script.cancel_status
        if status == 0:
            to.watched = background.call
            await asyncio.Event().wait()
        if status is not None:
            return await _say(to, status, background.format.status_body(status))
        background.cancel()
        return await _say(to, 200, background.format.response)


class Background:
    """One response: generates from its creation on, by its call's script."""

    def __init__(self, call: Call, tell: Callable[[], None]) -> None:
        self.call = call
        self.format = ResponsesFormat(call)
        self._tell = tell
        self._events: list[tuple[bytes, int]] = []  # by sequence_number, each with its token's index; the end's is last
        self._news = asyncio.Event()
        self._first_due = time.monotonic() + call.script.first_token_delay_s
        self._deltas = 0
        self._generating = asyncio.create_task(self._generate())

    def cancel(self) -> None:
        """As its client wants; harmless where it has ended."""
        if self.call.finished:
            return
        self._generating.cancel()
        self.call.cancelled_at = time.monotonic()
        self.call.held = False
        self.format.end("cancelled")
        self._end()

    async def aclose(self) -> None:
        """Stop without a word."""
        self._generating.cancel()
        await asyncio.gather(self._generating, return_exceptions=True)

    async def read(self, to: Connection, reader: Reader, *, faulty: bool = False) -> bool:
        """Tell a reader everything after its `starting_after`; `faulty`: with the faults of the script's connection."""
        self.call.readers.append(reader)
        to.watched = reader
        try:
            to.writer.write(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
            return await self._tell_events(to.writer, reader, faulty)
        finally:
            if faulty and reader.client_gone_at:
                self.call.client_gone_at = reader.client_gone_at
                self._tell()

    async def _tell_events(self, writer: asyncio.StreamWriter, reader: Reader, faulty: bool) -> bool:
        script = self.call.script
        at = 0 if reader.starting_after is None or script.retells else reader.starting_after + 1
        while True:
            while at >= len(self._events) and not self.call.finished:
                await self._news.wait()
            if at >= len(self._events):
                break
            event, token = self._events[at]
            cut, stall, close, reset = (
                faulty and fault is not None and token >= fault
                for fault in (script.cut_after, script.stall_after, script.close_after, script.reset_after)
            )
            if close:
                break
            if stall:
                await asyncio.Event().wait()  # until it hangs up
            if cut or reset or reader.events == script.cut_each:
                reader.finished = True
                await writer.drain()
                if reset:
                    set_reset(writer)
                return False
            if script.keepalives:
                writer.write(_chunk(self.format.keepalive(at)))
            writer.write(_chunk(event))
            await writer.drain()
            at, reader.events, self.call.sent = at + 1, reader.events + 1, max(self.call.sent, token + 1)
            self._tell()
        reader.finished = True  # before the client can have seen the end, and hung up for that
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _generate(self) -> None:
        script = self.call.script
        self._add(self.format.begin(), -1)
        for text in script.reasoning:
            await self._due()
            self._add(self.format.reasoning(text), -1)
        for index, token in enumerate(script.tokens):
            await self._due()
            if await self._gate(index):
                return
            self.call.generated = index + 1
            self._add(self.format.token(token), index)
        end = len(script.tokens)
        if not await self._gate(end):
            self._add(self.format.finish(), end)
            self._end()

    async def _gate(self, index: int) -> bool:
        """Whether the response ends before token `index`, as the script wants it."""
        script = self.call.script
        if index == script.hold_before:
            self._first_due += await _hold(self.call, self._tell)
        faults = {script.error_after: self.format.error, script.garbage_after: self.format.garbage}
        if index not in faults:
            return False
        self._add(faults[index](), index)
        self._end()
        return True

    async def _due(self) -> None:
        pace = self.call.script.tokens_per_second
        due = self._first_due + (self._deltas / pace if pace else 0)
        self._deltas += 1
        if (wait_s := due - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)

    def _add(self, events: list[bytes], token: int) -> None:
        self._events += [(event, token) for event in events]
        news, self._news = self._news, asyncio.Event()
        news.set()
        self._tell()

    def _end(self) -> None:
        self.call.finished = True
        self._add([], 0)


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n" % len(event) + event + b"\r\n"


async def _hold(call: Call, tell: Callable[[], None]) -> float:
    """Until it is released; for how long that was."""
    held_at = time.monotonic()
    call.held = True
    tell()
    await call.released.wait()
    call.held = False
    tell()
    return time.monotonic() - held_at


async def _say(to: Connection, status: int, value: object) -> bool:
    to.writer.write(json_reply(status, value))
    await to.writer.drain()
    return True
