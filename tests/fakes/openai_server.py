"""A fake provider: a real HTTP server on loopback that speaks OpenAI's streaming chat completions, by script.

In a test:

    async with FakeOpenAI(Script(tokens=["Hel", "lo"], hold_before=1)) as fake:
        ...                                        # a provider with base_url=fake.base_url
        await fake.wait_for(lambda f: f.calls and f.calls[0].held)
        fake.release()

For tests with real processes: `python -m tests.fakes.openai_server --port 0 --text-file F`, whose first line on stdout
is the base URL, and which is scripted over the same port:

    GET  /control/calls                            every call so far, as JSON
    POST /control/script[?prompt=TEXT][&times=N]   body: a Script's fields as JSON. Without `prompt` the default from
                                                   now on; with it for requests whose last user turn contains TEXT,
                                                   the newest first; with `times` for the next N of them
    POST /control/release[?call=INDEX]             lets held calls go on
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import re
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

Body = dict[str, Any]
Scripted = Callable[[Body], "Script"]


@dataclasses.dataclass(frozen=True)
class Script:
    """What one call is answered with. Tokens count from 0.

    `…_after` k: the fault comes in place of token k and ends the answer. k = len(tokens) is in place of the finish
    mark, one more in place of the usage after it. `hold_before` counts alike.
    """

    tokens: list[str] = dataclasses.field(default_factory=list)  # lone surrogates go out as JSON escapes
    reasoning: list[str] = dataclasses.field(default_factory=list)
    refusal: list[str] = dataclasses.field(default_factory=list)
    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    finish_reason: str | None = "stop"
    usage: dict[str, int] | None = None  # prompt_tokens, completion_tokens; None: one per word, one per token

    tokens_per_second: float | None = None  # None: as fast as the socket takes them
    first_token_delay_s: float = 0.0
    hold_status: bool = False  # not a byte until release()
    hold_before: int | None = None  # nothing from token k on until release()

    status: int | None = None  # an HTTP error instead of a stream
    status_headers: dict[str, str] = dataclasses.field(default_factory=dict)
    status_body: str = '{"error": {"message": "as scripted", "type": null, "code": null}}'

    close_after: int | None = None  # a clean end without finish_reason
    cut_after: int | None = None  # the connection closes amid the body (with `status`: amid its body)
    reset_after: int | None = None  # the same with a TCP reset
    error_after: int | None = None  # an `error` event, then a clean end
    error: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"message": "as scripted", "type": "server_error", "code": None}
    )
    garbage_after: int | None = None  # an event that is no chunk
    garbage: str = '{"choices": ['  # "\\udcff" in it goes out as the byte 0xff


@dataclasses.dataclass(eq=False)
class Call:
    """One request for a completion; times are time.monotonic() of this machine, comparable between its processes."""

    index: int
    body: Body
    headers: dict[str, str]
    script: Script
    started_at: float = dataclasses.field(default_factory=time.monotonic)
    sent: int = 0  # tokens
    held: bool = False
    finished: bool = False  # everything in the script was sent, its fault included
    client_gone_at: float | None = None  # when the client hung up on an answer that was not finished
    released: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    @property
    def text(self) -> str:
        """The text sent so far."""
        return "".join(self.script.tokens[: self.sent])

    @property
    def prompt(self) -> str:
        """The last user turn."""
        return _prompt(self.body)

    def as_json(self) -> dict[str, Any]:
        """For GET /control/calls."""
        names = ("index", "body", "headers", "started_at", "sent", "text", "held", "finished", "client_gone_at")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass
class _Rule:
    prompt: str
    script: Script
    times: int | None  # left; None: always


class FakeOpenAI:
    """The server: `script` answers every call, and may be replaced at any time; `calls` are all so far, in order."""

    def __init__(self, script: Script | Scripted, port: int = 0) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.connections: set[_Connection] = set()
        self._rules: list[_Rule] = []
        self._port = port
        self._news = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FakeOpenAI:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        handlers = [connection.close() for connection in self.connections]
        await asyncio.gather(*handlers, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def base_url(self) -> str:
        """What a provider takes as its base URL."""
        return f"http://127.0.0.1:{self._port}/v1"

    async def wait_for(self, condition: Callable[[FakeOpenAI], Any], timeout_s: float = 5.0) -> Any:
        """Until `condition(self)` is true; returns what it returned. Raises TimeoutError that shows the calls."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (result := condition(self)):
                    self._news.clear()
                    await self._news.wait()
                return result
        except TimeoutError:
            raise TimeoutError(f"not within {timeout_s} s; calls: {[call.as_json() for call in self.calls]}") from None

    def release(self, index: int | None = None) -> None:
        """Let one call, or all so far, go on where they are held or come to their hold."""
        for call in self.calls if index is None else self.calls[index : index + 1]:
            call.released.set()

    def set_script(self, script: Script, prompt: str = "", times: int | None = None) -> None:
        """Script the calls whose last user turn contains `prompt`, before the default; see /control/script."""
        if not prompt and times is None:
            self.script = script
        else:
            self._rules.insert(0, _Rule(prompt, script, times))

    def begin(self, body: Body, headers: dict[str, str]) -> Call:
        """Record a request and choose its script."""
        call = Call(len(self.calls), body, headers, self._choose(body))
        self.calls.append(call)
        self.tell()
        return call

    def tell(self) -> None:
        """Something about a call has changed."""
        self._news.set()

    def _choose(self, body: Body) -> Script:
        for rule in self._rules:
            if rule.prompt in _prompt(body) and rule.times != 0:
                if rule.times is not None:
                    rule.times -= 1
                return rule.script
        return self.script if isinstance(self.script, Script) else self.script(body)


