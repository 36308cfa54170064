"""JSON responses over HTTP, with errors in the contract's one shape."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.responses import Response

from relay import metrics
from relay.errors import ClientError


def json_response(value: Any, status: int = 200) -> Response:
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def error_response(error: ClientError, **fields: Any) -> Response:
    """`fields` are added beside code and message."""
    metrics.errors.labels(error.code).inc()
    body: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable, **fields}
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
    response = json_response({"error": body}, error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
