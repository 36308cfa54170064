"""The gateway as one object: what a process holds, how it starts and ends, how it serves one WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.websockets import WebSocket

from relay.auth.claims import LEEWAY_S
from relay.auth.factory import auth_of
from relay.auth.revocations import Revocations
from relay.errors import ClientError
from relay.follow.follower import Follower
from relay.follow.page_cache import PageCache
from relay.gateway import requests
from relay.gateway.authentication import Authentication, ticket_of
from relay.gateway.capabilities import Capabilities
from relay.gateway.codecs import CODECS, JSON, Codec
from relay.gateway.connection import MAX_BYTES_BEFORE_WELCOME, Connection
from relay.gateway.deadlines import reconnect_in_ms
from relay.gateway.follower_pool import FollowerPool
from relay.gateway.pulse import LiveSink, ViewerLimits
from relay.gateway.responses import error_response
from relay.gateway.sinks import AsgiSink, TransportSink
from relay.gateway.submissions import Submissions
from relay.gateway.websocket_protocol import RelayWebSocketProtocol, protocol_of
from relay.protocol import events
from relay.redis.connections import Connections
from relay.settings import Settings
from relay.store import factory
from relay.store.queue.policy import QueuePolicy
from relay.store.requirements import RequirementsMonitor


class Gateway:
    """Everything that a gateway process holds. Made before the loop runs; `running` starts and ends it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.limits = settings.limits
        self.viewer_limits = ViewerLimits(settings.viewer_buffer_bytes, settings.heartbeat_s, settings.stall_s)
        self.redis = Connections(settings.redis_url)
        self.requirements = RequirementsMonitor(self.redis.commands, settings.prefix)
        self.session_log = factory.session_log(self.redis, settings)
        self.queue = factory.queue(self.redis, settings)
        self.revocations = Revocations(
            factory.revocation_store(self.redis, settings), keep_s=settings.token_max_s + 3 * LEEWAY_S
        )
        self.auth = auth_of(settings, factory.ticket_key(self.redis, settings).keys)
        self.authentication = Authentication(self.auth, self.revocations, settings.host, settings.metrics_token)
        self.capabilities = Capabilities(
            factory.worker_registry(self.redis, settings), settings.queues, self.limits, self.authentication.features
        )
        self.followers = FollowerPool(self._follower, self.session_log.own, settings.follower_linger_s)
        self.submissions = Submissions(
            self.capabilities,
            self.session_log,
            self.queue,
            self.redis.commands,
            self.followers,
            look_ms=QueuePolicy.of(settings).look_ms,
            tombstone_ms=int(settings.lost_after_s * 1000),
        )
        self.subscriber = factory.subscriber(self.redis)
        self.page_cache = PageCache(settings.replay_bytes)
        self.reaper = factory.reaper(self.session_log, self.queue, settings)
        self.draining = asyncio.Event()  # set once

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.requirements.check_once()
        if self.auth is not None:
            await self.revocations.sync()  # until they are known, no token is good
        self.subscriber.start()
        reaper = asyncio.create_task(self.reaper.run(), name="reaper")
        watching = asyncio.create_task(self.requirements.watch(), name="fitness")
        tasks = [reaper, watching]
        if self.auth is not None:
            tasks.append(asyncio.create_task(self.revocations.run(), name="revocations"))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.auth is not None:
                await self.auth.aclose()
            await self.followers.aclose()
            await self.subscriber.aclose()
            await self.redis.aclose()

    async def serve(self, websocket: WebSocket) -> None:
        """One WebSocket connection from handshake to close."""
        offered = websocket.scope.get("subprotocols") or []
        codec = next((CODECS[name] for name in offered if name in CODECS), None if offered else JSON)
        if codec is None:
            refusal = ClientError("bad_message", f"The subprotocols on offer are {' and '.join(CODECS)}.")
            await websocket.send_denial_response(error_response(refusal))
            return
        await websocket.accept(subprotocol=codec.subprotocol if offered else None)
        protocol, ticket = protocol_of(websocket.scope), ticket_of(websocket.query_params)
        buffer_bytes = self.viewer_limits.buffer_bytes
        if protocol is not None:
            connection = self._connection(TransportSink(protocol, codec, buffer_bytes), codec, websocket, protocol)
            protocol.on_shutdown = lambda close: connection.drain(reconnect_in_ms(), close)
            await connection.run(websocket.receive, websocket.headers, ticket)
            return
        sink = AsgiSink(websocket.send, codec, buffer_bytes)
        try:
            await self._connection(sink, codec, websocket).run(websocket.receive, websocket.headers, ticket)
        finally:
            await sink.aclose()

    def _connection(
        self, sink: LiveSink, codec: Codec, websocket: WebSocket, protocol: RelayWebSocketProtocol | None = None
    ) -> Connection:
        most = 4 * self.settings.max_command_bytes
        if protocol is not None and self.authentication.is_on:  # a stranger's
            protocol.limit_messages(min(most, 4 * MAX_BYTES_BEFORE_WELCOME))
        return Connection(
            sink,
            codec,
            self.followers,
            self.submissions,
            self.limits,
            self.authentication,
            on_welcome=lambda: protocol.limit_messages(most) if protocol is not None else None,
            language=requests.language(websocket.headers),
            heartbeat_s=self.viewer_limits.heartbeat_s,
            stall_s=self.viewer_limits.stall_s,
        )

    def _follower(self, session: str) -> Follower:
        return Follower(
            session,
            self.session_log,
            self.subscriber,
            self.page_cache,
            window_bytes=self.settings.window_bytes,
            max_frame_bytes=self.settings.max_frame_bytes,
            lost_after_s=self.settings.lost_after_s,
            lost_members=events.failed("storage", self.settings.localized_messages.choose(None), retryable=True),
            orphaned=self.reaper.end_orphan,
        )
