"""A worker process: what it holds, and how it begins and ends."""

from __future__ import annotations

import asyncio

from relay import logging
from relay.log import stores
from relay.log.connect import Connections
from relay.log.fitness import Fitness
from relay.log.offers import Offer
from relay.settings import Settings
from workers.consumer import Consumer
from workers.metrics_port import metrics_port
from workers.providers.base import Provider

log = logging.get("worker")


async def run(settings: Settings, provider: Provider, stopping: asyncio.Event) -> None:
    """Serve one queue until `stopping` is set; closes the provider. Raises SettingsError before it has begun.

    Whether Redis evicts was asked before (fitness.py).
    """
    with metrics_port(settings.metrics_host, settings.metrics_port) as port:
        await _serve(settings, provider, stopping, port)


async def _serve(settings: Settings, provider: Provider, stopping: asyncio.Event, port: int) -> None:
    redis = Connections(settings.redis_url)
    session_log = stores.session_log(redis, settings)
    queue = stores.queue(redis, settings)
    subscriber = stores.subscriber(redis)
    consumer = Consumer(session_log, queue, subscriber, provider, settings.queue, settings)
    fitness = Fitness(redis.commands)
    await fitness.look()
    subscriber.start()
    reaper = asyncio.create_task(stores.reaper(session_log, queue, settings, settings.queue).run(), name="reaper")
    offers, offer = stores.offers(redis, settings), _offer(settings, provider)
    await offers.make_known(offer)
    offering = asyncio.create_task(offers.keep(offer), name="offering")
    watching = asyncio.create_task(fitness.watch(), name="fitness")
    log.info("serving", queue=settings.queue, provider=provider.name, worker=consumer.worker, metrics_port=port)
    try:
        await consumer.run(stopping)
    finally:
        for task in (reaper, offering, watching):
            task.cancel()
        await asyncio.gather(reaper, offering, watching, return_exceptions=True)
        await subscriber.aclose()
        await provider.aclose()
        await redis.aclose()
    log.info("stopped", worker=consumer.worker)


def _offer(settings: Settings, provider: Provider) -> Offer:
    models = [name.strip() for name in settings.models.split(",") if name.strip()]
    return Offer(settings.queue, provider.name, provider.model, models or None)
