"""What the model is given: the turns completed before the claim, and the question."""

from __future__ import annotations

from relay.log.jobs import Job
from relay.log.session_log import SessionLog
from workers.providers.base import Prompt, Turn


async def prompt_for(job: Job, completed: list[str], session_log: SessionLog) -> Prompt:
    """The whole context of a job; `completed` are the transcript's generations as of its claim. Raises StorageError.

    A retry sees what its question saw: nothing from the retried answer on.
    """
    system = [Turn("system", job.system)] if job.system is not None else []
    if job.messages is not None:
        turns = [Turn(turn.role, turn.content) for turn in job.messages]
    else:
        if job.retry_of in completed:
            completed = completed[: completed.index(job.retry_of)]
        past = await session_log.turns(job.session, completed) if completed else []
        turns = [Turn(turn["role"], turn["content"]) for turn in past]
        turns.append(Turn("user", job.content))
    return Prompt(system + turns, job.model, job.max_tokens)
