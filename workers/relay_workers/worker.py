"""A worker process: what it holds, and how it begins and ends."""

from __future__ import annotations

import asyncio
from functools import partial

from relay import logging, metrics
from relay.settings import Settings
from relay.store import factory
from relay.store.queue.worker_registry import Offers
from relay.store.requirements import Fitness
from relay_workers.asking.provider_pool import Lineup
from relay_workers.consumer import Consumer
from relay_workers.lease_thread import Lifeline
from relay_workers.limits import consumer_limits
from relay_workers.metrics_port import metrics_port
from relay_workers.queue_heartbeat import Serving

LOOK_S = 1.0  # at the breakers, whose state gateways tell

log = logging.get("worker")


async def run(
    settings: Settings,
    lineup: Lineup,
    stopping: asyncio.Event,
    at_once: asyncio.Event | None = None,
    serving: asyncio.Event | None = None,
) -> None:
    """Serve one queue until `stopping` is set; closes the providers. Raises SettingsError before it has begun.

    `at_once`: what still runs is not to be finished, but handed over. `serving` is set once jobs are taken.

    Whether Redis evicts was asked before (requirements.py).
    """
    with metrics_port(settings.metrics_host, settings.metrics_port) as port:
        await _serve(settings, lineup, stopping, at_once or asyncio.Event(), serving or asyncio.Event(), port)


async def _serve(
    settings: Settings,
    lineup: Lineup,
    stopping: asyncio.Event,
    at_once: asyncio.Event,
    serving: asyncio.Event,
    port: int,
) -> None:
    redis, session_log, queue = factory.connect(settings)
    subscriber = factory.subscriber(redis)
    lifeline = Lifeline(settings.lease_s, partial(factory.connect, settings))
    limits = consumer_limits(settings)
    consumer = Consumer(session_log, queue, subscriber, lineup, settings.queue, limits, lifeline)
    fitness = Fitness(redis.commands, settings.prefix)
    await fitness.look()
    subscriber.start()
    presence = lifeline.serving = Serving(queue, settings.queue, stopping)
    await presence.say()
    await lifeline.start()
    offers = factory.offers(redis, settings)
    await offers.make_known(lineup.offers(settings.queue, consumer.worker))
    helpers = [
        asyncio.create_task(
            factory.reaper(session_log, queue, settings, settings.queue, consumer.runs).run(), name="reaper"
        ),
        asyncio.create_task(_keep_offering(offers, lineup, settings.queue, consumer.worker, stopping), name="offering"),
        asyncio.create_task(presence.keep(), name="presence"),
        asyncio.create_task(fitness.watch(), name="fitness"),
        asyncio.create_task(lineup.check(), name="check"),
    ]
    log.info("serving", queue=settings.queue, providers=lineup.names, worker=consumer.worker, metrics_port=port)
    serving.set()
    try:
        await consumer.run(stopping, at_once)
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await lifeline.aclose()
        await offers.make_known([])
        await subscriber.aclose()
        await lineup.aclose()
        await redis.aclose()
    log.info("stopped", worker=consumer.worker)


async def _keep_offering(offers: Offers, lineup: Lineup, queue: str, worker: str, stopping: asyncio.Event) -> None:
    """Until cancelled. A worker that is to go offers nothing more."""
    bug = logging.Trouble(log, "offering_failed")
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            lineup.measure()
            await offers.make_known([] if stopping.is_set() else lineup.offers(queue, worker))
            bug.over()
        except Exception as error:  # gateways would soon refuse what only this worker can make
            metrics.bugs.labels("worker").inc()
            bug.broke(error)
