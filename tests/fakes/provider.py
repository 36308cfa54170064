"""A fake provider: a real HTTP server on loopback that speaks the streaming APIs, by script, and is an agent.

It serves OpenAI's `/v1/chat/completions`, Anthropic's `/v1/messages` and an agent's `/agent`, which answers whole, with
the same faults at the same tokens, and OpenAI's background responses under `/v1/responses` (see background.py).
In a test:

    async with FakeProvider(Script(tokens=["Hel", "lo"], hold_before=1)) as fake:
        ...                                        # a provider with fake.openai_base_url or fake.anthropic_base_url
        await fake.wait_for(lambda f: f.calls and f.calls[0].held)
        fake.release()

For tests with real processes: `python -m tests.fakes.provider --port 0 --text-file F`. Its first lines on stdout
are `OPENAI_BASE_URL=…`, `ANTHROPIC_BASE_URL=…` and `AGENT_API_URL=…`, and it is scripted over the same port:

    GET  /control/calls                            every call so far, as JSON
    POST /control/script[?prompt=TEXT][&times=N]   body: a Script's fields as JSON. Without `prompt` the default from
                                                   now on; with it for requests whose last user turn contains TEXT,
                                                   the newest first; with `times` for the next N of them
    POST /control/release[?call=INDEX]             lets held calls go on
    POST /control/forget                           all background responses so far have expired
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes import anthropic_format
from tests.fakes.answer import Answer, json_reply
from tests.fakes.background import Backgrounds
from tests.fakes.script import Api, Body, Call, Reader, Script, prompt_of, tokenize

__all__ = ["Call", "FakeProvider", "Script"]

Scripted = Callable[[Body], Script]

_APIS: dict[str, Api] = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic", "/agent": "agent"}


@dataclasses.dataclass
class _Rule:
    prompt: str
    script: Script
    times: int | None  # left; None: always


class FakeProvider:
    """The server: `script` answers every call, and may be replaced at any time; `calls` are all so far, in order.

    `agent_check` answers every `GET /agent`, and `checks` are the headers of those so far.
    """

    def __init__(self, script: Script | Scripted, port: int = 0) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.agent_check = Script(status=200, status_body="{}")
        self.checks: list[dict[str, str]] = []
        self.connections: set[_Connection] = set()
        self.backgrounds = Backgrounds(self.begin, self.tell)
        self._rules: list[_Rule] = []
        self._port = port
        self._news = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FakeProvider:
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
        await self.backgrounds.aclose()
        await self._server.wait_closed()

    @property
    def openai_base_url(self) -> str:
        """What the openai provider takes as its base URL."""
        return f"{self.anthropic_base_url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """What the anthropic provider takes as its base URL; the control commands are under it too."""
        return f"http://127.0.0.1:{self._port}"

    base_url = openai_base_url

    @property
    def agent_url(self) -> str:
        """What the agent provider takes as its URL."""
        return f"{self.anthropic_base_url}/agent"

    async def wait_for(self, condition: Callable[[FakeProvider], Any], timeout_s: float = 20.0) -> Any:
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

    def begin(self, api: Api, body: Body, headers: dict[str, str]) -> Call:
        """Record a request and choose its script."""
        script = self._choose(body)
        if api == "anthropic" and (wrong := anthropic_format.complaint(body)):
            error = {"type": "invalid_request_error", "message": wrong}
            script = Script(status=400, status_body=json.dumps({"type": "error", "error": error}))
        call = Call(len(self.calls), api, body, headers, script)
        self.calls.append(call)
        self.tell()
        return call

    def tell(self) -> None:
        """Something about a call has changed."""
        self._news.set()

    def _choose(self, body: Body) -> Script:
        for rule in self._rules:
            if rule.prompt in prompt_of(body) and rule.times != 0:
                if rule.times is not None:
                    rule.times -= 1
                return rule.script
        return self.script if isinstance(self.script, Script) else self.script(body)


class _Connection(asyncio.StreamReaderProtocol):
    """One client's connection. Its protocol callbacks see the hang-up when it happens, not at the next write."""

    def __init__(self, fake: FakeProvider) -> None:
        self.fake = fake
        self.reader = asyncio.StreamReader()
        self.watched: Call | Reader | None = None
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
        watched = self.watched
        if watched is not None and not watched.finished and watched.client_gone_at is None:
            watched.client_gone_at = time.monotonic()
            self.fake.tell()
            self.handler.cancel()

    def close(self) -> asyncio.Task[None]:
        """Hang up on the client; the task ends soon."""
        self.watched = None
        self.handler.cancel()
        self.writer.transport.abort()
        return self.handler

    async def _serve(self) -> None:
        try:
            while await self._answer():
                self.watched = None
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client is done with this connection
        finally:
            self.watched = None  # what follows is our own hang-up
            self.writer.close()

    async def _answer(self) -> bool:
        """Read one request and answer it; whether the connection is good for another."""
        method, target, headers, body = await _read_request(self.reader)
        url = urlsplit(target)
        if url.path.startswith("/control/"):
            return await self._control(f"{method} {url.path}", url.query, body)
        if (method, url.path) == ("GET", "/agent"):
            self.fake.checks.append(headers)
            check = Call(-1, "agent", {}, headers, self.fake.agent_check)
            return await Answer(check, self.writer, self.fake.tell).run()
        if Backgrounds.owns(url.path):
            return await self.fake.backgrounds.answer(self, method, target, headers, body)
        if method != "POST" or url.path not in _APIS:
            return await self._reply(404, {"error": {"message": f"no {method} {url.path} here"}})
        self.watched = call = self.fake.begin(_APIS[url.path], json.loads(body), headers)
        again = await Answer(call, self.writer, self.fake.tell).run()
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
        if command == "POST /control/forget":
            self.fake.backgrounds.forget()
            return await self._reply(200, {})
        return await self._reply(404, {"error": {"message": f"no {command} here"}})

    async def _reply(self, status: int, value: object) -> bool:
        self.writer.write(json_reply(status, value))
        await self.writer.drain()
        return True


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    pairs = (line.partition(":") for line in lines[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return method, target, headers, await reader.readexactly(int(headers.get("content-length", 0)))


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
    async with FakeProvider(script, options.port) as fake:
        print(f"OPENAI_BASE_URL={fake.openai_base_url}")
        print(f"ANTHROPIC_BASE_URL={fake.anthropic_base_url}")
        print(f"AGENT_API_URL={fake.agent_url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
