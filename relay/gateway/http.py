"""The HTTP endpoints: submit, stop, delete, events, snapshots, tickets, capabilities, health, metrics, page, client.

Those of a session get `Asked` (guard.py): the session, who asks, and what of its owner that depends on.
"""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Any, cast, get_args

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from relay import logging, metrics, timeouts
from relay.auth.identity import Identity
from relay.auth.refusals import AccessRefused
from relay.auth.revocations import check_sub
from relay.errors import ClientError, StorageError
from relay.gateway import requests
from relay.gateway.caller import Caller
from relay.gateway.deadlines import within_deadline
from relay.gateway.event_stream import HEADERS, EventStream
from relay.gateway.guard import Asked, gateway_of
from relay.gateway.origin_check import let_read
from relay.gateway.responses import error_response, json_response
from relay.gateway.waiting import until_ended
from relay.protocol import commands
from relay.protocol.commands import Submit
from relay.protocol.words import Start
from relay.redis.connections import ping

READY_TIMEOUT_S = 1.0
# The page contains everything that it needs and talks only to this gateway.
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

_failing = logging.RateLimitedLog(logging.get_logger("http"), "request_failed")


async def submit(request: Request, asked: Asked) -> Response | EventStream:
    gateway, session = gateway_of(request), asked.session
    fields = commands.read(await requests.json_body(request, gateway.limits["max_command_bytes"]))
    fields.pop("id", None)
    fields |= {"type": "submit", "session": session, "request_id": requests.request_id(request, fields)}
    command = cast(Submit, commands.check(fields, gateway.limits))  # by its type, set above
    ignored = {"ignored": names} if (names := commands.ignored(fields)) else {}
    as_stream = requests.wants_events(request)
    wait_s, cursor = (None, requests.cursor(request)) if as_stream else (requests.wait_s(request), None)
    reading = asked.also("read") if as_stream or wait_s is not None else asked
    generation, duplicate = await gateway.submissions.submit(command, asked.access, requests.language(request.headers))
    if as_stream:
        return EventStream(gateway, reading, cursor, "start", generation, ignored.get("ignored"))
    if wait_s is not None:
        return await _waited(request, reading, generation, wait_s, ignored)
    return json_response({"session": session, "generation": generation, "duplicate": duplicate, **ignored}, 202)


async def _waited(
    request: Request, asked: Asked, generation: str, wait_s: float, ignored: dict[str, list[str]]
) -> Response:
    gateway, over = gateway_of(request), list[ClientError]()
    waiting = asyncio.create_task(
        until_ended(gateway, asked.session, generation, wait_s, request.receive, asked.access), name="wait"
    )

    def end(why: ClientError) -> None:
        over.append(why)
        waiting.cancel()

    caller = Caller(gateway.authentication, end)
    try:
        caller.speaks_for(asked.identity)
        has_ended = await waiting
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not over or task is None or task.cancelling():  # we are meant
            raise
        return error_response(over[0], session=asked.session, generation=generation)
    finally:
        caller.close()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    if has_ended:
        return json_response({**await _generation(request, asked, generation), **ignored})
    running = ClientError("still_running", "The answer goes on; ask for it again, or stop it.")
    return error_response(running, session=asked.session, generation=generation)


async def events(request: Request, asked: Asked) -> Response | EventStream:
    generation, start = request.query_params.get("generation"), request.query_params.get("from", "start")
    if generation is not None:
        commands.check_generation(generation, "generation")
    if start not in get_args(Start):
        raise ClientError("bad_message", f"from must be {' or '.join(get_args(Start))}.")
    cursor = requests.cursor(request)
    if request.method == "HEAD":
        return Response(headers={name.decode(): value.decode() for name, value in HEADERS})
    return EventStream(gateway_of(request), asked, cursor, start, generation)


async def delete(request: Request, asked: Asked) -> Response:
    await gateway_of(request).submissions.delete(asked.session, asked.access)
    return Response(status_code=204)


async def stop(request: Request, asked: Asked) -> Response:
    generation = commands.check_generation(request.path_params["generation"], "generation")
    already_ended = await gateway_of(request).submissions.stop(asked.session, generation, asked.access)
    return json_response({"session": asked.session, "generation": generation, "already_ended": already_ended}, 202)


async def session_snapshot(request: Request, asked: Asked) -> Response:
    limit = requests.limit(request)
    async with within_deadline("snapshot"):
        found = await gateway_of(request).session_log.snapshots.session(asked.session, limit, asked.access.sub)
    if found is None:
        raise ClientError("not_found", "There is no such session.")
    return json_response(found)


async def generation_snapshot(request: Request, asked: Asked) -> Response:
    generation = commands.check_generation(request.path_params["generation"], "generation")
    return json_response(await _generation(request, asked, generation))


