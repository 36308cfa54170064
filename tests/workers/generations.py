"""One generation, as a worker with these settings makes it."""

from __future__ import annotations

from relay.settings import Settings
from relay.store.jobs import Job
from relay.store.queue.queue import Queue
from relay.store.session.replies import Claim
from relay.store.session.session_log import SessionLog
from relay_workers.asking.provider_pool import ProviderPool
from relay_workers.generation import Generation
from relay_workers.limits import generation_limits
from relay_workers.writing.claimed import Claimed
from tests.store.in_memory import job_of


def generation_of(
    claim: Claim,
    worker: str,
    lineup: ProviderPool,
    log: SessionLog,
    queue: Queue,
    settings: Settings,
    job: Job | None = None,
) -> Generation:
    claimed = Claimed(job or job_of(), claim, worker, int(settings.lease_s * 1000))
    return Generation(claimed, lineup, log, queue, generation_limits(settings))
