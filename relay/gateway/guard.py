"""The guard before every route: who asks, and whether they may. A route is either guarded here or in `PUBLIC`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from starlette.requests import Request

from relay.auth.identity import Access, Identity, Scope
from relay.gateway import authentication
from relay.gateway.gateway import Gateway
from relay.protocol import commands


class Asked(NamedTuple):
    """What a request of a session comes to: `access` says what of the session's owner it depends on."""

    session: str
    identity: Identity
    access: Access

    def also(self, action: Scope) -> Asked:
        """For a request that does two things. Raises ClientError `forbidden`."""
        return self._replace(access=self.identity.access(action, self.session))


Endpoint = Callable[[Request], Awaitable[Any]]


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def for_session(
    action: Scope, endpoint: Callable[[Request, Asked], Awaitable[Any]], *, takes_tickets: bool = False
) -> Endpoint:
    """Guard a route whose path names a session. `action`: what it does there."""

    async def guarded(request: Request) -> Any:
        ticket = authentication.ticket_of(request.query_params) if takes_tickets else None
        identity = await gateway_of(request).authentication.of_request(request.headers, ticket)
        session = commands.check_session(request.path_params["session"])
        return await endpoint(request, Asked(session, identity, identity.access(action, session)))

    return _named(guarded, endpoint)


def for_anybody_known(endpoint: Callable[[Request, Identity], Awaitable[Any]]) -> Endpoint:
    """Guard a route that any good token opens."""

    async def guarded(request: Request) -> Any:
        return await endpoint(request, await gateway_of(request).authentication.of_request(request.headers))

    return _named(guarded, endpoint)


def for_operators(endpoint: Endpoint) -> Endpoint:
    async def guarded(request: Request) -> Any:
        await gateway_of(request).authentication.require_operator(request.headers)
        return await endpoint(request)

    return _named(guarded, endpoint)


def for_scrapers(endpoint: Endpoint) -> Endpoint:
    async def guarded(request: Request) -> Any:
        await gateway_of(request).authentication.require_scraper(request.headers)
        return await endpoint(request)

    return _named(guarded, endpoint)


def _named(guarded: Endpoint, endpoint: Callable[..., Any]) -> Endpoint:
    """Log lines name the endpoint."""
    guarded.__name__ = endpoint.__name__
    return guarded
