"""The gateway as an ASGI app: its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route, WebSocketRoute

from relay.errors import ClientError
from relay.gateway import http
from relay.gateway.gateway import Gateway
from relay.gateway.origin_check import OriginCheck
from relay.gateway.root_path import RootPath


def app(gateway: Gateway) -> Starlette:
    """The ASGI app of a gateway. Under uvicorn with our protocol class it uses the hot path, elsewhere `send`."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    generation = "/v1/sessions/{session}/generations/{generation}"
    starlette = Starlette(
        routes=[
            # A route that begins anew also stands in `_OWN_PATHS` of relay/settings.py, and in docs/protocol.md.
            WebSocketRoute("/v1/ws", gateway.serve),
            Route("/v1/ws", http.no_upgrade),
            Route("/v1/sessions/{session}/generations", http.submit, methods=["POST"]),
            Route(generation + "/stop", http.stop, methods=["POST"]),
            Route(generation, http.generation_snapshot),
            Route("/v1/sessions/{session}/events", http.events),
            Route("/v1/sessions/{session}", http.session_snapshot),
            Route("/v1/sessions/{session}", http.delete, methods=["DELETE"]),
            Route("/v1/capabilities", http.capabilities),
            Route("/healthz", http.alive),
            Route("/readyz", http.ready),
            Route("/metrics", http.metrics_page),
            Route("/", http.page),
            WebSocketRoute("/{path:path}", http.no_websocket),
            Route("/relay-client.js", http.browser_client),
        ],
        middleware=[
            Middleware(RootPath, root_path=gateway.settings.root_path),
            Middleware(OriginCheck, host=gateway.settings.host, allowed_origins=gateway.settings.allowed_origins),
        ],
        exception_handlers={
            ClientError: http.on_client_error,
            404: http.on_not_found,
            405: http.on_wrong_method,
            500: http.on_bug,
        },
        lifespan=lifespan,
    )
    starlette.state.gateway = gateway
    starlette.router.redirect_slashes = False  # an unknown address is not found, never redirected
    return starlette
