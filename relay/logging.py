"""Logs: one line per event, with its ids; JSON unless a person is watching. Never a key, a token or a prompt."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from io import TextIOBase
from typing import TextIO, cast

import structlog

Logger = structlog.stdlib.BoundLogger

SETTLED_S = 5.0


def configure(level: str) -> None:
    """Send everything to stderr: stdout belongs to answers."""
    human, stderr = sys.stderr.isatty(), cast(TextIO, _WhoeverReads(sys.stderr))
    common: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        processors=[*common, *rendering],
        logger_factory=structlog.PrintLoggerFactory(stderr),
        cache_logger_on_first_use=True,
    )
    # What libraries say (uvicorn, asyncio, websockets) looks like ours; their logger's name is the part.
    libraries = logging.StreamHandler(stderr)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, _name_part],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[libraries])
    # Both may print whole requests at debug level.
    for noisy in ("httpx2", "httpcore2", "openai", "anthropic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get(part: str) -> Logger:
    logger: Logger = structlog.get_logger(part=part)
    return logger


def _name_part(logger: object, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    line["part"] = line["_record"].name
    return line


class _WhoeverReads(TextIOBase):
    """A file whose reader may go, such as a terminal, or whose disk may be full: that costs lines, and no answer."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        try:
            self._file.write(text)
        except OSError:
            pass  # nobody is left to be told
        return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError:
            pass


class Trouble:
    """What goes wrong again and again in one place: its first failure is a warning, those after it are for debugging,
    and its end is one line more. An outage would otherwise fill the log twice a second for each session.

    `settled_s`: where many try side by side, one that succeeds says nothing about the others. Then it is over when
    nothing has failed for that long, and a failure after such a pause is a new trouble.
    """

    def __init__(
        self,
        log: Logger,
        event: str,
        *,
        settled_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        **ids: str,
    ) -> None:
        self._log = log
        self._event = event
        self._settled_s = settled_s
        self._clock = clock
        self._ids = ids
        self._failures = 0
        self._failed_at = 0.0

    def failed(self, error: Exception | str, /, level: int = logging.WARNING, **more: object) -> None:
        """`level`: of the first failure. `more`: what else to say of this one."""
        is_first = not self._failures or (self._settled_s > 0 and self._is_settled())
        self._log.log(level if is_first else logging.DEBUG, self._event, detail=str(error), **self._ids, **more)
        self._failures += 1
        self._failed_at = self._clock()

    def broke(self, error: Exception, /, **more: object) -> None:
        """The same for a bug of the relay: an error, with a traceback."""
        self.failed(error, logging.ERROR, exc_info=error, **more)

    def over(self) -> None:
        """It works; says so if it did not before."""
        if self._failures and self._is_settled():
            self._log.info("recovered", what=self._event, failures=self._failures, **self._ids)
            self._failures = 0

    def _is_settled(self) -> bool:
        return self._clock() - self._failed_at >= self._settled_s
