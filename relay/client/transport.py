"""The transport: connects to a gateway, reads and writes, notices when the connection is dead, and connects again.

It knows no sessions. Whenever woken, it asks its TransportHandler for what to send. So nothing is queued here, and a
command whose connection broke is simply due again on the next one.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from functools import partial
from typing import NoReturn, Protocol

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from relay.client.address import shown, websocket_address
from relay.client.backoff import Backoff
from relay.client.constants import SHARED
from relay.client.tokens import Token, TokenRefresher, TokenSource, TokenUnavailable
from relay.errors import Disconnected, TokenRefused
from relay.protocol.view import FrameDict

_SUBPROTOCOL = Subprotocol("relay.v1.json")
_MAX_FRAME_BYTES = 32 * 1024 * 1024  # twice the largest max_frame_bytes that a gateway can be set to
_HEARTBEAT_S = 15.0
_CLOSE_WITHIN_S = 1.0
_RETRYABLE_STATUSES = {408, 425, 429}  # of the 4xx; the others will not change
_TOO_MANY = 4429
_OLD_TOKEN, _BAD_TOKEN, _FORBIDDEN = 4401, 4501, 4503
_TOKEN_FAILURES = 3  # in a row, before any gateway was reached
_NEVER = float("inf")
_LOGGER = logging.getLogger("websockets.client.relay")
_LOGGER.setLevel(logging.INFO)  # at debug, handshakes and frames are logged whole, with the token

Due = tuple[list[bytes], float | None]


class TransportHandler(Protocol):
    """What the transport calls. None of these may block."""

    def connected(self, welcome: FrameDict) -> None: ...

    def lost(self) -> None: ...

    def frame(self, frame: FrameDict) -> None: ...

    def due(self, now: float) -> Due:
        """The commands to send now, and when the next one will be due unless `wake` is called before."""
        ...


class Transport:
    """`run` it in a separate task; it ends only by an exception. Raises Disconnected if `url` is not an address."""

    def __init__(self, url: str, handler: TransportHandler, *, token: Token, give_up_after_s: float | None) -> None:
        self.url = shown(url)
        self.give_up_after_s = give_up_after_s
        self._ws_url = _dialled(url)
        self._handler = handler
        self._tokens = TokenSource(token)
        self._says_hello = parse_uri(self._ws_url).user_info is not None  # which is the header's only place
        self._backoff = Backoff()
        self._work = asyncio.Event()
        self._was_welcomed = False  # whether a gateway ever welcomed us: before, a refusal means a wrong address
        self._alive_at = asyncio.get_running_loop().time()
        self._useful_from = _NEVER  # from then on this connection counts as useful: the next one is tried at once
        self._stable_from = _NEVER
        self._reconnect_at: float | None = None
        self._silence_s = SHARED.welcome_within_s
        self._websocket: ClientConnection | None = None  # the one in use

    def wake(self) -> None:
        """Something may be due."""
        self._work.set()

    def reconnect(self) -> None:
        """Change to another connection: nothing in flight on this one is of use."""
        if self._websocket is not None:
            self._websocket.transport.abort()

    async def run(self) -> NoReturn:
        """Raises Disconnected: told not to come back, not a gateway, or no gateway for `give_up_after_s`."""
        while True:
            websocket, welcome, token = await self._connect()
            self._silence_s = silence_s(welcome.get("heartbeat_s") or _HEARTBEAT_S)
            await self._run_connection(websocket, welcome, token)

    async def _connect(self) -> tuple[ClientConnection, FrameDict, str | None]:
        """A connection, its `welcome` and the token that it took, however many tries that takes."""
        gives_up_at = None if self.give_up_after_s is None else self._alive_at + self.give_up_after_s
        problem: BaseException | None = None
        try:
            async with asyncio.timeout_at(gives_up_at):
                while True:
                    await self._pause()
                    try:
                        return await self._connect_once()
                    except TokenUnavailable as error:
                        problem = error.__cause__
                        if not self._was_welcomed and self._tokens.failures >= _TOKEN_FAILURES:
                            raise Disconnected(f"the token function failed: {type(problem).__name__}") from problem
                    except (OSError, InvalidHandshake, ConnectionClosed, msgspec.DecodeError) as error:
                        self._raise_if_final(error)
                        problem = error
        except TimeoutError:
            raise Disconnected(f"the gateway at {self.url} cannot be reached") from problem

    async def _pause(self) -> None:
        delay = self._backoff.next() if self._backoff.failures or self._was_welcomed else 0
        self._backoff.failures = max(1, self._backoff.failures)
        if self._reconnect_at is not None:
            delay, self._reconnect_at = max(0, self._reconnect_at - _now()), None
        await asyncio.sleep(delay)

    async def _connect_once(self) -> tuple[ClientConnection, FrameDict, str | None]:
        token = await self._tokens.fetch()
        in_header = token is not None and not self._says_hello
        dial = _ConnectThere if token is not None and self._says_hello else connect
        websocket = await dial(
            self._ws_url,
            subprotocols=[_SUBPROTOCOL],
            additional_headers={"Authorization": f"Bearer {token}"} if in_header else None,
            logger=_LOGGER,
            compression=None,
            proxy=None,
            max_size=_MAX_FRAME_BYTES,
            ping_interval=None,  # the gateway's heartbeats tell a dead connection
            close_timeout=_CLOSE_WITHIN_S,
        )
        try:
            async with asyncio.timeout(SHARED.welcome_within_s):
                if token is not None and not in_header:
                    await _send_token(websocket, "hello", token)
                frame = await _welcome(websocket, asks=token is None)
        except BaseException:
            websocket.transport.abort()
            raise
        self._was_welcomed = True
        return websocket, frame, token

    def _raise_if_final(self, error: Exception) -> None:
        """Raise Disconnected if another try is useless."""
        if isinstance(error, ConnectionClosed):
            self._apply_close_code(error)
        if isinstance(error, InvalidStatus) and error.response.status_code == 401:
            if self._tokens.is_given or not self._was_welcomed:
                self._token_refused(error, "HTTP 401")
            return
        if self._was_welcomed or not isinstance(error, InvalidHandshake | ssl.SSLCertVerificationError):
            return  # there was a gateway before: what answers in its place while it restarts is temporary
        if isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError):
            return  # cut in the middle
        status = error.response.status_code if isinstance(error, InvalidStatus) else 400
        if status == 404:
            raise Disconnected(f"there is no relay at {self.url} (HTTP 404); is a part of its path missing?") from error
        if status < 500 and status not in _RETRYABLE_STATUSES:
            raise Disconnected(f"{self.url} refused the connection: {error}") from error

    def _apply_close_code(self, closed: ConnectionClosed) -> None:
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (1006, "")
        was_useful = _now() >= self._useful_from
        if code in (_OLD_TOKEN, _BAD_TOKEN):
            self._token_refused(closed, reason or str(code), code, was_useful=was_useful)
            if _now() < self._stable_from:
                self._useful_from = _NEVER  # however much came before: the next one may be as short
            return
        if 4500 <= code < 5000:
            kind = TokenRefused if code == _FORBIDDEN else Disconnected
            raise kind(f"the gateway closed the connection: {reason or code}", close_code=code) from closed
        if code == _TOO_MANY:
            self._useful_from = _NEVER  # even if it went well until then: the next one would end in the same way

    def _token_refused(
        self, error: Exception, why: str, close_code: int | None = None, *, was_useful: bool = False
    ) -> None:
        """Raise TokenRefused if there is no other token to try."""
        if not self._tokens.refused(was_useful=was_useful):
            verb = "refused the token" if self._tokens.is_given else "wants a token"
            raise TokenRefused(f"the gateway at {self.url} {verb}: {why}", close_code=close_code) from error

    async def _run_connection(self, websocket: ClientConnection, welcome: FrameDict, token: str | None) -> None:
        """Run until the connection is lost in any way. Raises Disconnected if there must be no other."""
        self._useful_from = self._stable_from = _now() + SHARED.stable_after_s
        self._websocket = websocket
        self._handler.connected(welcome)
        self._work.set()
        writer = asyncio.create_task(self._write(websocket), name="relay client writer")
        writer.add_done_callback(lambda task: None if task.cancelled() else websocket.transport.abort())
        was_refused = False
        refresher = TokenRefresher(self._tokens, token, partial(_send_token, websocket, "refresh"))
        try:
            await self._read(websocket, refresher)
        except ConnectionClosed as closed:
            was_refused = closed.rcvd is not None and closed.rcvd.code in (_OLD_TOKEN, _BAD_TOKEN)
            self._apply_close_code(closed)
        except (TimeoutError, msgspec.DecodeError):  # silent for too long, told to leave, or not our protocol
            if self._reconnect_at is None:
                websocket.transport.abort()
        finally:
            if _now() >= self._useful_from:
                self._backoff.reset()
                if not was_refused:
                    self._tokens.accepted()
            self._useful_from = self._stable_from = _NEVER
            self._alive_at = _now()
            self._websocket = None
            self._handler.lost()
            try:
                await refresher.aclose()
            finally:
                await _close(websocket, writer)

    async def _read(self, websocket: ClientConnection, refresher: TokenRefresher) -> None:
        async with asyncio.timeout(self._silence_s) as deadline:
            while True:
                frame = decode_frame(await websocket.recv())
                if frame["type"] == "draining":
                    self._reconnect_at = _now() + min(frame["reconnect_in_ms"] / 1000, SHARED.drain_most_s)
                elif frame["type"] == "token_expiring":
                    refresher.expires(frame.get("expires_in_s") or 0)
                elif frame["type"] == "error" and frame.get("id") == "refresh" and frame.get("retryable"):
                    refresher.put_off()
                until = _now() + self._silence_s
                deadline.reschedule(until if self._reconnect_at is None else min(until, self._reconnect_at))
                if "seq" in frame:  # something new; a mere reply might come from a gateway that breaks at once
                    self._useful_from = 0.0
                self._handler.frame(frame)

    async def _write(self, websocket: ClientConnection) -> None:
        while True:
            self._work.clear()
            commands, next_at = self._handler.due(_now())
            for command in commands:
                await websocket.send(command, text=True)
            try:
                async with asyncio.timeout_at(next_at):
                    await self._work.wait()
            except TimeoutError:
                pass  # the next one is due


class _ConnectThere(connect):
    """Follows no redirect: websockets takes the header along to no other origin, but `hello` would go there."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _welcome(websocket: ClientConnection, *, asks: bool) -> FrameDict:
    """`asks`: without a token; a gateway that says nothing may want one, and tells so only when it is greeted."""
    try:
        async with asyncio.timeout(SHARED.ask_after_s if asks else None):
            return await _next_welcome(websocket)
    except TimeoutError:
        await websocket.send(msgspec.json.encode({"type": "hello", "id": "hello"}), text=True)
        return await _next_welcome(websocket)