async def _generation(request: Request, asked: Asked, generation: str) -> dict[str, Any]:
    async with within_deadline("snapshot"):
        found = await gateway_of(request).session_log.snapshots.generation(asked.session, generation, asked.access.sub)
    if found is None:
        raise ClientError("not_found", "There is no such generation in this session.")
    return found


async def ticket(request: Request, identity: Identity) -> Response:
    """For one session, which the body names: for what cannot send a header."""
    gateway = gateway_of(request)
    fields = commands.read(await requests.json_body(request, gateway.limits["max_command_bytes"]))
    session = commands.check_session(fields.get("session"))
    if gateway.auth is None:
        raise ClientError("bad_message", "Without auth, there are no tickets, and nothing needs one.")
    async with within_deadline("ticket"):
        made, expires_at = await gateway.auth.tickets.mint(identity, session)
    return json_response({"ticket": made, "expires_at": expires_at})


async def revoke(request: Request) -> Response:
    gateway = gateway_of(request)
    fields = commands.read(await requests.json_body(request, gateway.limits["max_command_bytes"]))
    sub = check_sub(fields.get("sub"))
    async with within_deadline("revoke"):
        revoked_at = await gateway.revocations.revoke(sub)
    return json_response({"sub": sub, "revoked_at": revoked_at})


async def capabilities(request: Request, identity: Identity) -> Response:
    async with within_deadline("capabilities"):
        return json_response(await gateway_of(request).capabilities.describe())


async def alive(request: Request) -> Response:
    return json_response({"status": "alive"})


async def ready(request: Request) -> Response:
    gateway = gateway_of(request)
    if gateway.draining.is_set():
        return error_response(ClientError("unavailable", "This gateway is draining.", retry_after_s=1))
    try:
        async with timeouts.timeout(READY_TIMEOUT_S):
            await ping(
                gateway.redis.commands, gateway.session_log.keys.queues
            )  # every submit needs the server of this key
    except (StorageError, TimeoutError):
        return error_response(ClientError("unavailable", "Redis does not answer as it should.", retry_after_s=1))
    if gateway.requirements.problem:
        return error_response(ClientError("unavailable", gateway.requirements.problem, retry_after_s=1))
    return json_response({"status": "ready"})


async def metrics_page(request: Request) -> Response:
    headers = {"X-Content-Type-Options": "nosniff"}
    return Response(await asyncio.to_thread(metrics.text), media_type=metrics.CONTENT_TYPE, headers=headers)


async def page(request: Request) -> Response:
    html = (files("relay") / "static" / "index.html").read_bytes()
    headers = {
        "Content-Security-Policy": PAGE_POLICY,
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Response(html, media_type="text/html", headers=headers)


async def browser_client(request: Request) -> Response:
    """The ES module that pages of the allowed origins import too."""
    script = (files("relay") / "static" / "relay-client.js").read_bytes()
    headers = {
        "Access-Control-Allow-Origin": "*",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Response(script, media_type="text/javascript", headers=headers)


async def on_client_error(request: Request, error: Exception) -> Response:
    """Registered for ClientError alone."""
    if isinstance(error, AccessRefused):
        error.report(session=request.path_params.get("session"))
    return error_response(cast(ClientError, error))


async def on_bug(request: Request, error: Exception) -> Response:
    metrics.bugs.labels("http").inc()
    _failing.unexpected(error, endpoint=getattr(request.scope.get("endpoint"), "__name__", None))
    response = error_response(ClientError("internal", "Something went wrong here."))
    settings = gateway_of(request).settings
    let_read(response, request.headers, settings.host, settings.allowed_origins)  # the origin check is inside of this
    return response


async def on_not_found(request: Request, error: Exception) -> Response:
    return error_response(ClientError("not_found", "There is nothing at this address."))


async def no_websocket(websocket: WebSocket) -> None:
    """A handshake at any other address; Starlette would answer 403 without an explanation."""
    await websocket.send_denial_response(error_response(ClientError("not_found", "There is no WebSocket here.")))


async def no_upgrade(request: Request) -> Response:
    """A request to the WebSocket's address that is not a handshake."""
    sentence = (
        "This is the address of a WebSocket, but the request does not ask for one. If the client did, a proxy has "
        "removed that: it must speak HTTP/1.1 to the gateway and pass on the headers Upgrade and Connection."
    )
    response = error_response(ClientError("bad_message", sentence, status=426))
    response.headers.update({"Upgrade": "websocket", "Connection": "Upgrade"})
    return response


async def on_wrong_method(request: Request, error: Exception) -> Response:
    response = error_response(ClientError("bad_message", "This address does not take that method.", status=405))
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)  # Allow
    return response
