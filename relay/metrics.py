"""All metrics, in one place. Label sets are closed: no label ever carries an id or text from a client."""

from __future__ import annotations

import os
import struct
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Set only for the children of `relay gateway --processes N`: where their metrics are, and which child this is.
# The first name is prometheus-client's, and must be set before that is imported.
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
PROCESS_VARIABLE = "RELAY_PROCESS"

if place := os.environ.get(PROCESS_VARIABLE):
    # Files by index, not by pid (its default): a replacement goes on counting where the dead process stopped.
    values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SUM: Literal["livesum"] = "livesum"  # of a gauge: of all living processes behind one port

# Gateway
connections = Gauge("relay_connections", "Open WebSocket connections", multiprocess_mode=_SUM)
event_streams = Gauge("relay_event_streams", "Open Server-Sent Events streams", multiprocess_mode=_SUM)
subscriptions = Gauge("relay_subscriptions", "Sessions followed by clients, counted per client", multiprocess_mode=_SUM)
followers = Gauge("relay_followers", "Sessions that this process follows in Redis", multiprocess_mode=_SUM)
commands = Counter("relay_commands_total", "Commands of clients", ["type"])
errors = Counter("relay_errors_total", "Errors sent to clients", ["code"])
frames = Counter("relay_frames_total", "Frames written to clients", ["kind"])
closes = Counter("relay_closes_total", "Connections closed by the gateway", ["code"])
bad_requests = Counter("relay_bad_requests_total", "Malformed HTTP requests")
submits = Counter("relay_submits_total", "Submits by outcome", ["outcome"])
repairs = Counter("relay_repairs_total", "Times that a follower synced with the log, by cause", ["cause"])
revocations = Counter("relay_revocations_total", "Revocations that this process wrote, or gave back to Redis", ["what"])
revoked_connections = Counter("relay_revoked_connections_total", "Connections and streams told of a revocation")
replay_pages = Counter(
    "relay_replay_pages_total", "Pages of logs for viewers that catch up: read, or shared with others", ["what"]
)
epochs = Counter("relay_epoch_changes_total", "Followed sessions that began a new epoch")
degradations = Counter("relay_degraded_total", "Times that a followed session was degraded")
subscriber_losses = Counter("relay_subscriber_losses_total", "Times that the subscription connection was lost")
auth_refusals = Counter("relay_auth_refusals_total", "Bearer tokens and tickets that were refused", ["kind", "reason"])
key_fetches = Counter("relay_key_fetches_total", "Times that RELAY_AUTH_JWKS_URL was asked, by outcome", ["outcome"])

# Worker
running = Gauge("relay_generations_running", "Generations that this process is making", multiprocess_mode=_SUM)
generations = Counter(
    "relay_generations_total", "Ended generations, counted by the process that wrote the end", ["reason", "code"]
)
claims = Counter("relay_claims_total", "Claims by outcome", ["outcome"])
batches = Counter("relay_batches_total", "Batches appended")
tokens = Counter("relay_tokens_total", "Tokens appended")
lifelines = Counter("relay_lifelines_total", "Leases renewed by the lease thread, as the worker's loop was late")
flush_retries = Counter("relay_flush_retries_total", "Flushes tried again")
flush_failures = Counter("relay_flush_failures_total", "Flushes that failed for good, retries included")
flush_fallbacks = Counter("relay_flush_fallbacks_total", "Batches sent token by token, as they had failed for good")
flush_tokens = Counter("relay_flush_tokens_total", "Single tokens sent by such fallbacks")
spills = Counter("relay_spills_total", "Times that an answer had to wait in its worker for Redis")
spills_restored = Counter("relay_spills_restored_total", "Times that the waiting text was written")
spilled_bytes = Gauge("relay_spilled_bytes", "Text that waits in this process for Redis", multiprocess_mode=_SUM)
resumes_failed = Counter(
    "relay_resumes_failed_total", "Calls of a lost worker that could not be resumed: the answer began again"
)
rebuilds = Counter("relay_rebuilds_total", "Answers that Redis had lost and their worker made again")
abandoned = Counter("relay_generations_abandoned_total", "Generations given up by this worker", ["why"])
first_token_s = Histogram("relay_first_token_seconds", "Claim to first token, of text or reasoning", buckets=_SECONDS)
answer_s = Histogram("relay_answer_seconds", "Claim to end, without stopped answers", buckets=_SECONDS)
stop_s = Histogram("relay_stop_seconds", "Stop written to upstream request closed", buckets=_SECONDS)
tokens_after_stop = Counter(
    "relay_tokens_after_stop_total", "Tokens that came between these two: paid for, never shown"
)
provider_calls = Counter("relay_provider_calls_total", "Calls of providers by outcome", ["provider", "outcome"])
provider_fields_ignored = Counter(
    "relay_provider_fields_ignored_total",
    "Fields of a provider's answers that could not be read, and were left out",
    ["provider", "field"],
)
provider_requests_adapted = Counter(
    "relay_provider_requests_adapted_total",
    "Requests that were sent again, as a provider had refused a part of them",
    ["provider", "parameter"],
)
failovers = Counter(
    "relay_failovers_total",
    "Calls made after another had failed: before the first token, midway (a restart), or again at the same provider",
    ["provider", "moment"],
)
breaker_state = Gauge(
    "relay_breaker_state",
    "Provider as this process sees it: 0 closed, 1 half open, 2 open",
    ["provider"],
    multiprocess_mode="livemax",
)
breaker_opened = Counter("relay_breaker_opened_total", "Times that a provider's breaker opened", ["provider"])

# Everybody
backlog = Gauge(
    "relay_backlog_jobs",
    "Jobs that wait or run, as a reaper saw it last: of all queues, and of a worker's own",
    ["queues"],
    multiprocess_mode="livemostrecent",
)
dead_jobs = Gauge(
    "relay_dead_jobs",
    "Dead letters, as a reaper saw them last: of all queues, and of a worker's own",
    ["queues"],
    multiprocess_mode="livemostrecent",
)
unserved_queues = Gauge(
    "relay_unserved_queues",
    "Queues with jobs and no living worker that serves them, as a reaper saw it last",
    multiprocess_mode="livemostrecent",
)
dead_letters = Counter("relay_dead_letters_total", "Jobs that went to the dead letters", ["reason"])
storage_errors = Counter("relay_storage_errors_total", "Times that Redis did not answer as it should", ["part"])
reaped = Counter("relay_reaped_total", "What reapers did", ["what"])
bugs = Counter("relay_unexpected_errors_total", "Unexpected exceptions", ["part"])


def text() -> bytes:
    """All of them in Prometheus' text format: this process's, or those of all processes behind one port, added up."""
    directory = os.environ.get(DIRECTORY)
    if directory is None:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
    for _ in range(3):
        try:
            return generate_latest(registry)
        except (struct.error, FileNotFoundError):
            pass  # another process is just making its files, or has just died
    return generate_latest(registry)


def forget(directory: str, place: str) -> None:
    """A process has died: remove its gauges, keep its counters."""
    mark_process_dead(place, directory)  # type: ignore[no-untyped-call]
