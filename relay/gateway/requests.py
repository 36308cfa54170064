"""What an HTTP request says besides its command, checked here; each refusal names the field."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from relay import failure_messages, timeouts
from relay.errors import ClientError
from relay.protocol import commands
from relay.protocol.words import REQUEST_ID, Cursor, new_id

BODY_TIMEOUT_S = 10
SNAPSHOT_LIMIT = 50
MAX_SNAPSHOT_LIMIT = 200
MAX_WAIT_S = 300
_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?\Z")


async def json_body(request: Request, max_bytes: float) -> bytes:
    """The body, bounded in size and time. Only JSON is taken, because any web page can post a form here."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ClientError("bad_message", "Content-Type must be application/json.", status=415)
    body = bytearray()
    try:
        async with timeouts.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise ClientError("too_large", "The body is larger than max_command_bytes.")
    except TimeoutError:
        raise ClientError("bad_message", "The body did not arrive in time.") from None
    except ClientDisconnect:
        raise ClientError("bad_message", "The body ended early.") from None
    return bytes(body)


def request_id(request: Request, fields: commands.Fields) -> str:
    in_header, in_body = request.headers.get("idempotency-key"), fields.get("request_id")
    if in_header is not None and in_body is not None and in_header != in_body:
        raise ClientError("bad_message", "Idempotency-Key and request_id differ; one of them suffices.")
    if in_header is not None and not REQUEST_ID.match(in_header):
        raise ClientError("bad_message", "Idempotency-Key must be 1-128 characters without control characters.")
    chosen = in_header if in_header is not None else in_body
    return chosen if chosen is not None else new_id("r")


def language(headers: Headers) -> str | None:
    """The reader's languages, as a job carries them; also for a WebSocket's handshake."""
    return failure_messages.languages(",".join(headers.getlist("accept-language")))


def wants_events(request: Request) -> bool:
    kinds = request.headers.get("accept", "").lower().split(",")
    return any(kind.partition(";")[0].strip() == "text/event-stream" for kind in kinds)


def wait_s(request: Request) -> float | None:
    given = request.query_params.get("wait")
    if given is None:
        return None
    if not _NUMBER.match(given) or float(given) > MAX_WAIT_S:
        raise ClientError("bad_message", f"wait must be a number of seconds, 0 to {MAX_WAIT_S}.")
    return float(given)


def cursor(request: Request) -> Cursor | None:
    """`Last-Event-ID`, otherwise `?cursor=`: EPOCH:SEQ."""
    given = request.headers.get("last-event-id") or request.query_params.get("cursor")
    if not given:
        return None
    epoch, _, seq = given.rpartition(":")
    number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) <= 16 else None
    return commands.check_cursor({"epoch": epoch, "seq": number})


def limit(request: Request) -> int:
    given = request.query_params.get("limit", str(SNAPSHOT_LIMIT))
    if not given.isascii() or not given.isdigit() or len(given) > 3 or not 1 <= int(given) <= MAX_SNAPSHOT_LIMIT:
        raise ClientError("bad_message", f"limit must be a number of 1 to {MAX_SNAPSHOT_LIMIT}.")
    return int(given)
