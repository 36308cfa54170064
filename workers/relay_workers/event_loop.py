"""The event loop of a process that runs a user's generator: nothing that the generator's own tasks do ends the worker.

asyncio lets SystemExit and KeyboardInterrupt from any task or callback out of the loop, and prints the text of every
exception that nobody retrieved. A library that exits would end every answer, and the text may quote a prompt.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from logging import ERROR
from traceback import walk_tb
from typing import Any

from relay import logging, metrics

_DEFAULT_SIGINT_HANDLER = signal.default_int_handler

logger = logging.get_logger("loop")
_escaped = {event: logging.RateLimitedLog(logger, event) for event in ("exit_ignored", "unretrieved")}


def run(main: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, for a `main` that handles SIGINT itself."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(_unretrieved)
        running = loop.create_task(_to_its_end(main), name="main")
        running.add_done_callback(lambda _: loop.stop())
        while not running.done():
            try:
                loop.run_forever()  # after an exception gets out, it keeps what is due and can go on where it was
            except (SystemExit, KeyboardInterrupt) as error:
                if running.done():
                    break
                if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is _DEFAULT_SIGINT_HANDLER:
                    raise  # a Ctrl-C before main handles SIGINT
                _report("exit_ignored", error)
        running.result()


async def _to_its_end(main: Coroutine[Any, Any, None]) -> None:
    """Remaining tasks are ended in here, so that what they raise does not get out either."""
    try:
        await main
    finally:
        remaining = asyncio.all_tasks() - {asyncio.current_task()}
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()


def _unretrieved(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if error is None:
        _escaped["unretrieved"].log(level=ERROR, detail=context["message"])
    else:
        _report("unretrieved", error)


def _report(event: str, error: BaseException) -> None:
    """Log class and place, never the text."""
    places = [f"{frame.f_code.co_filename}:{line}" for frame, line in walk_tb(error.__traceback__)]
    metrics.bugs.labels("loop").inc()
    place = places[-1] if places else "an unknown place"
    _escaped[event].log((type(error), place), level=ERROR, error=type(error).__name__, place=place)
    logger.debug(event, places=places)
