"""Logs: one line per event, with its ids; JSON unless a person is watching. Never a key, a token or a prompt."""

from __future__ import annotations

import errno
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable
from io import TextIOBase
from traceback import walk_tb
from types import TracebackType
from typing import Any, TextIO, cast

import structlog

Logger = structlog.stdlib.BoundLogger

SETTLED_S = 5.0
EVERY_S = 60.0  # between two lines of a kind that anybody can cause repeatedly
_LOGGED_BY_US = {("uvicorn.error", "Invalid HTTP request received.")}  # by http_protocol.py, with what was wrong


def configure(level: str) -> None:
    """Send everything to stderr: stdout belongs to answers."""
    human, stderr = sys.stderr.isatty(), cast(TextIO, _LossyStream(sys.stderr))
    least = getattr(logging, level.upper())
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
        wrapper_class=structlog.make_filtering_bound_logger(least),
        processors=[*common, *rendering],
        logger_factory=structlog.WriteLoggerFactory(stderr),  # a line in one write: threads log, too
        cache_logger_on_first_use=True,
    )
    _route_library_logs(rendering=rendering, common=common, least=max(least, logging.WARNING), stderr=stderr)
    _install_exception_hooks()


def _route_library_logs(
    *, rendering: list[structlog.typing.Processor], common: list[structlog.typing.Processor], least: int, stderr: TextIO
) -> None:
    """Logs of libraries (uvicorn, asyncio, websockets) look like ours; their logger's name is the part.

    The handler has the level, too: a library with its own level (OPENAI_LOG=debug) may log whole requests.
    """
    libraries = _LibraryHandler(stderr)
    libraries.setLevel(least)
    libraries.addFilter(_RateLimitPerSite())
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, _name_part],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(level=least, handlers=[libraries], force=True)
    logging.captureWarnings(True)


def _install_exception_hooks() -> None:
    """Log what would end a thread or the process, except a Ctrl-C."""

    def uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt | SystemExit):
            sys.__excepthook__(kind, error or kind(), trace)
        else:
            get_logger("process").error("uncaught", exc_info=(kind, error, trace))

    sys.excepthook = uncaught
    threading.excepthook = lambda args: (
        None if args.exc_type is SystemExit else uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    )
    sys.unraisablehook = lambda args: uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def get_logger(part: str) -> Logger:
    logger: Logger = structlog.get_logger(part=part)
    return logger


def _name_part(logger: object, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    record = line["_record"]
    line["part"] = record.name
    if unlogged := getattr(record, "unlogged", 0):
        line["unlogged"] = unlogged
    return line


class _LossyStream(TextIOBase):
    """A file whose reader may leave, such as a terminal, or whose disk may be full: then lines are lost, no answer."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        try:
            self._file.write(text)
        except OSError as error:
            self._failed(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        """Nobody reads any more. Text still in the file's buffer would turn a normal exit into exit code 120."""
        if error.errno in (errno.EIO, errno.EPIPE):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno())
            os.close(nowhere)


