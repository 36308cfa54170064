"""What the model is given: the turns completed before the claim, bounded in turns and tokens, and the question."""

from __future__ import annotations

from relay.settings import Settings
from relay.store.jobs import Job
from relay.store.session.snapshots import Snapshots
from relay_workers.providers.base import Prompt, Turn

BYTES_PER_TOKEN = 4  # roughly, of English; a tokenizer per model would cost more than the estimate is off


async def prompt_for(job: Job, completed: list[str], snapshots: Snapshots, settings: Settings) -> Prompt:
    """The whole context of a job; `completed` are those that its claim has named. Raises StorageError."""
    system = [Turn("system", job.system)] if job.system is not None else []
    if job.messages is not None:
        turns = [Turn(turn.role, turn.content) for turn in job.messages]
    else:
        past = await _past(job, completed, snapshots, settings.history_tokens * BYTES_PER_TOKEN)
        turns = [*past, Turn("user", job.content)]
    limit = _max_tokens(job, settings)
    return Prompt(system + turns, job.model, limit, job.session, job.generation, job.metadata)


async def _past(job: Job, completed: list[str], snapshots: Snapshots, room_bytes: int) -> list[Turn]:
    """Whole exchanges, the newest that fit; an older one never stands without those after it."""
    past: list[Turn] = []
    for generation in reversed(completed):
        exchange = await snapshots.turns(job.session, [generation])
        room_bytes -= sum(len(turn["content"].encode()) for turn in exchange)
        if room_bytes < 0:
            break
        past = [*(Turn(turn["role"], turn["content"]) for turn in exchange), *past]
    return past


def _max_tokens(job: Job, settings: Settings) -> int | None:
    wanted = job.max_tokens or settings.max_tokens
    if settings.max_tokens_cap:
        wanted = min(wanted or settings.max_tokens_cap, settings.max_tokens_cap)
    return wanted or None
