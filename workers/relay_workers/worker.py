"""A worker process: what it holds, and how it begins and ends."""

from __future__ import annotations

import asyncio
from functools import partial

from relay import logging, metrics
from relay.settings import Settings
from relay.store import factory
from relay.store.queue.worker_registry import WorkerRegistry
from relay.store.requirements import RequirementsMonitor
from relay_workers.asking.provider_pool import ProviderPool
from relay_workers.consumer import Consumer
from relay_workers.lease_thread import LeaseThread
from relay_workers.limits import consumer_limits
from relay_workers.metrics_port import metrics_port
from relay_workers.queue_heartbeat import QueueHeartbeat

PUBLISH_EVERY_S = 1.0  # offers, with the state of the breakers, which gateways report

logger = logging.get_logger("worker")


async def run(
    settings: Settings,
    providers: ProviderPool,
    stopping: asyncio.Event,
    at_once: asyncio.Event | None = None,
    started: asyncio.Event | None = None,
) -> None:
    """Serve one queue until `stopping` is set; closes the providers. Raises SettingsError before it has begun.

    `at_once`: hand over what still runs instead of finishing it. `started` is set once jobs are taken.

    The caller has already checked whether Redis evicts (requirements.py).
    """
    with metrics_port(settings.metrics_host, settings.metrics_port) as port:
        await _serve(settings, providers, stopping, at_once or asyncio.Event(), started or asyncio.Event(), port)


async def _serve(
    settings: Settings,
    providers: ProviderPool,
    stopping: asyncio.Event,
    at_once: asyncio.Event,
    serving: asyncio.Event,
    port: int,
) -> None:
    redis, session_log, queue = factory.connect(settings)
    subscriber = factory.subscriber(redis)
    lease_thread = LeaseThread(settings.lease_s, partial(factory.connect, settings))
    limits = consumer_limits(settings)
    consumer = Consumer(session_log, queue, subscriber, providers, settings.queue, limits, lease_thread)
    fitness = RequirementsMonitor(redis.commands, settings.prefix)
    await fitness.check_once()
    subscriber.start()
    heartbeat = lease_thread.queue_heartbeat = QueueHeartbeat(queue, settings.queue, stopping)
    await heartbeat.send()
    await lease_thread.start()
    offers = factory.worker_registry(redis, settings)
    await offers.try_publish(providers.offers(settings.queue, consumer.worker))
    helpers = [
        asyncio.create_task(
            factory.reaper(session_log, queue, settings, settings.queue, consumer.is_running).run(), name="reaper"
        ),
        asyncio.create_task(
            _publish_offers(offers, providers, settings.queue, consumer.worker, stopping), name="offering"
        ),
        asyncio.create_task(heartbeat.keep(), name="presence"),
        asyncio.create_task(fitness.watch(), name="fitness"),
        asyncio.create_task(providers.check(), name="check"),
    ]
    logger.info("serving", queue=settings.queue, providers=providers.names, worker=consumer.worker, metrics_port=port)
    serving.set()
    try:
        await consumer.run(stopping, at_once)
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await lease_thread.aclose()
        await offers.try_publish([])
        await subscriber.aclose()
        await providers.aclose()
        await redis.aclose()
    logger.info("stopped", worker=consumer.worker)


async def _publish_offers(
    offers: WorkerRegistry, providers: ProviderPool, queue: str, worker: str, stopping: asyncio.Event
) -> None:
    """Publish until cancelled. A draining worker offers nothing."""
    bug = logging.FailureLog(logger, "offering_failed")
    while True:
        await asyncio.sleep(PUBLISH_EVERY_S)
        try:
            providers.update_gauges()
            await offers.try_publish([] if stopping.is_set() else providers.offers(queue, worker))
            bug.succeeded()
        except Exception as error:  # without offers, gateways would soon refuse what only this worker can make
            metrics.bugs.labels("worker").inc()
            bug.unexpected(error)
