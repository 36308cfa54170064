"""What the model is given: the turns completed before the claim, and the question."""

from __future__ import annotations

from relay.log.jobs import Job
from relay.log.session_log import SessionLog
from workers.providers.base import Prompt, Turn


async def prompt_for(job: Job, completed: list[str], session_log: SessionLog) -> Prompt:
    """The whole context of a job; `completed` are the transcript's generations as of its claim. Raises StorageError.

    A retry sees what its question saw: nothing from that question on.
    """
    system = [Turn("system", job.system)] if job.system is not None else []
    if job.messages is not None:
        turns = [Turn(turn.role, turn.content) for turn in job.messages]
    else:
        past = await session_log.turns(job.session, completed) if completed else []
        answered = [number for number, turn in enumerate(past) if turn["message_id"] == job.message_id]
        turns = [Turn(turn["role"], turn["content"]) for turn in (past[: answered[0]] if answered else past)]
        turns.append(Turn("user", job.content))
    return Prompt(system + turns, job.model, job.max_tokens)