class _Connection(asyncio.StreamReaderProtocol):
    """One client's connection. Its protocol callbacks see the hang-up when it happens, not at the next write."""

    def __init__(self, fake: FakeOpenAI) -> None:
        self.fake = fake
        self.reader = asyncio.StreamReader()
        self.call: Call | None = None
        super().__init__(self.reader)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        loop = asyncio.get_running_loop()
        self.writer = asyncio.StreamWriter(transport, self, self.reader, loop)
        self.fake.connections.add(self)
        self.handler = loop.create_task(self._serve())

    def eof_received(self) -> bool | None:
        self._client_gone()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client_gone()
        self.fake.connections.discard(self)
        super().connection_lost(exc)

    def _client_gone(self) -> None:
        if self.call is not None and not self.call.finished and self.call.client_gone_at is None:
            self.call.client_gone_at = time.monotonic()
            self.fake.tell()
            self.handler.cancel()

    def close(self) -> asyncio.Task[None]:
        """Hang up on the client; the task ends soon."""
        self.call = None
        self.handler.cancel()
        self.writer.transport.abort()
        return self.handler

    async def _serve(self) -> None:
        try:
            while await self._answer():
                self.call = None
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client is done with this connection
        finally:
            self.call = None  # what follows is our own hang-up
            self.writer.close()

    async def _answer(self) -> bool:
        """Read one request and answer it; whether the connection is good for another."""
        method, target, headers, body = await _read_request(self.reader)
        url = urlsplit(target)
        if url.path.startswith("/control/"):
            return await self._control(f"{method} {url.path}", url.query, body)
        if method != "POST" or not url.path.endswith("/chat/completions"):
            return await self._reply(404, {"error": {"message": f"no {method} {url.path} here"}})
        self.call = call = self.fake.begin(json.loads(body), headers)
        answer = _Answer(self.fake, call, self.writer)
        again = await answer.run()
        call.finished = True
        self.fake.tell()
        return again

    async def _control(self, command: str, query: str, body: bytes) -> bool:
        options = {name: values[-1] for name, values in parse_qs(query).items()}
        if command == "GET /control/calls":
            return await self._reply(200, [call.as_json() for call in self.fake.calls])
        if command == "POST /control/script":
            try:
                script = Script(**json.loads(body))
            except (TypeError, ValueError) as error:
                return await self._reply(400, {"error": {"message": str(error)}})
            times = int(options["times"]) if "times" in options else None
            self.fake.set_script(script, options.get("prompt", ""), times)
            return await self._reply(200, {})
        if command == "POST /control/release":
            self.fake.release(int(options["call"]) if "call" in options else None)
            return await self._reply(200, {})
        return await self._reply(404, {"error": {"message": f"no {command} here"}})

    async def _reply(self, status: int, value: object) -> bool:
        body = json.dumps(value).encode()
        self.writer.write(_head(status, {"content-type": "application/json", "content-length": str(len(body))}) + body)
        await self.writer.drain()
        return True


