"""A job as this worker has claimed it: the question, and the right to answer it."""

from __future__ import annotations

from typing import NamedTuple

from relay.store.jobs import Job
from relay.store.session.replies import Claim


class Claimed(NamedTuple):
    """`worker`: the name that claimed it. Each write and each renewal makes the lease last `lease_ms` from then on."""

    job: Job
    claim: Claim
    worker: str
    lease_ms: int

    @property
    def session(self) -> str:
        return self.job.session

    @property
    def generation(self) -> str:
        return self.job.generation
