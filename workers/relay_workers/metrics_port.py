"""A worker's metrics over HTTP, for a scraper: one thread, one request at a time, nothing but `/metrics`.

Why not prometheus-client's `start_http_server` (0.26): each peer that connects and sends nothing holds a thread for
good, without a bound, and past the end of the server; a scraper that hangs up midway causes a traceback on stderr,
among logs that are JSON; and every path is answered with the metrics.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import Any

from relay import logging, metrics
from relay.errors import SettingsError

REQUEST_TIMEOUT_S = 2.0  # for the whole request: otherwise a peer that sends or reads byte by byte holds up the rest

logger = logging.get_logger("metrics")
_failing = logging.RateLimitedLog(logger, "scrape_failed")


@contextmanager
def metrics_port(host: str, port: int) -> Iterator[int]:
    """Serve `/metrics` for the duration of the block; yields the port. 0: serve nothing. Raises SettingsError."""
    if port == 0:
        yield 0
        return
    server = _listen(host, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _listen(host: str, port: int) -> _Server:
    try:
        return (_ServerV6 if ":" in host else _Server)((host, port), _MetricsHandler)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(
            f"--metrics-port / RELAY_METRICS_PORT {port} on {host} cannot be listened on: {reason}"
        ) from None


class _MetricsHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        body = metrics.text()
        self.send_response(200)
        self.send_header("Content-Type", metrics.CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Do not log every scrape."""


class _Server(TCPServer):
    allow_reuse_address = True

    def finish_request(self, request: Any, client_address: Any) -> None:
        deadline = threading.Timer(REQUEST_TIMEOUT_S, _cut, [request])
        deadline.start()
        try:
            super().finish_request(request, client_address)
        finally:
            deadline.cancel()
            deadline.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """socketserver prints a traceback for a scraper that hung up."""
        _failing.log(detail=type(sys.exception()).__name__)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # the peer has already closed it
        connection.shutdown(socket.SHUT_RDWR)


class _ServerV6(_Server):
    address_family = socket.AF_INET6