class _Answer:
    """Plays one call's script into its connection; several events may share a write, each is its own HTTP chunk."""

    def __init__(self, fake: FakeOpenAI, call: Call, writer: asyncio.StreamWriter) -> None:
        self._fake = fake
        self._call = call
        self._script = call.script
        self._writer = writer
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
        self._pending += _head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        self._delta({"role": "assistant", "content": ""})
        self._first_due = time.monotonic() + script.first_token_delay_s
        for text in script.reasoning:
            await self._due()
            self._delta({script.reasoning_field: text})
        for index, token in enumerate(script.tokens):
            await self._due()
            if (again := await self._gate(index)) is not None:
                return again
            self._delta({"content": token})
            self._call.sent = index + 1
        if (again := await self._gate(len(script.tokens))) is not None:
            return again
        return await self._finish()

    async def _gate(self, index: int) -> bool | None:
        """What the script has in store before token `index`; None: go on."""
        script = self._script
        if index == script.hold_before:
            await self._hold()
        if index == script.close_after:
            return await self._end()
        if index == script.error_after:
            self._event(_json({"error": script.error}))
            return await self._end()
        if index == script.garbage_after:
            self._event(script.garbage.encode("utf-8", "surrogateescape"))
            return await self._end()
        if index in (script.cut_after, script.reset_after):
            await self._flush()
            return self._cut(reset=index == script.reset_after)
        return None

    async def _finish(self) -> bool:
        script = self._script
        for text in script.refusal:
            self._delta({"refusal": text})
        self._delta({}, script.finish_reason)
        if (again := await self._gate(len(script.tokens) + 1)) is not None:
            return again
        if (self._call.body.get("stream_options") or {}).get("include_usage"):
            usage = script.usage or {
                "prompt_tokens": sum(len(str(m.get("content")).split()) for m in self._call.body.get("messages", [])),
                "completion_tokens": len(script.tokens),
            }
            self._chunk({"choices": [], "usage": {**usage, "total_tokens": sum(usage.values())}})
        self._event(b"[DONE]")
        return await self._end()

    async def _refuse(self, status: int) -> bool:
        script = self._script
        body = script.status_body.encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **script.status_headers}
        self._pending += _head(status, headers) + body[: script.cut_after]
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
        self._fake.tell()
        await self._call.released.wait()
        self._call.held = False
        self._first_due += time.monotonic() - held_at  # else the rest would come in one burst
        self._fake.tell()

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> None:
        self._chunk({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})

    def _chunk(self, fields: dict[str, Any]) -> None:
        call = self._call
        frame = {"id": f"chatcmpl-{call.index}", "object": "chat.completion.chunk", "created": 1}
        self._event(_json({**frame, "model": call.body.get("model", "fake"), **fields}))

    def _event(self, data: bytes) -> None:
        event = b"data: " + data + b"\n\n"
        self._pending += b"%x\r\n" % len(event) + event + b"\r\n"

    async def _end(self) -> bool:
        self._pending += b"0\r\n\r\n"
        self._call.finished = True  # before the client can have seen the end, and hung up for that
        await self._flush()
        return True

    def _cut(self, *, reset: bool) -> bool:
        self._call.finished = True
        if reset:
            self._writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self._writer.transport.abort()
        return False

    async def _flush(self) -> None:
        data, self._pending = self._pending, bytearray()
        self._writer.write(data)
        await self._writer.drain()
        self._fake.tell()


def tokenize(text: str) -> list[str]:
    """The text by its words, each with the space before it."""
    return re.findall(r"\s*\S+|\s+\Z", text)


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    pairs = (line.partition(":") for line in lines[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return method, target, headers, await reader.readexactly(int(headers.get("content-length", 0)))


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} As scripted", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _json(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair: only as an escape
        return json.dumps(value).encode()


def _prompt(body: Body) -> str:
    turns = [message for message in body.get("messages", []) if message.get("role") == "user"]
    return str(turns[-1].get("content", "")) if turns else ""


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--text-file", type=Path, help="the answer to everything that is not scripted otherwise")
    parser.add_argument("--tokens-per-second", type=float)
    parser.add_argument("--first-token-delay-s", type=float, default=0.0)
    options = parser.parse_args()
    text = options.text_file.read_bytes().decode() if options.text_file else "An answer, as scripted."
    script = Script(
        tokens=tokenize(text),
        tokens_per_second=options.tokens_per_second,
        first_token_delay_s=options.first_token_delay_s,
    )
    async with FakeOpenAI(script, options.port) as fake:
        print(fake.base_url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
