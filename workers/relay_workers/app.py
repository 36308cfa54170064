"""Your own model: what `relay-worker --app mypackage.chat:generate` calls, and what it may yield.

    from collections.abc import AsyncGenerator
    from relay_workers.app import Data, Job, Reasoning

    async def generate(job: Job) -> AsyncGenerator[str | Reasoning | Data]:
        yield Reasoning("Looking it up")
        yield Data("citation", {"url": "https://example.org"})
        yield f"You asked: {job.content}"

It is called once per answer, with the job, and is an async generator function (or a callable that returns an async
iterator). It yields, in the order in which they are to be shown:

    str, Text   a piece of the answer
    Reasoning   a piece of the model's reasoning
    Data        something to show at this point of the text: a name of 1 to 128 characters and any JSON value
    Finished    optional, at the very end: how the model finished, its name, its usage. Without it: finish "stop"

The answer is complete when the generator returns. It fails when the generator raises: `ProviderError` says how (its
code and `retryable` reach the client, its text goes to the log). For any other exception the log gets its class, file
and line, never its text, which may quote a prompt. When somebody stops the answer, the generator is cancelled where it
awaits: `try … finally` and `async with` clean up as usual. Nothing is kept between two calls, and many run at a time
on one event loop: put blocking code into `asyncio.to_thread`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from relay.protocol.options import Options
from relay_workers.providers.base import Data, Finished, Part, Prompt, ProviderError, Reasoning, Text, Turn
from relay_workers.providers.turns import without_blank

__all__ = ["Data", "Finished", "Job", "Options", "Part", "ProviderError", "Reasoning", "Text", "Turn"]


class Job(msgspec.Struct, frozen=True):
    """One question and its whole context.

    `messages`: turns with `role` (system, user or assistant) and `content`, oldest first, the last one a user's.
    `model`, `max_tokens` and each of `options` (`temperature`, `top_p`, `stop`, `seed`, `effort`): from the submit or
    the settings, otherwise None. `metadata`: from the submit.
    """

    session: str
    generation: str
    messages: list[Turn]
    model: str | None = None
    max_tokens: int | None = None
    metadata: dict[str, Any] = {}
    options: Options = Options()

    @property
    def content(self) -> str:
        """The last user turn: the question."""
        return next((turn.content for turn in reversed(self.messages) if turn.role == "user"), "")

    @classmethod
    def of(cls, prompt: Prompt, model: str | None) -> Job:
        """The job for a prompt; `model` is used where the prompt names none."""
        return cls(
            prompt.session,
            prompt.generation,
            without_blank(prompt.turns),
            prompt.model or model,
            prompt.max_tokens,
            prompt.metadata or {},
            prompt.options or Options(),
        )
