"""A worker process: what it holds, and how it begins and ends."""

from __future__ import annotations

import asyncio

from relay import logging
from relay.errors import RelayError
from relay.log import stores
from relay.log.connect import Connections, check
from relay.log.subscription import Subscriber
from relay.settings import Settings
from workers.consumer import Consumer
from workers.providers.base import Provider

log = logging.get("worker")


async def run(settings: Settings, provider: Provider, stopping: asyncio.Event) -> None:
    """Serve one queue until `stopping` is set; closes the provider. Raises SettingsError before it has begun."""
    redis = Connections(settings.redis_url)
    session_log = stores.session_log(redis, settings)
    queue = stores.queue(redis, settings)
    subscriber = Subscriber(settings.redis_url)
    consumer = Consumer(session_log, queue, subscriber, provider, settings.queue, settings)
    try:
        await check(redis.commands)
    except RelayError as error:
        log.error("not_ready", detail=str(error))
    subscriber.start()
    reaper = asyncio.create_task(stores.reaper(session_log, queue, settings, settings.queue).run(), name="reaper")
    log.info("serving", queue=settings.queue, provider=provider.name, worker=consumer.worker)
    try:
        await consumer.run(stopping)
    finally:
        reaper.cancel()
        await asyncio.gather(reaper, return_exceptions=True)
        await subscriber.aclose()
        await provider.aclose()
        await redis.aclose()
    log.info("stopped", worker=consumer.worker)
