"""What the model is given: the turns completed before the claim, bounded in turns and tokens, and the question."""

from __future__ import annotations

from dataclasses import dataclass

from relay.store.jobs import Job
from relay.store.session.snapshots import Snapshots
from relay_workers.providers.base import Prompt, Turn

BYTES_PER_TOKEN = 4  # roughly, for English; a tokenizer per model would cost more than this error


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """`history_tokens`: of past turns. `max_tokens`: of an answer whose job names none; 0: the provider's default.

    `max_tokens_cap`: the most that an answer may have; 0: no cap.
    """

    history_tokens: int
    max_tokens: int
    max_tokens_cap: int


async def prompt_for(job: Job, completed: list[str], snapshots: Snapshots, limits: HistoryLimits) -> Prompt:
    """The whole context of a job. `completed`: the generations that its claim named. Raises StorageError."""
    system = [Turn("system", job.system)] if job.system is not None else []
    if job.messages is not None:
        turns = [Turn(turn.role, turn.content) for turn in job.messages]
    else:
        past = await _past(job, completed, snapshots, limits.history_tokens * BYTES_PER_TOKEN)
        turns = [*past, Turn("user", job.content)]
    max_tokens = _max_tokens(job, limits)
    return Prompt(system + turns, job.model, max_tokens, job.session, job.generation, job.metadata, job.options)


async def _past(job: Job, completed: list[str], snapshots: Snapshots, room_bytes: int) -> list[Turn]:
    """The newest whole exchanges that fit, without a gap between them."""
    past: list[Turn] = []
    for generation in reversed(completed):
        exchange = await snapshots.turns(job.session, [generation])
        room_bytes -= sum(len(turn["content"].encode()) for turn in exchange)
        if room_bytes < 0:
            break
        past = [*(Turn(turn["role"], turn["content"]) for turn in exchange), *past]
    return past


def _max_tokens(job: Job, limits: HistoryLimits) -> int | None:
    wanted = job.max_tokens or limits.max_tokens
    if limits.max_tokens_cap:
        wanted = min(wanted or limits.max_tokens_cap, limits.max_tokens_cap)
    return wanted or None
