"""A fake gateway: a real server on loopback that says to a browser what no sound gateway says on demand.

It serves an empty page at `/`, the demo page at `/demo`, the browser client, and WebSockets, whose commands it keeps:

    async with ScriptedGateway(answer) as gateway:   # answer(command) → the frames to send back
        ...
        await gateway.send({"type": "degraded"})
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from types import TracebackType
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Frame = dict[str, Any]
WELCOME: Frame = {"type": "welcome", "connection": "c", "protocol": "relay.v1", "heartbeat_s": 60, "limits": {}}

_STATIC = {"/relay-client.js": "relay-client.js", "/demo": "index.html"}


class ScriptedGateway:
    """`commands`: all so far, of all connections; `connections`: those that are open, in order.

    `port`: 0 for any. `refuses`: the HTTP status that every handshake gets.
    """

    def __init__(
        self,
        answer: Callable[[Frame], list[Frame]],
        welcome: Frame | None = WELCOME,
        *,
        port: int = 0,
        refuses: int | None = None,
    ) -> None:
        self.commands: list[Frame] = []
        self.connections: list[ServerConnection] = []
        self.accepted = 0
        self._answer = answer
        self._welcome = welcome
        self._port = port
        self._refuses = refuses
        self._server: Server | None = None

    async def __aenter__(self) -> ScriptedGateway:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            self._port,
            subprotocols=[Subprotocol("relay.v1.json")],
            process_request=self._page,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def send(self, *frames: Frame) -> None:
        """Over the newest connection."""
        for frame in frames:
            await self.connections[-1].send(json.dumps(frame))

    async def close(self, code: int, reason: str = "") -> None:
        await self.connections[-1].close(code, reason)

    def named(self, kind: str) -> list[Frame]:
        """The commands of one type so far."""
        return [command for command in self.commands if command["type"] == kind]

    async def _serve(self, connection: ServerConnection) -> None:
        self.accepted += 1
        self.connections.append(connection)
        try:
            if self._welcome is not None:
                await connection.send(json.dumps(self._welcome))
            async for raw in connection:
                command = json.loads(raw)
                self.commands.append(command)
                for frame in self._answer(command):
                    await connection.send(json.dumps(frame))
        except ConnectionClosed:
            pass  # the client's right
        finally:
            self.connections.remove(connection)

    def _page(self, connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return None if self._refuses is None else connection.respond(self._refuses, "No.\n")
        name = _STATIC.get(request.path)
        body = (files("relay") / "static" / name).read_bytes() if name is not None else b"<!doctype html>"
        kind = "text/javascript" if name == "relay-client.js" else "text/html"
        if request.path == "/healthz":
            body, kind = b'{"status":"alive"}', "application/json"
        headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
        return Response(200, "OK", headers, body)