async def _next_welcome(websocket: ClientConnection) -> FrameDict:
    while (frame := decode_frame(await websocket.recv()))["type"] != "welcome":
        pass
    return frame


async def _send_token(websocket: ClientConnection, kind: str, token: str) -> None:
    await websocket.send(msgspec.json.encode({"type": kind, "id": kind, "token": token}), text=True)


async def _close(websocket: ClientConnection, writer: asyncio.Task[None]) -> None:
    if writer.done() and not writer.cancelled() and not isinstance(writer.exception(), ConnectionClosed):
        writer.result()
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await websocket.close()


def _dialled(url: str) -> str:
    try:
        return websocket_address(url)
    except ValueError as error:
        raise Disconnected(f"{shown(url)} is not an address") from error


def silence_s(heartbeat_s: float) -> float:
    """After this long without a frame a connection is dead: some heartbeats, and a margin for the network."""
    return SHARED.silence_heartbeats * heartbeat_s + min(SHARED.silence_margin_s, heartbeat_s)


def decode_frame(raw: str | bytes) -> FrameDict:
    """A frame as a map. Raises msgspec.DecodeError."""
    frame = _decode(raw)
    if not isinstance(frame.get("type"), str):
        raise msgspec.DecodeError("a frame without a type")
    return frame


_decode = msgspec.json.Decoder(dict).decode


def _now() -> float:
    return asyncio.get_running_loop().time()
