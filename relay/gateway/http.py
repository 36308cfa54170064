"""The HTTP endpoints: submit, stop, delete, events, snapshots, capabilities, health, metrics, page and client."""

from __future__ import annotations

import asyncio
import re
from importlib.resources import files
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from relay import logging, metrics
from relay.errors import ClientError, StorageError
from relay.gateway.answers import answer, error_answer
from relay.gateway.event_stream import HEADERS, EventStream
from relay.gateway.gateway import Gateway
from relay.gateway.submissions import answered_in_time
from relay.gateway.waiting import until_ended
from relay.log.connect import call
from relay.protocol import commands
from relay.protocol.commands import Submit
from relay.protocol.words import REQUEST_ID, Cursor, new_id

BODY_TIMEOUT_S = 10
SNAPSHOT_LIMIT = 50
MAX_SNAPSHOT_LIMIT = 200
MAX_WAIT_S = 300
_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?\Z")
READY_TIMEOUT_S = 1.0
# The page brings everything it needs and talks to nobody but us.
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data:"
)

log = logging.get("http")


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def submit(request: Request) -> Response | EventStream:
    gateway = gateway_of(request)
    session = commands.check_session(request.path_params["session"])
    fields = commands.read(await _json_body(request, gateway.limits["max_command_bytes"]))
    fields.pop("id", None)
    fields |= {"type": "submit", "session": session, "request_id": _request_id(request, fields)}
    command = commands.check(fields, gateway.limits)
    assert isinstance(command, Submit)
    as_stream = _wants_events(request)
    wait_s, cursor = (None, _cursor(request)) if as_stream else (_wait_s(request), None)
    generation, duplicate = await gateway.submissions.submit(command)
    if as_stream:
        return EventStream(gateway, session, cursor, "start", generation)
    if wait_s is not None:
        return await _waited(request, session, generation, wait_s)
    return answer({"session": session, "generation": generation, "duplicate": duplicate}, 202)


async def _waited(request: Request, session: str, generation: str, wait_s: float) -> Response:
    if await until_ended(gateway_of(request), session, generation, wait_s, request.receive):
        return answer(await _generation(request, session, generation))
    running = ClientError("still_running", "The answer goes on; ask for it again, or stop it.")
    return error_answer(running, session=session, generation=generation)


async def events(request: Request) -> Response | EventStream:
    session = commands.check_session(request.path_params["session"])
    generation, start = request.query_params.get("generation"), request.query_params.get("from", "start")
    if generation is not None:
        commands.check_generation(generation, "generation")
    if start not in ("start", "live"):
        raise ClientError("bad_message", "from must be start or live.")
    cursor = _cursor(request)
    if request.method == "HEAD":
        return Response(headers={name.decode(): value.decode() for name, value in HEADERS})
    return EventStream(gateway_of(request), session, cursor, start, generation)


async def delete(request: Request) -> Response:
    gateway = gateway_of(request)
    session = commands.check_session(request.path_params["session"])
    await gateway.submissions.delete(session)
    async with answered_in_time("delete"):
        await gateway.hub.look(session)  # so that who subscribes here after our answer gets a new session
    return Response(status_code=204)


async def stop(request: Request) -> Response:
    session = commands.check_session(request.path_params["session"])
    generation = commands.check_generation(request.path_params["generation"], "generation")
    already_ended = await gateway_of(request).submissions.stop(session, generation)
    return answer({"session": session, "generation": generation, "already_ended": already_ended}, 202)


async def session_snapshot(request: Request) -> Response:
    session_log = gateway_of(request).log
    session = commands.check_session(request.path_params["session"])
    limit = _limit(request)
    async with answered_in_time("snapshot"):
        opened = await session_log.open(session, create=False)
        if opened is None:
            raise ClientError("not_found", "There is no such session.")
        generations = await session_log.snapshots.generations(
            session, await session_log.snapshots.newest(session, "generations", limit)
        )
        completed = await session_log.snapshots.turns(
            session, await session_log.snapshots.newest(session, "transcript", limit)
        )
    return answer(
        {
            "session": session,
            "epoch": opened.epoch,
            "head": opened.head,
            "messages": completed[-limit:],
            "generations": generations,
        }
    )


async def generation_snapshot(request: Request) -> Response:
    session = commands.check_session(request.path_params["session"])
    generation = commands.check_generation(request.path_params["generation"], "generation")
    return answer(await _generation(request, session, generation))


async def _generation(request: Request, session: str, generation: str) -> dict[str, Any]:
    async with answered_in_time("snapshot"):
        found = await gateway_of(request).log.snapshots.generation(session, generation)
    if found is None:
        raise ClientError("not_found", "There is no such generation in this session.")
    return found


