"""Logs: one line per event, with its ids; JSON unless a person is watching. Never a key, a token or a prompt."""

from __future__ import annotations

import logging
import sys

import structlog

Logger = structlog.stdlib.BoundLogger


def configure(level: str) -> None:
    """Send everything to stderr: stdout belongs to answers."""
    human = sys.stderr.isatty()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    # Both may print whole requests at debug level.
    for noisy in ("httpx2", "httpcore2", "openai", "anthropic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get(part: str) -> Logger:
    logger: Logger = structlog.get_logger(part=part)
    return logger


class Trouble:
    """What goes wrong again and again in one place: its first failure is a warning, those after it are for debugging,
    and its end is one line more. An outage would else fill the log twice a second for each session.
    """

    def __init__(self, log: Logger, event: str, **ids: str) -> None:
        self._log = log
        self._event = event
        self._ids = ids
        self._failures = 0

    def failed(self, error: Exception) -> None:
        say = self._log.debug if self._failures else self._log.warning
        say(self._event, detail=str(error), **self._ids)
        self._failures += 1

    def over(self) -> None:
        """It works; says so if it did not before."""
        if self._failures:
            self._log.info("recovered", what=self._event, failures=self._failures, **self._ids)
            self._failures = 0
