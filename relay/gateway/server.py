"""The gateway under uvicorn, with our WebSocket protocol class."""

from __future__ import annotations

import errno
import importlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from relay.errors import SettingsError
from relay.gateway.app import app
from relay.gateway.gateway import Gateway
from relay.gateway.http_protocol import RelayHttpProtocol, mark_stopping
from relay.gateway.websocket_protocol import RelayWebSocketProtocol
from relay.settings import Settings
from relay.stop_signals import stop_signals

SHUTDOWN_TIMEOUT_S = 8  # to answer what was asked (4.5), and for peers to take the answers (3)
WAITING_CONNECTIONS = 2048  # in the kernel, which may allow fewer
# Connections per turn of the loop, for which everything else waits. asyncio would accept all that wait, perhaps two
# thousand, do all their handshakes, and only then see a stop or a reply of Redis.
ACCEPTED_AT_ONCE = 8


def listen(host: str, port: int) -> socket.socket:
    """Bind before anything else starts, so that a taken port gives one clear line. Raises SettingsError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _refused(host, port, error) from None
    sock.set_inheritable(True)
    return sock


def _refused(host: str, port: int, error: OSError) -> SettingsError:
    reason = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        reason += "; choose another port with --port / RELAY_PORT, 0 for a free one"
    return SettingsError(f"--host {host} --port {port} cannot be listened on: {reason}")


def listen_shared(host: str, port: int, count: int) -> list[socket.socket]:
    """The same port for several processes. Raises SettingsError.

    Linux spreads connections evenly over sockets that share a port. With one socket in many processes, the first to
    wake takes a whole burst, such as everybody's reconnect; elsewhere there is no other way.
    """
    first = listen(host, port)  # without SO_REUSEPORT: a port in use is an error, not shared
    if sys.platform != "linux":
        return [first] * count
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sockets = [first]
    for _ in range(count - 1):
        sock = socket.socket(first.family, socket.SOCK_STREAM)
        sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(first.getsockname())
    return sockets


def _refuse_missing(loop: str) -> None:
    """Raises SettingsError if this event loop is not installed."""
    try:
        importlib.import_module(loop)
    except ImportError as error:
        raise SettingsError(
            f"RELAY_LOOP={loop}, but {loop} cannot be imported ({error}): install it, or set RELAY_LOOP=asyncio"
        ) from None


def address(host: str, port: int) -> str:
    """What a person on this machine can click on."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _set_for_accepted(listening: socket.socket, unsent_bytes: int) -> None:
    """Options that every accepted connection inherits. Set before the socket listens, so the first has them, too."""
    # Otherwise a frame waits until the peer has acknowledged the one before, perhaps 40 ms. asyncio sets this only if
    # the socket knows its protocol number, which our own socket may not.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Otherwise the kernel holds megabytes for a slow reader: memory that we do not bound, and events that can no longer
    # be merged. With this it takes no more than so many bytes ahead of what it can send (Linux).
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        listening.setsockopt(socket.IPPROTO_TCP, option, unsent_bytes)


class _Server(uvicorn.Server):
    """Tells the gateway first to drain: otherwise streams over HTTP would hold up the shutdown."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn knows SIGINT and SIGTERM; our other stop signals count as the second."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        others = [number for number in stop_signals() if number not in HANDLED_SIGNALS]
        before = {number: signal.signal(number, self._on_signal) for number in others}
        try:
            with super().capture_signals():
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.handle_exit(signal.SIGTERM, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for sock in sockets or []:
            _set_for_accepted(sock, self._gateway.settings.viewer_buffer_bytes)
        try:
            await super().startup(sockets)
        except OSError as error:  # two that start at once may both bind a port; one of them listens
            await self.lifespan.shutdown()
            raise _refused(self._gateway.settings.host, self._gateway.settings.port, error) from None
        for sock in sockets or []:
            sock.listen(WAITING_CONNECTIONS)  # asyncio takes one number for both

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.draining.set()
        mark_stopping(self.server_state)
        await super().shutdown(sockets)


class _ServerWithoutSignals(_Server):
    """Leaves signals to the caller, which runs other things beside it; uvicorn would raise them again at its end."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def server(settings: Settings, *, handle_signals: bool = True) -> uvicorn.Server:
    """A server that is ready to `serve(sockets=[…])`, on the loop that its `config` makes. Raises SettingsError."""
    _refuse_missing(settings.loop)
    gateway = Gateway(settings)
    config = uvicorn.Config(
        app(gateway),
        http=RelayHttpProtocol,
        ws=RelayWebSocketProtocol,
        loop=settings.loop,  # uvicorn's own choice depends on what happens to be installed
        ws_max_size=4 * settings.max_command_bytes,
        ws_ping_interval=None,  # ours knows a slow reader from a dead one
        ws_per_message_deflate=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        lifespan="on",
        log_config=None,
        access_log=False,
    )
    return (_Server if handle_signals else _ServerWithoutSignals)(config, gateway)
