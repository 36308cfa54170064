"""`relay-worker --check`: asks each provider for one short answer, and says what came of it. Needs no Redis."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import NamedTuple

from relay import timeouts
from relay_workers.asking.provider_pool import ProviderPool, ProviderSlot
from relay_workers.generation import GenerationLimits
from relay_workers.providers.base import (
    Data,
    Finished,
    Part,
    Prompt,
    ProviderError,
    Reasoning,
    Resumable,
    ResumeHandle,
    Text,
    TextComplete,
    Turn,
)
from relay_workers.providers.endpoint import Remote

QUESTION = "Answer with the word yes."
MAX_TOKENS = 16  # the least that every API takes


@dataclass(slots=True)
class Found:
    """What one call brought. Times are in seconds since it began."""

    texts: int = 0
    characters: int = 0
    reasonings: int = 0
    data: int = 0
    first_event_s: float | None = None
    first_token_s: float | None = None
    handle: str | None = None
    finished: Finished | None = None
    failure: ProviderError | None = None


class Report(NamedTuple):
    """What to print about one provider: several lines, with no key and nothing of its answer."""

    provider: str
    works: bool
    text: str


async def reports(limits: GenerationLimits, providers: ProviderPool) -> AsyncGenerator[Report, None]:
    """One for each provider, in their order. Closes the providers."""
    try:
        for slot in providers.slots:
            unreachable = await _unreachable(slot)
            found = await _ask(slot, limits)
            works = found.failure is None
            title = f"{slot.name}: {'works' if works else 'does not work'}"
            yield Report(slot.name, works, "\n".join([title, *_aligned(_lines(slot, unreachable, found))]))
    finally:
        await providers.aclose()


async def _unreachable(slot: ProviderSlot) -> ProviderError | None:
    try:
        await slot.provider.check()
    except ProviderError as error:
        return error
    return None


async def _ask(slot: ProviderSlot, limits: GenerationLimits) -> Found:
    found = Found()
    prompt = Prompt([Turn("user", QUESTION)], max_tokens=MAX_TOKENS, session="check", generation="check")
    try:
        async with timeouts.timeout(limits.answer_timeout_s):
            await _read(slot, prompt, limits, found)
    except TimeoutError:
        found.failure = ProviderError("provider_timeout", "no whole answer in time", retryable=True)
    except ProviderError as error:
        found.failure = error
    finally:
        await _stop(slot, found)
    if found.failure is not None and isinstance(slot.provider, Remote):
        slot.provider.endpoint.explain(found.failure)
    return found


async def _stop(slot: ProviderSlot, found: Found) -> None:
    """An answer that would go on at its provider is not left there."""
    if found.finished is None and found.handle is not None and isinstance(slot.provider, Resumable):
        with suppress(ProviderError):  # it has failed already, and says why
            await slot.provider.cancel(found.handle)


async def _read(slot: ProviderSlot, prompt: Prompt, limits: GenerationLimits, found: Found) -> None:
    """By the deadlines of a real answer. Raises ProviderError; TimeoutError by its caller's deadline."""
    own_s = slot.provider.first_token_s
    began_s = time.monotonic()
    is_late = False
    async with aclosing(slot.provider.stream(slot.prompt(prompt))) as parts:
        try:
            async with timeouts.timeout(limits.call.first_token_timeout_s if own_s is None else own_s) as deadline:
                async for part in parts:
                    _note(found, part, time.monotonic() - began_s)
                    if isinstance(part, Finished):
                        return
                    if isinstance(part, TextComplete):
                        deadline.stop()
                    elif not isinstance(part, ResumeHandle):
                        deadline.start(limits.call.token_timeout_s)
        except TimeoutError:
            is_late = True
    if is_late:
        raise ProviderError("provider_timeout", "no token in time", retryable=True)
    raise ProviderError("truncated", "the stream ended without a finish", retryable=True)


def _note(found: Found, part: Part, after_s: float) -> None:
    if found.first_event_s is None:
        found.first_event_s = after_s
    match part:
        case Text(text=text):
            found.texts += bool(text)
            found.characters += len(text)
            if text and found.first_token_s is None:
                found.first_token_s = after_s
        case Reasoning():
            found.reasonings += 1
        case Data():
            found.data += 1
        case ResumeHandle(handle=handle):
            found.handle = handle
        case Finished():
            found.finished = part
        case TextComplete():
            pass


def _lines(slot: ProviderSlot, unreachable: ProviderError | None, found: Found) -> Iterator[tuple[str, str]]:
    provider = slot.provider
    if isinstance(provider, Remote):
        yield "base URL", provider.endpoint.address
    yield "reachable", "yes" if unreachable is None else f"no: {unreachable}"
    yield "asked for", f"model {provider.model}"
    if found.finished is not None:
        yield "answered", f"model {found.finished.model or provider.model}"
        usage = found.finished.usage
        said = f"{usage['input_tokens']} tokens in, {usage['output_tokens']} out" if usage else "none"
        yield "usage", said
        yield "finish", found.finished.finish
    if found.failure is None or found.first_event_s is not None:
        yield "streams", _streaming(slot, found)
        yield "text", f"{found.characters} characters"
        yield "reasoning", f"yes, {found.reasonings} parts" if found.reasonings else "no"
        yield "first event", _seconds(found.first_event_s)
        yield "first token", _seconds(found.first_token_s)
    if found.failure is not None:
        yield from _failure_lines(found.failure, unreachable)


def _failure_lines(failure: ProviderError, unreachable: ProviderError | None) -> Iterator[tuple[str, str]]:
    again = "may pass" if failure.retryable else "will not pass by itself"
    yield "failure", f"{failure.code}, which {again}"
    yield "detail", str(failure)
    for name, said in failure.log_fields.items():
        if said is not None and name not in ("code", "hint"):
            yield name.replace("_", " "), str(said)
    if hint := failure.hint or (unreachable and unreachable.hint):
        yield "hint", hint


def _streaming(slot: ProviderSlot, found: Found) -> str:
    parts = found.texts + found.reasonings
    if slot.name == "agent":
        return "no, an agent answers whole"
    return f"yes, {parts} parts" if parts > 1 else "not to be seen: it came as one part" if parts else "nothing came"


def _seconds(after_s: float | None) -> str:
    return "none" if after_s is None else f"{after_s:.3f} s"


def _aligned(lines: Iterator[tuple[str, str]]) -> Iterator[str]:
    for name, said in lines:
        yield f"  {name:<13} {' '.join(said.split())}"
