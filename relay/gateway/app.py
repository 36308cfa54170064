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
from relay.gateway.guard import for_anybody_known, for_operators, for_scrapers, for_session
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
            # Each is guarded (guard.py), or shows nothing of anybody. A route that begins anew also stands in
            # `_OWN_PATHS` of relay/settings.py, and in docs/protocol.md.
            WebSocketRoute("/v1/ws", gateway.serve),
            Route("/v1/ws", http.no_upgrade),
            Route("/v1/sessions/{session}/generations", for_session("submit", http.submit), methods=["POST"]),
            Route(generation + "/stop", for_session("stop", http.stop), methods=["POST"]),
            Route(generation, for_session("read", http.generation_snapshot)),
            Route("/v1/sessions/{session}/events", for_session("read", http.events, takes_tickets=True)),
            Route("/v1/sessions/{session}", for_session("read", http.session_snapshot)),
            Route("/v1/sessions/{session}", for_session("delete", http.delete), methods=["DELETE"]),
            Route("/v1/capabilities", for_anybody_known(http.capabilities)),
            Route("/v1/tickets", for_anybody_known(http.ticket), methods=["POST"]),
            Route("/v1/admin/revoke", for_operators(http.revoke), methods=["POST"]),
            Route("/healthz", http.alive),
            Route("/readyz", http.ready),
            Route("/metrics", for_scrapers(http.metrics_page)),
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
