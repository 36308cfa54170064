"""What a WebSocket connection sends besides events: frames, refusals, and its close."""

from __future__ import annotations

from relay import metrics
from relay.auth.refusals import AccessRefused
from relay.errors import ClientError
from relay.gateway.sinks import Sink
from relay.protocol import frames
from relay.protocol.words import SESSION


class Replies:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def send(self, frame: frames.Frame) -> None:
        self._sink.send(frames.encode(frame))

    def refuse(self, error: ClientError, reply_id: str | None = None, session: str | None = None) -> None:
        metrics.errors.labels(error.code).inc()
        if isinstance(error, AccessRefused):
            error.report(session=session)
        self.send(
            frames.ErrorFrame(
                id=reply_id,
                code=error.code,
                message=error.message,
                retryable=error.retryable,
                retry_after_s=error.retry_after_s,
                session=session if session is not None and SESSION.match(session) else None,
            )
        )

    def close(self, code: int, reason: str) -> None:
        metrics.closes.labels(str(code)).inc()
        self._sink.close(code, reason)
