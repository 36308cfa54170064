"""Builds the parts of this package from settings: the one place for what gateways and workers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from relay.redis.connections import Connections
from relay.redis.pubsub.subscriber import Subscriber
from relay.settings import Settings
from relay.store.keys import Keys
from relay.store.queue.admin import QueueAdmin
from relay.store.queue.backlog import Backlog
from relay.store.queue.enqueue import JobSubmitter
from relay.store.queue.policy import QueuePolicy, encode_policy
from relay.store.queue.queue import Queue
from relay.store.queue.reaper import Reaper
from relay.store.queue.worker_registry import WorkerRegistry
from relay.store.revocations import RevocationStore
from relay.store.session.session_log import SessionLog
from relay.store.ticket_key import TicketKey


class Stores(NamedTuple):
    """The stores of sessions and jobs, and their connections, which the caller closes."""

    redis: Connections
    log: SessionLog
    queue: Queue


def connect(settings: Settings) -> Stores:
    """Opens no connection yet. Raises SettingsError."""
    redis = Connections(settings.redis_url)
    return Stores(redis, session_log(redis, settings), queue(redis, settings))


def session_log(redis: Connections, settings: Settings) -> SessionLog:
    return SessionLog(
        redis.commands,
        redis.append,
        Keys(settings.prefix),
        leases=redis.leases,
        session_ttl_s=settings.session_ttl_s,
        max_generations=settings.max_generations,
        max_requests=settings.max_requests,
    )


def queue(redis: Connections, settings: Settings) -> Queue:
    return Queue(
        redis.commands,
        redis.blocking,
        Keys(settings.prefix),
        max_backlog=settings.max_backlog,
        ttl_s=settings.session_ttl_s,
        trim_after_s=settings.trim_after_s,
    )


def queue_admin(redis: Connections, settings: Settings) -> QueueAdmin:
    log, jobs = session_log(redis, settings), queue(redis, settings)
    submitter = JobSubmitter(log, jobs, redis.commands, look_ms=QueuePolicy.of(settings).look_ms)
    return QueueAdmin(log, jobs, Backlog(redis.commands, Keys(settings.prefix)), submitter)


def worker_registry(redis: Connections, settings: Settings) -> WorkerRegistry:
    return WorkerRegistry(redis.commands, Keys(settings.prefix))


def revocation_store(redis: Connections, settings: Settings) -> RevocationStore:
    return RevocationStore(redis.commands, Keys(settings.prefix))


def ticket_key(redis: Connections, settings: Settings) -> TicketKey:
    return TicketKey(redis.commands, Keys(settings.prefix))


def subscriber(redis: Connections) -> Subscriber:
    return Subscriber(redis.topology)


def reaper(
    log: SessionLog,
    jobs: Queue,
    settings: Settings,
    own_queue: str | None = None,
    runs_here: Callable[[str], bool] = lambda generation: False,
) -> Reaper:
    return Reaper(
        log,
        jobs,
        policy=QueuePolicy.of(settings),
        sentences=settings.localized_messages,
        own_queue=own_queue,
        said=encode_policy(settings) if own_queue is not None else "",
        runs_here=runs_here,
    )