class FailureLog:
    """For repeated failures of one kind: the first is a warning, later ones are logged at debug level, and the end is
    one more line. Otherwise an outage would fill the log twice a second for each session.

    `settled_s`: if many try at the same time, one success says nothing about the others. Then the trouble is over when
    nothing has failed for that long, and a failure after such a pause is a new one.
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
        self._logger = log
        self._event = event
        self._settled_s = settled_s
        self._clock = clock
        self._ids = ids
        self._failures = 0
        self._failed_at = 0.0

    def failed(self, error: Exception | str, /, level: int = logging.WARNING, **more: object) -> None:
        """`level`: of the first failure. `more`: further fields of this one."""
        is_first = not self._failures or (self._settled_s > 0 and self._is_settled())
        self._logger.log(level if is_first else logging.DEBUG, self._event, detail=str(error), **self._ids, **more)
        self._failures += 1
        self._failed_at = self._clock()

    def unexpected(self, error: Exception, /, **more: object) -> None:
        """The same for a bug of the relay: an error, with a traceback."""
        self.failed(error, logging.ERROR, exc_info=error, **more)

    def succeeded(self) -> None:
        """It works; says so if it did not before."""
        if self._failures and self._is_settled():
            self._logger.info("recovered", what=self._event, failures=self._failures, **self._ids)
            self._failures = 0

    def _is_settled(self) -> bool:
        return self._clock() - self._failed_at >= self._settled_s


class RateLimitedLog:
    """For events that a client or a broken row in Redis can cause repeatedly: each kind has at most one line in
    `every_s`. Its field `unlogged` counts those of that kind without a line since then; they are logged at debug level.
    """

    def __init__(self, log: Logger, event: str, **rules: Any) -> None:
        """`rules`: arguments of _RateLimit."""
        self._logger = log
        self._event = event
        self._seldom = _RateLimit(**rules)

    def log(self, kind: Hashable = "", /, *, level: int = logging.WARNING, **fields: object) -> None:
        unlogged = self._seldom.unlogged(kind)
        if unlogged:
            fields["unlogged"] = unlogged
        self._logger.log(logging.DEBUG if unlogged is None else level, self._event, **fields)

    def unexpected(self, error: BaseException, /, **fields: object) -> None:
        """A bug of the relay: an error, with a traceback. Bugs at different places are different kinds."""
        self.log(_place(error), level=logging.ERROR, exc_info=error, **fields)


class _RateLimit:
    """Which of many occurrences are due for a line; thread-safe. Kinds beyond `kinds` count as one more kind."""

    def __init__(self, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic, kinds: int = 256) -> None:
        self._every_s = every_s
        self._clock = clock
        self._kinds = kinds
        self._told: dict[Hashable, tuple[float, int]] = {}  # kind → when last logged, and how many were not since
        self._lock = threading.Lock()

    def unlogged(self, kind: Hashable) -> int | None:
        """How many of this kind were not logged since the last line; None: this one must not be logged either."""
        with self._lock:
            now = self._clock()
            if kind not in self._told and len(self._told) >= self._kinds:
                self._forget(now)
                kind = kind if len(self._told) < self._kinds else "others"
            logged_at, unlogged = self._told.get(kind, (-math.inf, 0))
            is_due = now - logged_at >= self._every_s
            self._told[kind] = (now, 0) if is_due else (logged_at, unlogged + 1)
            return unlogged if is_due else None

    def _forget(self, now: float) -> None:
        """Make room. The unlogged counts of removed kinds are added to those of "others"."""
        kept = {kind: known for kind, known in self._told.items() if now - known[0] < self._every_s}
        logged_at, unlogged = self._told.get("others", (-math.inf, 0))
        unlogged += sum(known[1] for kind, known in self._told.items() if kind not in kept and kind != "others")
        self._told = kept | {"others": (logged_at, unlogged)} if unlogged else kept


class _LibraryHandler(logging.StreamHandler[TextIO]):
    """A record that does not fit its format is logged by its place: Python would print the arguments, which may be
    anything.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        get_logger(record.name).error("unreadable_log_line", place=f"{record.pathname}:{record.lineno}")


class _RateLimitPerSite(logging.Filter):
    """A client can cause some log lines of libraries as often as it likes. `unlogged`: as in RateLimitedLog."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = _RateLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        if (record.name, record.msg) in _LOGGED_BY_US:
            return False
        error = record.exc_info[1] if record.exc_info else None
        place: Hashable = (record.pathname, record.lineno, error and _place(error))
        if record.name == "py.warnings":  # all are logged from one place; the text begins with their own
            place = record.getMessage().partition("\n")[0]
        unlogged = self._seldom.unlogged((record.name, place))
        record.unlogged = unlogged
        return unlogged is not None


def _place(error: BaseException) -> Hashable:
    """The class, and the line that raised it."""
    frames = list(walk_tb(error.__traceback__))
    return type(error), *((frames[-1][0].f_code.co_filename, frames[-1][1]) if frames else ())
