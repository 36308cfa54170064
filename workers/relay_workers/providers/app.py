"""A user's generator as a provider: `--app module:function`. app.py, two folders up, documents what it may do."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from types import TracebackType
from typing import Any, get_args

import msgspec

from relay import logging, timeouts
from relay.protocol.words import Finish
from relay_workers.app import Job
from relay_workers.providers import app_loading
from relay_workers.providers.app_reading import GeneratorReader
from relay_workers.providers.base import (
    Data,
    Finished,
    Part,
    Prompt,
    ProviderError,
    ProviderErrorCode,
    Reasoning,
    Text,
    checked_data,
    checked_model,
    checked_usage,
)

CLOSE_S = 5.0  # how long an answer waits for its generator to clean up

logger = logging.get_logger("app")


class AppProvider:
    """Calls the function that `spec` names once per answer. Raises SettingsError that names `--app` if it cannot."""

    name = "app"
    first_token_s: float | None = None

    def __init__(self, spec: str, model: str = "") -> None:
        loaded = app_loading.load(spec)
        self._call: Callable[[Job], Any] = loaded.function
        self._home = loaded.home
        self.model = model or "app"
        self._asked_for = model or None
        self._tasks: set[asyncio.Task[None]] = set()

    async def check(self) -> None:
        """Nothing to reach: it is loaded."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """The answer, part by part; see Provider. Closing this closes the user's generator."""
        finished = Finished("stop")
        theirs = self._begin(Job.of(prompt, self._asked_for))
        reading = GeneratorReader[Part](lambda: self._next(theirs), lambda: self._close(theirs), self._tasks)
        try:
            while (part := await reading.next()) is not None:
                if isinstance(part, Finished):
                    finished = part
                    break
                yield part
        finally:
            if not await reading.stop(2 * CLOSE_S):
                logger.error("not_stopped", detail="the generator heeds no cancellation and goes on for nobody")
        model = checked_model(finished.model, prompt.model or self.model)
        yield Finished(finished.finish, model, finished.usage)

    async def aclose(self) -> None:
        """Cancel once more the generators that ignored it."""
        for task in self._tasks:
            task.cancel()

    def _begin(self, job: Job) -> AsyncIterator[Any]:
        try:
            theirs = self._call(job)
            if inspect.iscoroutine(theirs):
                theirs.close()  # otherwise Python warns that it was never awaited
            if not isinstance(theirs, AsyncIterable):
                raise _unfit(f"--app: the call gave {_typed(theirs)}, which is no async iterator")
            return aiter(theirs)
        except BaseException as error:  # also the SystemExit of a library, which would end the worker
            raise self._failed(error) from None

    async def _next(self, theirs: AsyncIterator[Any]) -> Part | None:
        """Their next part, None after the last. Their failures become ProviderErrors."""
        try:
            part = _part(await anext(theirs))  # inside the try: even isinstance may call their code
        except StopAsyncIteration:
            _raise_if_cancelled()
            return None
        except BaseException as error:
            # SystemExit would end the worker. And a cancellation of one of their tasks does not cancel the answer: a
            # task that ends with one counts as no failure, and its answer would never end.
            _raise_if_cancelled()
            raise self._failed(error) from None
        _raise_if_cancelled()
        return part

    async def _close(self, theirs: AsyncIterator[Any]) -> None:
        """A failure in here does not harm the answer: it is complete, or failed already, or stopped."""
        try:
            close = getattr(theirs, "aclose", None)  # not every iterator has one
            if close is None:
                return
            async with timeouts.timeout(CLOSE_S):
                await close()
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                _raise_if_cancelled()
            logger.warning("not_closed", detail=str(self._failed(error)))

    def _failed(self, error: BaseException) -> ProviderError:
        """The error for the log: class and place, never the text, which may quote a prompt."""
        if isinstance(error, ProviderError):
            try:
                return _sanitized(error)
            except BaseException:  # its class may be theirs, and fail as well
                pass
        place = _place(error.__traceback__, self._home)
        return ProviderError("provider_error", f"{type(error).__name__} at {place}", retryable=True)


def _raise_if_cancelled() -> None:
    """A generator may catch the cancellation of the whole answer, by a stop or a deadline; then half of it would pass
    for all of it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _sanitized(error: ProviderError) -> ProviderError:
    """A copy that the wire, the breaker and the metrics accept: Python does not check what was put into it."""
    code, status, wait_s = (getattr(error, name, None) for name in ("code", "status", "retry_after_s"))
    is_wait = isinstance(wait_s, int | float) and 0 <= wait_s < math.inf
    return ProviderError(
        next((known for known in get_args(ProviderErrorCode) if known == code), "provider_error"),
        str(error),
        retryable=bool(getattr(error, "retryable", True)),
        status=status if type(status) is int else None,
        retry_after_s=wait_s if is_wait else None,
        misconfigured=bool(getattr(error, "misconfigured", False)),
    )


def _part(yielded: object) -> Part:
    if isinstance(yielded, str):
        return Text(str.__str__(yielded))  # LangChain's chunks have texts of a class of their own
    if isinstance(yielded, Data):
        return checked_data(yielded.name, yielded.value)
    if isinstance(yielded, Text | Reasoning):
        if not isinstance(yielded.text, str):
            raise _unfit(f"--app: a {type(yielded).__name__} was yielded whose text is {_typed(yielded.text)}")
        return yielded
    if isinstance(yielded, Finished):
        return _finished(yielded)
    raise _unfit(f"--app: {_typed(yielded)} was yielded; str, Reasoning, Data and Finished may be")


def _finished(yielded: Finished) -> Finished:
    """A copy that the wire accepts: Python does not check what was put into it."""
    try:
        finished = msgspec.convert(msgspec.to_builtins(yielded), Finished)
        return msgspec.structs.replace(finished, usage=checked_usage(finished.usage))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        words = ", ".join(get_args(Finish))
        raise _unfit(f"--app: a Finished was yielded with no finish of {words}, or an odd model or usage") from None


def _typed(value: object) -> str:
    """Worded so that the type's name needs no article: a or an depends on how it is pronounced."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _unfit(detail: str) -> ProviderError:
    return ProviderError("provider_error", detail, retryable=False)


def _place(traceback: TracebackType | None, home: str) -> str:
    """file:line of the innermost frame in their own code; if there is none, of the innermost frame."""
    innermost, own = "an unknown place", ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        innermost = f"{file}:{traceback.tb_lineno}"
        if file == home or (home.endswith(os.sep) and file.startswith(home)):
            own = innermost
        traceback = traceback.tb_next
    return own or innermost