async def capabilities(request: Request) -> Response:
    async with answered_in_time("capabilities"):
        return answer(await gateway_of(request).menu.capabilities())


async def alive(request: Request) -> Response:
    return answer({"status": "alive"})


async def ready(request: Request) -> Response:
    gateway = gateway_of(request)
    if gateway.draining.is_set():
        return error_answer(ClientError("unavailable", "This gateway is going.", retry_after_s=1))
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await call(gateway.redis.commands, "PING")
    except (StorageError, TimeoutError):
        return error_answer(ClientError("unavailable", "Redis does not answer.", retry_after_s=1))
    return answer({"status": "ready"})


async def metrics_page(request: Request) -> Response:
    return Response(await asyncio.to_thread(metrics.text), media_type=metrics.CONTENT_TYPE)


async def page(request: Request) -> Response:
    html = (files("relay") / "static" / "index.html").read_bytes()
    headers = {
        "Content-Security-Policy": PAGE_POLICY,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Response(html, media_type="text/html", headers=headers)


async def browser_client(request: Request) -> Response:
    """The ES module that pages of the allowed origins import too."""
    script = (files("relay") / "static" / "relay-client.js").read_bytes()
    headers = {
        "Access-Control-Allow-Origin": "*",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Response(script, media_type="text/javascript", headers=headers)


async def on_client_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ClientError)
    return error_answer(error)


async def on_bug(request: Request, error: Exception) -> Response:
    metrics.bugs.labels("http").inc()
    log.error("request_failed", path=request.scope["path"], exc_info=error)
    return error_answer(ClientError("internal", "Something went wrong here."))


async def on_not_found(request: Request, error: Exception) -> Response:
    return error_answer(ClientError("not_found", "There is nothing at this address."))


async def no_websocket(websocket: WebSocket) -> None:
    """A handshake at any other address; Starlette would answer 403 without a word."""
    await websocket.send_denial_response(error_answer(ClientError("not_found", "There is no WebSocket here.")))


async def on_wrong_method(request: Request, error: Exception) -> Response:
    return error_answer(ClientError("bad_message", "This address does not take that method.", status=405))


async def _json_body(request: Request, max_bytes: float) -> bytes:
    """The body, bounded in size and time. Any web page can post a form here, so only JSON counts."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ClientError("bad_message", "Content-Type must be application/json.", status=415)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise ClientError("too_large", "The body is larger than max_command_bytes.")
    except TimeoutError:
        raise ClientError("bad_message", "The body did not arrive in time.") from None
    except ClientDisconnect:
        raise ClientError("bad_message", "The body ended early.") from None
    return bytes(body)


def _request_id(request: Request, fields: commands.Fields) -> str:
    in_header, in_body = request.headers.get("idempotency-key"), fields.get("request_id")
    if in_header is not None and in_body is not None and in_header != in_body:
        raise ClientError("bad_message", "Idempotency-Key and request_id differ; one of them suffices.")
    if in_header is not None and not REQUEST_ID.match(in_header):
        raise ClientError("bad_message", "Idempotency-Key must be 1-128 characters without control characters.")
    chosen = in_header if in_header is not None else in_body
    return chosen if chosen is not None else new_id("r")


def _wants_events(request: Request) -> bool:
    kinds = request.headers.get("accept", "").lower().split(",")
    return any(kind.partition(";")[0].strip() == "text/event-stream" for kind in kinds)


def _wait_s(request: Request) -> float | None:
    given = request.query_params.get("wait")
    if given is None:
        return None
    if not _NUMBER.match(given) or float(given) > MAX_WAIT_S:
        raise ClientError("bad_message", f"wait must be a number of seconds, 0 to {MAX_WAIT_S}.")
    return float(given)


def _cursor(request: Request) -> Cursor | None:
    """`Last-Event-ID`, or else `?cursor=`: EPOCH:SEQ."""
    given = request.headers.get("last-event-id") or request.query_params.get("cursor")
    if not given:
        return None
    epoch, _, seq = given.rpartition(":")
    number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) <= 16 else None
    return commands.check_cursor({"epoch": epoch, "seq": number})


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", str(SNAPSHOT_LIMIT))
    if not given.isascii() or not given.isdigit() or len(given) > 3 or not 1 <= int(given) <= MAX_SNAPSHOT_LIMIT:
        raise ClientError("bad_message", f"limit must be a number of 1 to {MAX_SNAPSHOT_LIMIT}.")
    return int(given)
