"""For tests that let a command configure the logs of this very process."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def logs_as_before() -> Iterator[None]:
    """Afterwards they go where they went, as does what would end a thread or the process."""
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    configure = structlog.configure
    try:
        # A logger that keeps its first configuration would write into the command's own stderr ever after.
        structlog.configure = lambda **named: configure(**{**named, "cache_logger_on_first_use": False})
        yield
    finally:
        structlog.configure = configure
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(level)
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
