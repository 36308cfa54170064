"""RELAY_ROOT_PATH: the gateway under a prefix that a proxy passes on."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class RootPath:
    """ASGI middleware. Removes the prefix; requests without it (probes, proxies that remove it) work as well."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._root_path or scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path == self._root_path and scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            # The page's addresses are relative and need the slash.
            await Response(status_code=307, headers={"Location": f"{self._root_path}/"})(scope, receive, send)
            return
        if path.startswith(f"{self._root_path}/"):
            scope = {**scope, "path": path.removeprefix(self._root_path)}
        await self._app(scope, receive, send)
